"""Whether a frame's own steps work on a device: each is tried once against its plain twin before a frame has it."""

import math
import warnings
from functools import cache

import torch

from sdstream.diffusion.fused.pointwise import add_bias_in_one, doubled_in_one, plain_add_bias, plain_doubled
from sdstream.diffusion.fused.switch import join_steps_on
from sdstream.diffusion.fused.trial import TOLERANCE
from sdstream.diffusion.latents import Way, closed, opened, plain_closed, plain_opened
from sdstream.diffusion.pictures import delivered, picture_of_planes, plain_picture_of_planes, planes_of_picture
from sdstream.diffusion.schedule import StepTables
from sdstream.diffusion.state import Conditioning, Knobs, Memory, make_knobs, make_memory, stack
from sdstream.diffusion.trials.failures import FAILURES
from sdstream.errors import first_line

SIDE = 12
"""Of latents. A block of 128 pixels is not full with its second half then."""
WAYS = (Way("self", "epsilon", True, 0), Way("initialize", "v_prediction", True, 1), Way("full", "epsilon", True, 3))
CHANNELS = 64
"""Of a picture inside a network."""
FACTOR = 0.8
LEVELS = 1
"""Of eight bits, by which planes may differ."""


@cache
def try_steps(device: torch.device) -> bool:
    """Have frames join their steps on `device` if that works there, and say whether it does. Warns if not, and why."""
    try:
        problem = why_not(device)
    except FAILURES as error:
        problem = f"{type(error).__name__}: {first_line(error)}"
    if problem:
        warnings.warn(f"steps of frames stay plain on {device}: {problem}", RuntimeWarning, stacklevel=2)
        return False
    join_steps_on(torch.zeros(1, device=device).device)
    return True


def why_not(device: torch.device) -> str:
    """Which step does not do as its plain twin; empty when all do."""
    dtype = torch.float32 if device.type == "cpu" else torch.float16
    generator = torch.Generator().manual_seed(0)
    knobs = stack([made_up(generator, device) for _ in range(2)])
    memory = remembered(knobs, generator)
    for way in WAYS:
        latent = torch.randn(2, 4, SIDE, SIDE, generator=generator).to(device, dtype)
        one, other = (each(latent, FACTOR, knobs, memory, way, dtype) for each in (opened, plain_opened))
        answer = torch.randn(other.rows.shape, generator=generator).to(device, dtype)
        told = (answer, other.noisy, knobs, memory, way, FACTOR, dtype)
        ended, twin = closed(*told, bounded=True), plain_closed(*told, bounded=True)
        pairs = zip((*one, ended.latent, *ended.memory), (*other, twin.latent, *twin.memory), strict=True)
        if any(apart(*pair) > TOLERANCE for pair in pairs):
            return f"latents with guidance {way.guidance!r} are not the plain ones"
    planes = torch.randint(16, 236, (2, 3 * SIDE, 2 * SIDE), generator=generator).to(device, torch.uint8)
    picture = picture_of_planes(planes, dtype, 2.0, -1.0)
    if apart(picture, plain_picture_of_planes(planes, dtype, 2.0, -1.0)) > TOLERANCE:
        return "pictures are not the plain ones"
    made, wanted = planes_of_picture(picture, 0.5, 0.5), delivered(picture.float().mul(0.5).add(0.5))
    if int((made.planes.int() - wanted.planes.int()).abs().max()) > LEVELS or not bool(made.finite.all()):
        return "planes are not the plain ones"
    picture[0, 1, 3, 4] = torch.nan
    finite = planes_of_picture(picture, 0.5, 0.5).finite
    if bool(finite[0]) or not bool(finite[1]):
        return "what is not finite is not found"
    drawn = torch.randn(2, CHANNELS, SIDE, SIDE + 1, generator=generator).to(device, dtype)
    picture = drawn.contiguous(memory_format=torch.channels_last)
    if not torch.equal(doubled_in_one(picture), plain_doubled(picture)):
        return "doubled pictures are not the plain ones"
    bias = drawn[0, :, 0, 0].clone()
    if apart(add_bias_in_one(picture.clone(), bias), plain_add_bias(picture.clone(), bias)) > TOLERANCE:
        return "pictures with biases are not the plain ones"
    return ""


def made_up(generator: torch.Generator, device: torch.device, slots: int = 3, channels: int = 4) -> Knobs:
    """Knobs of one stream, with numbers of about the size of true ones."""

    def table(low: float, high: float) -> torch.Tensor:
        return torch.rand(slots, generator=generator) * (high - low) + low

    tables = StepTables(torch.zeros(slots, dtype=torch.int64), *(table(0.3, 1.0) for _ in range(6)))
    text = Conditioning(torch.zeros(0, 0, device=device), torch.zeros(0, device=device))
    noise = torch.randn(slots, channels, SIDE, SIDE, generator=generator).to(device)
    calm = (0.3, float(torch.rand(1, generator=generator)))
    return make_knobs(tables, noise, text, text, guidance=1.7, delta=0.9, calm=calm)


def remembered(knobs: Knobs, generator: torch.Generator) -> Memory:
    """A memory of pictures that came before, in all streams but the first."""
    memory = make_memory(knobs)
    drawn = [torch.randn(tensor.shape, generator=generator).to(tensor) for tensor in memory[:3]]
    buffer, residual, finished = drawn
    pictures = torch.arange(len(finished), device=finished.device)
    return memory._replace(buffer=buffer, residual=residual, finished=finished, pictures=pictures)


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, relative to the largest value of `other`; without end when a number is not finite."""
    if not other.numel():
        return 0.0
    one, other = one.double(), other.double()
    distance = float((one - other).abs().max() / other.abs().max().clamp(min=1e-9))
    return float("inf") if math.isnan(distance) else distance


__all__ = ["made_up", "remembered", "try_steps", "why_not"]
