"""One picture's way through the networks, for S streams of N denoising slots at once, as a function of tensors.

Nothing here looks at a value: no branch, no random number, no copy to the host. What depends on a person is a knob and
so an input; what depends on the shape of the work (`slots`, `guidance`, ...) is fixed when the frame is made.

Slot i holds the picture that arrived i frames ago at step i of its denoising, so one pass of the network takes every
slot one step further and one picture is finished: it leaves N - 1 frames after it came.
"""

from typing import Literal, NamedTuple

import torch
from torch import nn

from sdstream.diffusion.networks import Networks
from sdstream.diffusion.schedule import Prediction
from sdstream.diffusion.state import Knobs, Memory

Guidance = Literal["none", "self", "initialize", "full"]
"""Where the unconditional prediction comes from, and what it costs in rows of the network for N slots:
nowhere (N), the remembered residual (N), the residual begun by the negative prompt (N + 1), the network (2N)."""


class Result(NamedTuple):
    """What a frame gives: `image` [S, 3, H, W], about 0 to 1, `latent` float32 [S, C, h, w] and the new memory."""

    image: torch.Tensor
    latent: torch.Tensor
    memory: Memory


class Frame(nn.Module):
    """The function. The networks keep their own types, the latents are float32.

    `compat` brings back what upstream does at one slot with "self": the residual is never refreshed there and can grow
    without bound. With `batched` false the slots of one picture follow each other within one frame: the plain twin,
    whose picture at frame k is the batched one at frame k + N - 1 as long as no knob is turned.
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

    def forward(self, image: torch.Tensor, knobs: Knobs, memory: Memory) -> Result:
        """`image` float [S, 3, H, W], 0 to 1."""
        latent = self._encode(image)
        newest = knobs.alpha[:, 0] * latent + knobs.beta[:, 0] * knobs.noise[:, 0]
        if self.batched:
            finished, memory = self._together(newest[:, None], knobs, memory)
        else:
            finished = self._one_after_another(newest[:, None], knobs)
        return Result(self._decode(finished), finished, memory)

    def _together(self, newest: torch.Tensor, knobs: Knobs, memory: Memory) -> tuple[torch.Tensor, Memory]:
        noisy = torch.cat((newest, memory.buffer), 1)
        residual = memory.residual
        if self.slots > 1 or not self.compat:
            residual = torch.cat((knobs.noise[:, :1], residual[:, :-1]), 1)
        pictures, residual = self._step(noisy, knobs, residual, opens=True)
        buffer = _renoise(pictures[:, :-1], knobs, 1, self.slots)
        return pictures[:, -1], Memory(buffer, residual)

    def _one_after_another(self, noisy: torch.Tensor, knobs: Knobs) -> torch.Tensor:
        residual = knobs.noise[:, :1]
        pictures = noisy
        for slot in range(self.slots):
            if slot > 0:
                noisy = _renoise(pictures, knobs, slot, slot + 1)
            pictures, residual = self._step(noisy, _slots(knobs, slot), residual, opens=slot == 0)
        return pictures[:, -1]

    def _step(
        self, noisy: torch.Tensor, knobs: Knobs, residual: torch.Tensor, *, opens: bool
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Denoise every given slot: the pictures seen in `noisy` [S, K, C, h, w], and the residuals of the slots after.

        `opens` says that the first given slot is the one where denoising begins.
        """
        slots = noisy.shape[1]
        predicted, unconditional = self._predict(noisy, knobs, 1 if opens else 0)
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
        return pictures, residual

    def _predict(self, noisy: torch.Tensor, knobs: Knobs, opening: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The noise that the network sees in each slot, with the prompt and, for as many slots as the kind of guidance
        asks for, with the negative prompt: [S, K, C, h, w] and [S, 0..K, C, h, w]."""
        networks, slots = self.networks, noisy.shape[1]
        against = {"none": 0, "self": 0, "initialize": opening, "full": slots}[self.guidance]

        def rows(values: torch.Tensor) -> torch.Tensor:
            return torch.cat((values[:, :against], values), 1)

        def texts(negative: torch.Tensor, prompt: torch.Tensor) -> torch.Tensor:
            return torch.cat((_repeat(negative, against), _repeat(prompt, slots)), 1).flatten(0, 1).to(networks.dtype)

        latents = rows(noisy)
        is_xl = networks.is_xl
        answer = networks.predict(
            latents.flatten(0, 1).to(networks.dtype),
            rows(knobs.timesteps).flatten(),
            texts(knobs.negative, knobs.prompt),
            texts(knobs.pooled_negative, knobs.pooled_prompt) if is_xl else None,
            texts(knobs.time_ids, knobs.time_ids) if is_xl else None,
        )
        predicted = answer.view(noisy.shape[0], -1, *answer.shape[1:]).float()
        if self.prediction == "v_prediction":
            predicted = rows(knobs.alpha) * predicted + rows(knobs.beta) * latents
        return predicted[:, against:], predicted[:, :against]

    def _encode(self, image: torch.Tensor) -> torch.Tensor:
        latent = self.networks.encode((image * 2.0 - 1.0).to(self.networks.vae_dtype))
        return latent.float() * self.networks.scaling_factor

    def _decode(self, latent: torch.Tensor) -> torch.Tensor:
        image = self.networks.decode((latent / self.networks.scaling_factor).to(self.networks.vae_dtype))
        return image.float() * 0.5 + 0.5


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


_PER_SLOT = ("timesteps", "alpha", "beta", "next_alpha", "next_beta", "skip", "out")


def _next_noise(knobs: Knobs, slots: int) -> torch.Tensor:
    """The noise of the slot after each of the first `slots` ones."""
    return torch.roll(knobs.noise, -1, 1)[:, :slots]


def _repeat(values: torch.Tensor, times: int) -> torch.Tensor:
    """[S, ...] as [S, times, ...]."""
    return values[:, None].expand(-1, times, *(-1 for _ in values.shape[1:]))


__all__ = ["Frame", "Guidance", "Result"]
