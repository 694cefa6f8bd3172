"""What a frame does with latents around its UNet: noise in, a step of denoising, what is remembered. In torch's own
operations, and the same in one step before the UNet and one after it where `are_steps_joined`.
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch

from sdstream.diffusion.schedule import Prediction
from sdstream.diffusion.state import Knobs, Memory

Guidance = Literal["none", "self", "initialize", "full"]
"""Where the unconditional prediction comes from, and what it costs in rows of the network for N slots:
nowhere (N), the remembered residual (N), the residual begun by the negative prompt (N + 1), the network (2N)."""

_kernels: Any = None
try:
    from sdstream.diffusion.fused import latents_kernels as _made
except ImportError:  # Triton comes with torch for CUDA only
    pass
else:
    _kernels = _made


@dataclass(frozen=True, slots=True)
class Way:
    """How slots are denoised. `moves` says that what is remembered goes one slot on with each picture, and `against`
    how many rows of the network are of the negative prompt."""

    guidance: Guidance
    prediction: Prediction
    moves: bool
    against: int


class Opened(NamedTuple):
    """`noisy` float32 [S, N, C, h, w] is what is denoised, and `rows` the same as the network takes it, [S * (against +
    N), C, h, w]."""

    noisy: torch.Tensor
    rows: torch.Tensor


class Closed(NamedTuple):
    """`memory` without what attention and ControlNets keep, and `latent` of what is finished, [S, C, h, w], as the VAE
    takes it."""

    memory: Memory
    latent: torch.Tensor


def opened(latent: torch.Tensor, factor: float, knobs: Knobs, memory: Memory, way: Way, dtype: torch.dtype) -> Opened:
    """What is denoised when the VAE made `latent` [S, C, h, w], which is multiplied by `factor`, in one step.

    `dtype` is the network's. The plain twin is `plain_opened`.
    """
    tables = (knobs.calm, knobs.alpha, knobs.beta, knobs.noise, memory.buffer)
    noisy, rows = _kernels.opened(latent, memory.finished, memory.pictures, *tables, factor, way.against, dtype)
    return Opened(noisy, rows)


def plain_opened(
    latent: torch.Tensor, factor: float, knobs: Knobs, memory: Memory, way: Way, dtype: torch.dtype
) -> Opened:
    """The same of torch's own operations."""
    noisy = torch.cat((newest(latent, factor, knobs, memory)[:, None], memory.buffer), 1)
    return Opened(noisy, rows_of(noisy, way.against).flatten(0, 1).to(dtype))


def newest(latent: torch.Tensor, factor: float, knobs: Knobs, memory: Memory) -> torch.Tensor:
    """The latent of the picture that comes in, with the noise of the first slot: float32 [S, C, h, w]."""
    started = (memory.pictures > 0).view(-1, 1, 1, 1)
    latent = calmed(latent.float() * factor, knobs.calm[:, 0], memory.finished, started)
    return knobs.alpha[:, 0] * latent + knobs.beta[:, 0] * knobs.noise[:, 0]


def closed(
    answer: torch.Tensor,
    noisy: torch.Tensor,
    knobs: Knobs,
    memory: Memory,
    way: Way,
    divisor: float,
    dtype: torch.dtype,
    *,
    bounded: bool = False,
) -> Closed:
    """What there is after the network's `answer` [S * (against + N), C, h, w] for `noisy`, in one step.

    `divisor` is what latents of the VAE were multiplied by, `dtype` the VAE's; `bounded` ones are held within 3 as the
    small VAE does. The plain twin is `plain_closed`.
    """
    source = {
        "none": 0,
        "self": _kernels.FROM_MEMORY,
        "initialize": _kernels.FROM_OPENING,
        "full": _kernels.FROM_NETWORK,
    }
    made = _kernels.closed(
        answer,
        noisy,
        memory.residual,
        knobs.noise,
        knobs.alpha,
        knobs.beta,
        knobs.next_alpha,
        knobs.next_beta,
        knobs.skip,
        knobs.out,
        knobs.guidance,
        knobs.delta,
        knobs.renoise,
        knobs.calm,
        memory.finished,
        memory.pictures,
        source[way.guidance],
        way.prediction == "v_prediction",
        way.moves,
        bounded,
        divisor,
        way.against,
        dtype,
    )
    buffer, residual, finished, pictures, latent = made
    kept = memory._replace(buffer=buffer, residual=residual, finished=finished, pictures=pictures)
    return Closed(kept, latent)


