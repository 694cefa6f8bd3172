"""Blends of tensors by weight: along straight lines, or along the sphere for any number of tensors. Pure, no sync."""

from collections.abc import Sequence
from typing import Literal

import torch

Method = Literal["linear", "slerp"]

ROUNDS = 16
"""Of the search for the spherical mean: the first is exact for two, and each further one gains about two digits."""
LEAST = 1e-9


def normalised(weights: Sequence[float]) -> list[float]:
    """`weights` scaled to a sum of one. Raises `ValueError` when they sum to nothing or less."""
    total = sum(weights)
    if not total > 0:
        raise ValueError("weights that are to be normalised must have a sum above 0")
    return [weight / total for weight in weights]


def blend(tensors: Sequence[torch.Tensor], weights: Sequence[float], method: Method) -> torch.Tensor:
    """The blend of tensors of one shape; the result has the type of the first."""
    if len(tensors) != len(weights) or not tensors:
        raise ValueError("a blend needs one weight for each tensor, and at least one")
    return linear(tensors, weights) if method == "linear" else slerp(tensors, weights)


def linear(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """The weighted sum; the weights are taken as they are."""
    total = sum(tensor.double() * weight for tensor, weight in zip(tensors, weights, strict=True))
    assert isinstance(total, torch.Tensor)
    return total.to(tensors[0].dtype)


def slerp(tensors: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    """The weighted mean on the sphere, whole tensors being its points; their order means nothing.

    The direction is the point whose weighted squared angles to all are least, which for two points is their slerp; the
    length is the weighted mean of lengths, times the sum of the weights. Where weights sum to nothing or less there is
    no mean, and the blend is linear.
    """
    total = sum(weights)
    if len(tensors) == 1 or not total > LEAST:
        return linear(tensors, weights)
    points = torch.stack([tensor.double().flatten() for tensor in tensors])
    shares = torch.tensor([weight / total for weight in weights], dtype=torch.float64, device=points.device)
    lengths = _length(points)
    directions = points / lengths.clamp(min=LEAST)[:, None]
    heaviest = directions[shares.abs().argmax()]
    mean = shares @ directions
    # Opposite points of equal weight have no mean: any of the great circles would do, so stay at the heaviest.
    mean = torch.where(_length(mean) > 1e-6, mean / _length(mean).clamp(min=LEAST), heaviest)
    for _ in range(ROUNDS):
        cosines = (directions @ mean).clamp(-1, 1)
        across = directions - cosines[:, None] * mean
        sines = _length(across)
        angles = torch.atan2(sines, cosines)
        step = (shares * angles / sines.clamp(min=LEAST)) @ across
        size = _length(step)
        mean = torch.cos(size) * mean + torch.sin(size) * step / size.clamp(min=LEAST)
        mean = mean / _length(mean).clamp(min=LEAST)  # nothing has no direction, and blends to nothing
    return (mean * (shares @ lengths) * total).view(tensors[0].shape).to(tensors[0].dtype)


def _length(points: torch.Tensor) -> torch.Tensor:
    """Of vectors along the last axis."""
    return points.square().sum(-1).sqrt()


__all__ = ["Method", "blend", "linear", "normalised", "slerp"]
