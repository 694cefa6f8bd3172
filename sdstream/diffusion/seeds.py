"""The noise of a stream, from a seed or a blend of seeds. The same on every device: made on the host in float32."""

import math
from collections.abc import Sequence

import torch

from sdstream.diffusion.blending import Method, blend, normalised

Seed = int | Sequence[tuple[int, float]]
"""One seed, or pairs of seed and weight."""


def make_noise(
    seed: Seed, shape: tuple[int, ...], *, method: Method = "linear", normalise: bool = True
) -> torch.Tensor:
    """Noise of `shape`, float32 on the host; for one seed of mean 0 and variance 1.

    `normalise` scales the weights to a sum of one, and a linear blend back to variance 1: a sum of independent noises
    is weaker than each of them, which would wash pictures out. Raises `ValueError` when there is nothing to normalise.
    """
    if isinstance(seed, int):
        return _noise(seed, shape)
    weights = [weight for _, weight in seed]
    if normalise:
        weights = normalised(weights)
    noises = [_noise(value, shape) for value, _ in seed]
    if normalise and method == "linear":
        power = math.sqrt(sum(weight**2 for weight in _by_seed(seed, weights).values()))
        weights = [weight / max(power, 1e-9) for weight in weights]
    return blend(noises, weights, method)


def first_seed(seed: Seed) -> int:
    """The one number that stands for a seed or a blend of seeds, for draws that are not noise."""
    return seed if isinstance(seed, int) else int(seed[0][0])


def _by_seed(seed: Sequence[tuple[int, float]], weights: Sequence[float]) -> dict[int, float]:
    """Weights by seed: one given twice is the same noise, not an independent one."""
    sums: dict[int, float] = {}
    for (value, _), weight in zip(seed, weights, strict=True):
        sums[value] = sums.get(value, 0.0) + weight
    return sums


def _noise(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))


__all__ = ["Seed", "first_seed", "make_noise"]
