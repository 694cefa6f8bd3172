"""One picture's way through the networks, for S streams of N denoising slots at once, as a function of tensors.

Nothing here looks at a value: no branch, no random number, no copy to the host. What depends on a person is a knob and
so an input; what depends on the shape of the work (`slots`, `guidance`, ...) is fixed when the frame is made.

Slot i holds the picture that arrived i frames ago at step i of its denoising, so one pass of the network takes every
slot one step further and one picture is finished: it leaves N - 1 frames after it came.
"""

from typing import NamedTuple

import torch
from torch import nn

from sdstream.diffusion import latents, pictures
from sdstream.diffusion.controls import Controls
from sdstream.diffusion.fused.switch import are_blocks_fused, are_steps_joined
from sdstream.diffusion.latents import Closed, Guidance, Way, rows_of
from sdstream.diffusion.networks import Networks
from sdstream.diffusion.planes import rgb_from_packed
from sdstream.diffusion.question import Prepared, Question, Subject
from sdstream.diffusion.schedule import Prediction
from sdstream.diffusion.state import Knobs, Memory, unprepared


class Result(NamedTuple):
    """What a frame gives: `image` [S, 3, H, W], about 0 to 1, `latent` float32 [S, C, h, w] and the new memory.

    A `whole` frame gives the picture as packed I420, too, `planes` uint8 [S, 3H/2, W], and whether it is made of finite
    numbers, `finite` bool [S].
    """

    image: torch.Tensor
    latent: torch.Tensor
    memory: Memory
    planes: torch.Tensor | None = None
    finite: torch.Tensor | None = None


