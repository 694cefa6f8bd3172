"""Runs of the frame over made-up pictures, shared by the tests."""

from collections.abc import Sequence
from typing import Any

import torch

from sdstream.diffusion.frame import Frame, Result
from sdstream.diffusion.loading.models import Model
from sdstream.diffusion.networks import EagerNetworks
from sdstream.diffusion.seeds import make_noise
from sdstream.diffusion.state import Knobs, Memory, make_knobs, make_memory

SIZE = 64
STEPS: dict[int, tuple[int, ...]] = {1: (32,), 2: (32, 45), 3: (12, 20, 32), 4: (0, 16, 32, 45)}


def pictures(count: int, seed: int = 0) -> list[torch.Tensor]:
    """float32 [1, 3, 64, 64], 0 to 1."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(1, 3, SIZE, SIZE, generator=generator) for _ in range(count)]


def knobs_of(
    model: Model,
    steps: Sequence[int] = STEPS[2],
    *,
    prompt: str = "the cat",
    negative: str = "an hat",
    seed: int = 2,
    length: int = 50,
    **numbers: Any,
) -> Knobs:
    return make_knobs(
        model.schedule.tables(steps, length),
        make_noise(seed, (len(steps), *model.latent_shape(SIZE, SIZE))),
        model.prompts.encode(prompt).conditioning,
        model.prompts.encode_negative(negative).conditioning,
        time_ids=model.time_ids(SIZE, SIZE),
        **numbers,
    )


def frame_of(model: Model, slots: int, guidance: Any = "self", **options: Any) -> Frame:
    networks = EagerNetworks(model.unet, model.vae)
    return Frame(networks, slots=slots, guidance=guidance, prediction=model.schedule.prediction, **options)


def run(frame: Frame, knobs: Knobs, images: Sequence[torch.Tensor], memory: Memory | None = None) -> list[Result]:
    results: list[Result] = []
    memory = make_memory(knobs) if memory is None else memory
    for image in images:
        results.append(frame(image, knobs, memory))
        memory = results[-1].memory
    return results


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    """The largest difference, relative to the largest value of `other`."""
    assert one.shape == other.shape
    if not other.numel():
        return 0.0
    return (abs(one - other).max() / abs(other).max().clamp(min=1e-9 if other.is_floating_point() else 1)).item()
