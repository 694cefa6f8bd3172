"""One picture's way through the networks, for S streams of N denoising slots at once, as a function of tensors.

Nothing here looks at a value: no branch, no random number, no copy to the host. What depends on a person is a knob and
so an input; what depends on the shape of the work (`slots`, `guidance`, ...) is fixed when the frame is made.

Slot i holds the picture that arrived i frames ago at step i of its denoising, so one pass of the network takes every
slot one step further and one picture is finished: it leaves N - 1 frames after it came.
"""

from typing import Literal, NamedTuple

import torch
from torch import nn

from sdstream.diffusion.controls import Controls
from sdstream.diffusion.fused_switch import are_blocks_fused
from sdstream.diffusion.networks import Networks
from sdstream.diffusion.planes import packed_from_rgb, rgb_from_packed
from sdstream.diffusion.prepared import Prepared
from sdstream.diffusion.schedule import Prediction
from sdstream.diffusion.state import Knobs, Memory, unprepared

Guidance = Literal["none", "self", "initialize", "full"]
"""Where the unconditional prediction comes from, and what it costs in rows of the network for N slots:
nowhere (N), the remembered residual (N), the residual begun by the negative prompt (N + 1), the network (2N)."""


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
        if image.dtype == torch.uint8:
            image = rgb_from_packed(image)
        control = None if self.controls is None else image[:, None, 3:].to(knobs.frame_control.dtype)
        latent = self._encode(image[:, :3])
        started = (memory.pictures > 0).view(-1, 1, 1, 1)
        latent = _calmed(latent, knobs.calm[:, 0], memory.finished, started)
        newest = knobs.alpha[:, 0] * latent + knobs.beta[:, 0] * knobs.noise[:, 0]
        if self.batched:
            finished, memory = self._together(newest[:, None], control, knobs, memory)
        else:
            finished, memory = self._one_after_another(newest[:, None], control, knobs, memory)
        # What leaves first of slots that were not filled is no picture, and says so by how many came.
        finished = _calmed(finished, knobs.calm[:, 1], memory.finished, started)
        memory = memory._replace(finished=finished, pictures=memory.pictures + 1)
        return self.deliver(self._decode(finished), finished, memory)

    @torch.no_grad()
    def complete(self, knobs: Knobs) -> Knobs:
        """`knobs` with what the networks make of them alone, `context` and `shifts`, for this frame to use.

        To be done whenever a knob was turned or a weight has changed. Without it the frame makes all of it each time,
        as it does where the networks prepare nothing, and where slots follow each other.
        """
        knobs = unprepared(knobs)
        if not self.batched or not are_blocks_fused():
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
        made = self.networks.prepare(
            torch.cat((knobs.timesteps[:, :against], knobs.timesteps), 1).flatten(),
            each(knobs.prompt, knobs.negative),
            rows(knobs.pooled_prompt, knobs.pooled_negative) if is_xl else None,
            rows(knobs.time_ids, knobs.time_ids) if is_xl else None,
            each(knobs.style, knobs.unstyled) if knobs.style.shape[1] else None,
        )
        if made is None:
            return knobs
        context, shifts = made.context.to(knobs.context.dtype), made.shifts.to(knobs.shifts.dtype)
        return knobs._replace(context=context.unflatten(0, (streams, -1)), shifts=shifts.unflatten(0, (streams, -1)))

    def deliver(self, image: torch.Tensor, latent: torch.Tensor, memory: Memory) -> Result:
        """What the frame gives when this is what was made."""
        if not self.whole:
            return Result(image, latent, memory)
        finite = image.flatten(1).sum(1).isfinite()
        return Result(image, latent, memory, packed_from_rgb(image.clamp(0, 1)), finite)

    def _together(
        self, newest: torch.Tensor, control: torch.Tensor | None, knobs: Knobs, memory: Memory
    ) -> tuple[torch.Tensor, Memory]:
        noisy = torch.cat((newest, memory.buffer), 1)
        residual = memory.residual
        if self.slots > 1 or not self.compat:
            residual = torch.cat((knobs.noise[:, :1], residual[:, :-1]), 1)
        ring = memory.control
        if control is not None:
            control = torch.cat((control, ring), 1) if self.aligned else control.expand(-1, self.slots, -1, -1, -1)
            ring = control[:, :-1]
        order = torch.arange(self.slots, device=newest.device)
        moment = _Moment(control, memory.bank, memory.recalled[:, None] <= order)
        pictures, residual, own = self._step(noisy, knobs, moment, residual, opens=True)
        kept = memory._replace(buffer=_renoise(pictures[:, :-1], knobs, 1, self.slots), residual=residual, control=ring)
        return pictures[:, -1], _remember(kept, knobs, own, moment.fresh)

    def _one_after_another(
        self, noisy: torch.Tensor, control: torch.Tensor | None, knobs: Knobs, memory: Memory
    ) -> tuple[torch.Tensor, Memory]:
        residual = knobs.noise[:, :1]
        pictures = noisy
        owns: list[torch.Tensor] = []
        fresh = memory.recalled[:, None] == 0
        for slot in range(self.slots):
            if slot > 0:
                noisy = _renoise(pictures, knobs, slot, slot + 1)
            moment = _Moment(control, memory.bank[:, slot : slot + 1], fresh)
            pictures, residual, own = self._step(noisy, _slots(knobs, slot), moment, residual, opens=slot == 0)
            owns.append(own)
        return pictures[:, -1], _remember(memory, knobs, torch.cat(owns, 1), fresh)

    def _step(
        self, noisy: torch.Tensor, knobs: Knobs, moment: "_Moment", residual: torch.Tensor, *, opens: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Denoise every given slot: the pictures seen in `noisy` [S, K, C, h, w], the residuals of the slots after, and
        the keys and values of this step [S, K, length].

        `opens` says that the first given slot is the one where denoising begins.
        """
        slots = noisy.shape[1]
        predicted, unconditional, own = self._predict(noisy, knobs, moment, 1 if opens else 0)
        if self.guidance == "initialize" and opens:
            residual = torch.cat((unconditional, residual[:, 1:]), 1)
        if self.guidance != "none":
            if self.guidance != "full":
                unconditional = residual * knobs.delta
            guided = unconditional + knobs.guidance * (predicted - unconditional)
            # Chosen, not computed: with guidance off the residual may be anything, and infinity times nothing is not 0.
            predicted = torch.where(knobs.guidance > 1.0, guided, predicted)
        pictures = _picture(predicted, noisy, knobs)
        if self.guidance in ("self", "initialize"):
            change = _picture(predicted, knobs.beta * residual, knobs) * knobs.next_alpha / knobs.next_beta
            residual = _next_noise(knobs, slots) + change
        return pictures, residual, own

    def _predict(
        self, noisy: torch.Tensor, knobs: Knobs, moment: "_Moment", opening: int
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The noise that the network sees in each slot, with the prompt and, for as many slots as the kind of guidance
        asks for, with the negative prompt: [S, K, C, h, w] and [S, 0..K, C, h, w]; and `_step`'s keys and values."""
        networks, streams, slots = self.networks, *noisy.shape[:2]
        against = self._against(slots, opening)

        def rows(values: torch.Tensor) -> torch.Tensor:
            return torch.cat((values[:, :against], values), 1) if against else values

        def texts(negative: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
            both = _repeat(prompt, slots)
            if against:
                both = torch.cat((_repeat(negative, against), both), 1)
            return both.flatten(0, 1).to(networks.dtype)

        latents = rows(noisy)
        is_xl = networks.is_xl
        inputs = (
            latents.flatten(0, 1).to(networks.dtype),
            rows(knobs.timesteps).flatten(),
            texts(knobs.negative, knobs.prompt),
            texts(knobs.pooled_negative, knobs.pooled_prompt) if is_xl else None,
            texts(knobs.time_ids, knobs.time_ids) if is_xl else None,
        )
        control = None
        if self.controls is not None and moment.control is not None:
            pictures = rows(moment.control).flatten(0, 1)
            control = self.controls(*inputs, pictures, rows(knobs.steering).flatten(0, 1))
        tokens = strengths = None
        if knobs.style.shape[1]:
            tokens = texts(knobs.unstyled, knobs.style)
            strengths = _repeat(knobs.strengths, against + slots).flatten(0, 1)
        prepared = self._prepared(knobs, against)
        bank = rows(moment.bank).flatten(0, 1)
        if bank.shape[1]:
            fresh = rows(moment.fresh.expand(streams, slots)).flatten()
            answer, own = networks.recall(*inputs, control, tokens, strengths, bank, fresh, prepared)
            own = own.view(streams, against + slots, -1)[:, against:]
        else:
            answer = networks.predict(*inputs, control, tokens, strengths, prepared)
            own = bank.new_zeros((streams, slots, 0))
        predicted = answer.view(streams, -1, *answer.shape[1:]).float()
        if self.prediction == "v_prediction":
            predicted = rows(knobs.alpha) * predicted + rows(knobs.beta) * latents
        return predicted[:, against:], predicted[:, :against], own

    def _against(self, slots: int, opening: int) -> int:
        """How many of `slots` steps are predicted with the negative prompt, too; `opening` is 1 when they begin."""
        return {"none": 0, "self": 0, "initialize": opening, "full": slots}[self.guidance]

    def _prepared(self, knobs: Knobs, against: int) -> Prepared | None:
        """What `complete` made of the knobs, for the rows of the network; None where it made nothing."""
        if not knobs.context.shape[1] or not are_blocks_fused():
            return None
        dtype = self.networks.dtype
        context, shifts = knobs.context.to(dtype), knobs.shifts.to(dtype)
        if against not in (0, self.slots):  # then rows of one text are not as many as those of the other
            context = torch.cat((context[:, :1], _repeat(context[:, 1], self.slots)), 1)
        tokens, image_tokens = knobs.prompt.shape[1], knobs.style.shape[1]
        return Prepared(context.flatten(0, 1), shifts.flatten(0, 1), tokens, image_tokens)

    def _encode(self, image: torch.Tensor) -> torch.Tensor:
        # In place, here and below: at the size of pictures, memory that is asked for anew costs more than the sum.
        latent = self.networks.encode(image.mul(2.0).sub_(1.0).to(self.networks.vae_dtype))
        return latent.float() * self.networks.scaling_factor

    def _decode(self, latent: torch.Tensor) -> torch.Tensor:
        image = self.networks.decode((latent / self.networks.scaling_factor).to(self.networks.vae_dtype))
        return image.float().mul(0.5).add_(0.5)


class _Moment(NamedTuple):
    """What the slots of one step are given besides latents: `control` [S, K, channels, H, W], `bank` [S, K, pictures,
    length], and `fresh` bool [S, K], those whose bank holds nothing of theirs yet."""

    control: torch.Tensor | None
    bank: torch.Tensor
    fresh: torch.Tensor


def _calmed(latent: torch.Tensor, share: torch.Tensor, before: torch.Tensor, started: torch.Tensor) -> torch.Tensor:
    """`latent` with a share of the one before, where there is one. Exactly itself where the share is 0."""
    mixed = latent + share * (before - latent)
    return torch.where(started & (share > 0), mixed, latent)


def _remember(memory: Memory, knobs: Knobs, own: torch.Tensor, fresh: torch.Tensor) -> Memory:
    """`memory` with the keys and values `own` [S, N, length] kept, when it is time."""
    if not own.shape[2]:
        return memory
    age = memory.age + 1
    due = age >= knobs.every
    newer = torch.cat((own[:, :, None], memory.bank[:, :, :-1]), 2)
    bank = torch.where(due[..., None, None], newer, memory.bank)
    bank = torch.where(fresh[..., None, None], own[:, :, None], bank)  # the first fill all places
    age = torch.where(due, torch.zeros_like(age), age)
    return memory._replace(bank=bank, age=age, recalled=memory.recalled + 1)


def _picture(predicted: torch.Tensor, noisy: torch.Tensor, knobs: Knobs) -> torch.Tensor:
    """The picture in `noisy` if `predicted` is its noise, under a consistency model's boundary condition."""
    return knobs.out * ((noisy - knobs.beta * predicted) / knobs.alpha) + knobs.skip * noisy


def _renoise(pictures: torch.Tensor, knobs: Knobs, first: int, end: int) -> torch.Tensor:
    """`pictures` with the noise of the slots `first` to `end`, where they are denoised next."""
    noise = knobs.renoise * knobs.beta[:, first:end] * knobs.noise[:, first:end]
    return knobs.alpha[:, first:end] * pictures + noise


def _slots(knobs: Knobs, slot: int) -> Knobs:
    """The knobs of one slot, with the noises turned so that its own comes first."""
    own = {name: getattr(knobs, name)[:, slot : slot + 1] for name in _PER_SLOT}
    return knobs._replace(noise=torch.roll(knobs.noise, -slot, 1), **own)


_PER_SLOT = ("timesteps", "alpha", "beta", "next_alpha", "next_beta", "skip", "out", "steering")


def _next_noise(knobs: Knobs, slots: int) -> torch.Tensor:
    """The noise of the slot after each of the first `slots` ones."""
    return torch.roll(knobs.noise, -1, 1)[:, :slots]


def _repeat(values: torch.Tensor, times: int) -> torch.Tensor:
    """[S, ...] as [S, times, ...]."""
    return values[:, None].expand(-1, times, *(-1 for _ in values.shape[1:]))


__all__ = ["Frame", "Guidance", "Result"]