class Frame(nn.Module):
    """The function. The networks keep their own types, the latents are float32.

    `compat` brings back what upstream does at one slot with "self": the residual is never refreshed there and can grow
    without bound. With `batched` false the slots of one picture follow each other within one frame: the plain twin,
    whose picture at frame k is the batched one at frame k + N - 1 as long as no knob is turned.

    `controls` are ControlNets, whose pictures come in beside the camera's. `aligned` gives each slot the control
    picture that came with its own; otherwise all are given the newest, which steers N - 1 pictures sooner.

    With `whole` all that is done with every picture is in the frame, and so in what is captured or compiled of it:
    planes go in and come out.
    """

    def __init__(
        self,
        networks: Networks,
        *,
        slots: int,
        guidance: Guidance = "self",
        prediction: Prediction = "epsilon",
        batched: bool = True,
        compat: bool = False,
        controls: Controls | None = None,
        aligned: bool = True,
        whole: bool = False,
    ) -> None:
        super().__init__()
        if slots < 1:
            raise ValueError(f"a frame has at least one slot, not {slots}")
        if compat and not batched:
            raise ValueError("compat is about the batched frame only")
        self.networks = networks
        self.slots = slots
        self.guidance: Guidance = guidance
        self.prediction: Prediction = prediction
        self.batched = batched
        self.compat = compat
        self.controls = controls
        self.aligned = aligned
        self.whole = whole

    def forward(self, image: torch.Tensor, knobs: Knobs, memory: Memory) -> Result:
        """`image` float [S, 3 + channels, H, W], 0 to 1: the picture, and the control pictures of `controls` if any.

        Without control pictures it can be uint8 [S, 3H/2, W], too: packed I420, BT.601, limited range.
        """
        control = None
        if self.controls is not None:
            if image.dtype == torch.uint8:
                image = rgb_from_packed(image)
            control = image[:, None, 3:].to(knobs.frame_control.dtype)
        joined = are_steps_joined(image)
        latent = self._encode(image, joined)
        if self.batched:
            closed = self._together(latent, control, knobs, memory, joined)
        else:
            closed = self._one_after_another(latent, control, knobs, memory, joined)
        if joined and self.whole:
            return self._delivered(closed)
        image = self.networks.decode(closed.latent).float().mul(0.5).add_(0.5)
        return self.deliver(image, closed.memory.finished, closed.memory)

    @torch.no_grad()
    def complete(self, knobs: Knobs) -> Knobs:
        """`knobs` with what the networks make of them alone, `context` and `shifts`, for this frame to use.

        To be done whenever a knob was turned or a weight has changed. Without it the frame makes all of it each time,
        as it does where the networks prepare nothing. ControlNets have their parts after the UNet's.
        """
        knobs = unprepared(knobs)
        if not are_blocks_fused():
            return knobs
        against = self._against(self.slots, 1)
        streams = len(knobs.prompt)

        def each(values: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
            """The texts that differ: that of the negative prompt, where it is used, and that of the prompt."""
            return torch.stack((negative, values) if against else (values,), 1).flatten(0, 1).to(self.networks.dtype)

        def rows(values: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
            both = torch.cat((_repeat(negative, against), _repeat(values, self.slots)), 1)
            return both.flatten(0, 1).to(self.networks.dtype)

        is_xl = self.networks.is_xl
        subject = Subject(
            torch.cat((knobs.timesteps[:, :against], knobs.timesteps), 1).flatten(),
            each(knobs.prompt, knobs.negative),
            rows(knobs.pooled_prompt, knobs.pooled_negative) if is_xl else None,
            rows(knobs.time_ids, knobs.time_ids) if is_xl else None,
            each(knobs.style, knobs.unstyled) if knobs.style.shape[1] else None,
        )
        made = self.networks.prepare(subject)
        if made is None:
            return knobs
        contexts, shifts = [made.context], [made.shifts]
        if self.controls is not None:
            more, others = self.controls.prepare(subject, self.networks.dtype)
            contexts, shifts = contexts + more, shifts + others
        context, shift = torch.cat(contexts, 1).to(knobs.context.dtype), torch.cat(shifts, 1).to(knobs.shifts.dtype)
        return knobs._replace(context=context.unflatten(0, (streams, -1)), shifts=shift.unflatten(0, (streams, -1)))

    def deliver(self, image: torch.Tensor, latent: torch.Tensor, memory: Memory) -> Result:
        """What the frame gives when this is what was made."""
        if not self.whole:
            return Result(image, latent, memory)
        joined = are_steps_joined(image)
        made = pictures.planes_of_picture(image, 1.0, 0.0) if joined else pictures.delivered(image)
        return Result(made.image, latent, memory, made.planes, made.finite)

    def _together(
        self, latent: torch.Tensor, control: torch.Tensor | None, knobs: Knobs, memory: Memory, joined: bool
    ) -> Closed:
        networks, slots = self.networks, self.slots
        way = self._way(slots, 1, moves=slots > 1 or not self.compat)
        open_slots = latents.opened if joined else latents.plain_opened
        noisy, rows = open_slots(latent, networks.scaling_factor, knobs, memory, way, networks.dtype)
        ring = memory.control
        if control is not None:
            control = torch.cat((control, ring), 1) if self.aligned else control.expand(-1, slots, -1, -1, -1)
            ring = control[:, :-1]
        moment = _Moment(control, memory.bank, _fresh(memory, slots))
        answer, own = self._predict(rows, knobs, moment, way.against)
        close = latents.closed if joined else latents.plain_closed
        scales = (networks.scaling_factor, networks.vae_dtype)
        closed = close(answer, noisy, knobs, memory, way, *scales, bounded=self._is_bounded(joined))
        kept = closed.memory._replace(control=ring)
        return closed._replace(memory=_remember(kept, knobs, own, moment.fresh))

    def _one_after_another(
        self, latent: torch.Tensor, control: torch.Tensor | None, knobs: Knobs, memory: Memory, joined: bool
    ) -> Closed:
        networks = self.networks
        residual = knobs.noise[:, :1]
        noisy = latents.newest(latent, networks.scaling_factor, knobs, memory)[:, None]
        seen = noisy
        owns: list[torch.Tensor] = []
        fresh = None if not memory.bank.shape[2] else memory.recalled[:, None] == 0
        for slot in range(self.slots):
            if slot > 0:
                noisy = latents.renoised(seen, knobs, slot, slot + 1)
            moment = _Moment(control, memory.bank[:, slot : slot + 1], fresh)
            way, own_knobs = self._way(1, int(slot == 0)), self._slot_of(knobs, slot)
            rows = rows_of(noisy, way.against).flatten(0, 1).to(networks.dtype)
            answer, own = self._predict(rows, own_knobs, moment, way.against)
            predicted, unconditional = latents.predictions(answer, noisy, own_knobs, way)
            seen, residual = latents.denoised(
                predicted, unconditional, noisy, own_knobs, residual, way, opens=slot == 0
            )
            owns.append(own)
        memory = latents.ended(seen[:, -1], knobs, memory)
        bounded = self._is_bounded(joined)
        unscaled = latents.unscaled(memory.finished, networks.scaling_factor, networks.vae_dtype, bounded=bounded)
        return Closed(_remember(memory, knobs, torch.cat(owns, 1), fresh), unscaled)

    def _predict(
        self, noisy: torch.Tensor, knobs: Knobs, moment: "_Moment", against: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """What the network answers for `noisy` [S * (against + K), C, h, w] of its own type: K slots with the prompt,
        and before them the first `against` ones with the negative prompt; and the keys and values of this step, [S,
        K, length]."""
        networks, (streams, slots) = self.networks, knobs.timesteps.shape

        def texts(negative: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
            both = _repeat(prompt, slots)
            if against:
                both = torch.cat((_repeat(negative, against), both), 1)
            return both.flatten(0, 1).to(networks.dtype)

        is_xl, has_style = networks.is_xl, bool(knobs.style.shape[1])
        subject = Subject(
            rows_of(knobs.timesteps, against).flatten(),
            texts(knobs.negative, knobs.prompt),
            texts(knobs.pooled_negative, knobs.pooled_prompt) if is_xl else None,
            texts(knobs.time_ids, knobs.time_ids) if is_xl else None,
            texts(knobs.unstyled, knobs.style) if has_style else None,
        )
        strengths = _repeat(knobs.strengths, against + slots).flatten(0, 1) if has_style else None
        question = Question(noisy, subject, None, strengths, self._prepared(knobs, against))
        if self.controls is not None and moment.control is not None:
            seen, scales = rows_of(moment.control, against), rows_of(knobs.steering, against)
            question = question._replace(control=self.controls(question, seen.flatten(0, 1), scales.flatten(0, 1)))
        bank = rows_of(moment.bank, against).flatten(0, 1)
        if bank.shape[1] and moment.fresh is not None:
            fresh = rows_of(moment.fresh.expand(streams, slots), against).flatten()
            answer, own = networks.recall(question, bank, fresh)
            return answer, own.view(streams, against + slots, -1)[:, against:]
        return networks.predict(question), bank.new_zeros((streams, slots, 0))

    def _way(self, slots: int, opening: int, *, moves: bool = False) -> Way:
        return Way(self.guidance, self.prediction, moves, self._against(slots, opening))

    def _slot_of(self, knobs: Knobs, slot: int) -> Knobs:
        """The knobs of one slot, with the noises turned so that its own comes first, and what was prepared for its rows
        of the network."""
        own = {name: getattr(knobs, name)[:, slot : slot + 1] for name in _PER_SLOT}
        if knobs.context.shape[1]:
            before, against = self._against(self.slots, 1), self._against(1, int(slot == 0))
            if against:
                own["shifts"] = knobs.shifts[:, slot : slot + before + 1 : before]
            else:
                own["shifts"] = knobs.shifts[:, before + slot : before + slot + 1]
                own["context"] = knobs.context[:, -1:]  # of the prompt alone
        return knobs._replace(noise=torch.roll(knobs.noise, -slot, 1), **own)

    def _against(self, slots: int, opening: int) -> int:
        """How many of `slots` steps are predicted with the negative prompt, too; `opening` is 1 when they begin."""
        return {"none": 0, "self": 0, "initialize": opening, "full": slots}[self.guidance]

    def _prepared(self, knobs: Knobs, against: int) -> Prepared | None:
        """What `complete` made of the knobs, for the rows of the network; None where it made nothing."""
        slots = knobs.timesteps.shape[1]
        if not knobs.context.shape[1] or not are_blocks_fused():
            return None
        dtype = self.networks.dtype
        context, shifts = knobs.context.to(dtype), knobs.shifts.to(dtype)
        if against not in (0, slots):  # then rows of one text are not as many as those of the other
            context = torch.cat((context[:, :1], _repeat(context[:, 1], slots)), 1)
        tokens, image_tokens = knobs.prompt.shape[1], knobs.style.shape[1]
        return Prepared(context.flatten(0, 1), shifts.flatten(0, 1), tokens, image_tokens)

    def _encode(self, image: torch.Tensor, joined: bool) -> torch.Tensor:
        """The latent of `image` as `forward` takes it, as the VAE gives it. `joined` says that steps are joined."""
        networks = self.networks
        if not joined or image.dtype != torch.uint8:
            if image.dtype == torch.uint8:
                image = rgb_from_packed(image)
            return networks.encode(pictures.ranged(image[:, :3], networks.vae_dtype, *_SIGNED))
        if networks.bare:
            return networks.encode_bare(pictures.picture_of_planes(image, networks.vae_dtype, *_UNSIGNED))
        return networks.encode(pictures.picture_of_planes(image, networks.vae_dtype, *_SIGNED))

    def _is_bounded(self, joined: bool) -> bool:
        """Whether the latent for the VAE is held within bounds before: `_delivered` takes it then."""
        return joined and self.whole and self.networks.bare

    def _delivered(self, closed: Closed) -> Result:
        """What a whole frame gives, in joined steps."""
        networks = self.networks
        if networks.bare:
            made = pictures.planes_of_picture(networks.decode_bare(closed.latent), 1.0, 0.0)
        else:
            made = pictures.planes_of_picture(networks.decode(closed.latent), 0.5, 0.5)
        return Result(made.image, closed.memory.finished, closed.memory, made.planes, made.finite)


_SIGNED, _UNSIGNED = (2.0, -1.0), (1.0, 0.0)
"""By which colours of 0 to 1 are multiplied, and what is added then, for a VAE and for one that is bare."""


class _Moment(NamedTuple):
    """What the slots of one step are given besides latents: `control` [S, K, channels, H, W], `bank` [S, K, pictures,
    length], and `fresh` bool [S, K], those whose bank holds nothing of theirs yet; None where there is
    no bank."""

    control: torch.Tensor | None
    bank: torch.Tensor
    fresh: torch.Tensor | None


def _fresh(memory: Memory, slots: int) -> torch.Tensor | None:
    """The slots whose bank holds nothing of theirs yet; None where there is no bank."""
    if not memory.bank.shape[2]:
        return None
    return memory.recalled[:, None] <= torch.arange(slots, device=memory.recalled.device)


def _remember(memory: Memory, knobs: Knobs, own: torch.Tensor, fresh: torch.Tensor | None) -> Memory:
    """`memory` with the keys and values `own` [S, N, length] kept, when it is time."""
    if not own.shape[2] or fresh is None:
        return memory
    age = memory.age + 1
    due = age >= knobs.every
    newer = torch.cat((own[:, :, None], memory.bank[:, :, :-1]), 2)
    bank = torch.where(due[..., None, None], newer, memory.bank)
    bank = torch.where(fresh[..., None, None], own[:, :, None], bank)  # the first fill all places
    age = torch.where(due, torch.zeros_like(age), age)
    return memory._replace(bank=bank, age=age, recalled=memory.recalled + 1)


_PER_SLOT = ("timesteps", "alpha", "beta", "next_alpha", "next_beta", "skip", "out", "steering")


def _repeat(values: torch.Tensor, times: int) -> torch.Tensor:
    """[S, ...] as [S, times, ...]."""
    return values[:, None].expand(-1, times, *(-1 for _ in values.shape[1:]))


__all__ = ["Frame", "Guidance", "Result"]