def plain_closed(
    answer: torch.Tensor,
    noisy: torch.Tensor,
    knobs: Knobs,
    memory: Memory,
    way: Way,
    divisor: float,
    dtype: torch.dtype,
    *,
    bounded: bool = False,
) -> Closed:
    """The same of torch's own operations."""
    predicted, unconditional = predictions(answer, noisy, knobs, way)
    residual = memory.residual
    if way.moves:
        residual = torch.cat((knobs.noise[:, :1], residual[:, :-1]), 1)
    pictures, residual = denoised(predicted, unconditional, noisy, knobs, residual, way, opens=True)
    buffer = renoised(pictures[:, :-1], knobs, 1, noisy.shape[1])
    kept = ended(pictures[:, -1], knobs, memory._replace(buffer=buffer, residual=residual))
    return Closed(kept, unscaled(kept.finished, divisor, dtype, bounded=bounded))


def predictions(answer: torch.Tensor, noisy: torch.Tensor, knobs: Knobs, way: Way) -> tuple[torch.Tensor, torch.Tensor]:
    """The noise that the network saw in each slot of `noisy` [S, K, C, h, w] with the prompt, float32 in that shape,
    and with the negative prompt, [S, against, C, h, w]."""
    against = way.against
    predicted = answer.view(len(noisy), -1, *answer.shape[1:]).float()
    if way.prediction == "v_prediction":
        alpha, beta, latents = (rows_of(each, against) for each in (knobs.alpha, knobs.beta, noisy))
        predicted = alpha * predicted + beta * latents
    return predicted[:, against:], predicted[:, :against]


def denoised(
    predicted: torch.Tensor,
    unconditional: torch.Tensor,
    noisy: torch.Tensor,
    knobs: Knobs,
    residual: torch.Tensor,
    way: Way,
    *,
    opens: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The pictures seen in `noisy` [S, K, C, h, w], and the residuals of the slots after.

    `opens` says that the first given slot is the one where denoising begins.
    """
    guidance = way.guidance
    if guidance == "initialize" and opens:
        residual = torch.cat((unconditional, residual[:, 1:]), 1)
    if guidance != "none":
        if guidance != "full":
            unconditional = residual * knobs.delta
        guided = unconditional + knobs.guidance * (predicted - unconditional)
        # Chosen, not computed: with guidance off the residual may be anything, and infinity times nothing is not 0.
        predicted = torch.where(knobs.guidance > 1.0, guided, predicted)
    pictures = _picture(predicted, noisy, knobs)
    if guidance in ("self", "initialize"):
        change = _picture(predicted, knobs.beta * residual, knobs) * knobs.next_alpha / knobs.next_beta
        residual = torch.roll(knobs.noise, -1, 1)[:, : noisy.shape[1]] + change
    return pictures, residual


def renoised(pictures: torch.Tensor, knobs: Knobs, first: int, end: int) -> torch.Tensor:
    """`pictures` with the noise of the slots `first` to `end`, where they are denoised next."""
    noise = knobs.renoise * knobs.beta[:, first:end] * knobs.noise[:, first:end]
    return knobs.alpha[:, first:end] * pictures + noise


def ended(finished: torch.Tensor, knobs: Knobs, memory: Memory) -> Memory:
    """`memory` with the latent [S, C, h, w] that leaves.

    What leaves first of slots that were not filled is no picture, and says so by how many came.
    """
    started = (memory.pictures > 0).view(-1, 1, 1, 1)
    finished = calmed(finished, knobs.calm[:, 1], memory.finished, started)
    return memory._replace(finished=finished, pictures=memory.pictures + 1)


def unscaled(finished: torch.Tensor, divisor: float, dtype: torch.dtype, *, bounded: bool) -> torch.Tensor:
    """`finished` float32 [S, C, h, w] as the VAE takes it."""
    latent = finished / divisor
    return (torch.tanh(latent / 3) * 3 if bounded else latent).to(dtype)


def calmed(latent: torch.Tensor, share: torch.Tensor, before: torch.Tensor, started: torch.Tensor) -> torch.Tensor:
    """`latent` with a share of the one before, where there is one. Exactly itself where the share is 0."""
    mixed = latent + share * (before - latent)
    return torch.where(started & (share > 0), mixed, latent)


def rows_of(values: torch.Tensor, against: int) -> torch.Tensor:
    """[S, K, ...] with the first `against` once more before all, for the negative prompt."""
    return torch.cat((values[:, :against], values), 1) if against else values


def _picture(predicted: torch.Tensor, noisy: torch.Tensor, knobs: Knobs) -> torch.Tensor:
    """The picture in `noisy` if `predicted` is its noise, under a consistency model's boundary condition."""
    return knobs.out * ((noisy - knobs.beta * predicted) / knobs.alpha) + knobs.skip * noisy


__all__ = [
    "Closed",
    "Guidance",
    "Opened",
    "Way",
    "calmed",
    "closed",
    "denoised",
    "ended",
    "newest",
    "opened",
    "plain_closed",
    "plain_opened",
    "predictions",
    "renoised",
    "rows_of",
    "unscaled",
]
