"""Processors that give a picture of the same kind back: blur, sharpen, feedback, and those that change nothing."""

import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch.nn import functional

from sdstream.worker.colour import resize
from sdstream.worker.processors.base import ProcessorContext

CUT_OFF = 3.0
"""A Gaussian ends after so many standard deviations, where it is below 1.2 % of its peak."""
MULTI_SCALE = (0.5, 1.0, 2.0)
"""Factors on the radius of an unsharp mask that works at three scales."""


def unchanged(image: torch.Tensor, params: Mapping[str, Any], context: ProcessorContext) -> torch.Tensor:
    """`passthrough` and `external`: the picture as it is."""
    return image


def blur(image: torch.Tensor, params: Mapping[str, Any], context: ProcessorContext) -> torch.Tensor:
    """`blur`: a Gaussian of `blur_intensity` pixels, cut to `kernel_size` pixels."""
    radius = int(params["kernel_size"]) // 2
    return gaussian(image, float(params["blur_intensity"]), radius)


def sharpen(image: torch.Tensor, params: Mapping[str, Any], context: ProcessorContext) -> torch.Tensor:
    """`sharpen`: an unsharp mask, with strong edges and fine detail raised, after a little smoothing against noise."""
    share = float(params["noise_reduction"])
    smooth = torch.lerp(image, gaussian(image, 0.8), share) if share > 0 else image
    radius = float(params["unsharp_radius"])
    radii = [radius * factor for factor in MULTI_SCALE] if params["multi_scale"] else [radius]
    mask = torch.stack([smooth - gaussian(smooth, sigma) for sigma in radii]).mean(0)
    result = smooth + float(params["sharpen_intensity"]) * mask
    detail = float(params["detail_boost"])
    if detail > 0:
        result = result - detail * laplacian(smooth)
    edges = float(params["edge_enhancement"])
    if edges > 0:
        # The mask again, in proportion to the gradient: flat parts, where noise would show, are left alone.
        grey = smooth.mean(1, keepdim=True)
        result = result + edges * steepness(grey).clamp(0, 1) * mask
    return result.clamp(0, 1)


def feedback(image: torch.Tensor, params: Mapping[str, Any], context: ProcessorContext) -> torch.Tensor:
    """`feedback`: the stream's previous output mixed in, `feedback_strength` of it."""
    previous = context.previous_output
    if previous is None:
        return image
    previous = resize(previous.to(image), image.shape[3], image.shape[2])
    return torch.lerp(image, previous, float(params["feedback_strength"]))


def gaussian(image: torch.Tensor, sigma: float, radius: int | None = None) -> torch.Tensor:
    """A Gaussian blur of `sigma` pixels, borders mirrored. float [N, C, H, W].

    `radius` is where the kernel is cut, `CUT_OFF` standard deviations unless given.
    """
    if radius is None:
        radius = max(1, round(CUT_OFF * sigma))
    height, width = image.shape[2:]
    radius = min(radius, height - 1, width - 1)  # a mirror has no more than the picture
    weights = gaussian_weights(sigma, radius)
    wide = functional.pad(image, (radius, radius, 0, 0), "reflect")
    image = _weighted_sum([wide[:, :, :, start : start + width] for start in range(2 * radius + 1)], weights)
    high = functional.pad(image, (0, 0, radius, radius), "reflect")
    return _weighted_sum([high[:, :, start : start + height] for start in range(2 * radius + 1)], weights)


def _weighted_sum(shifted: list[torch.Tensor], weights: list[float]) -> torch.Tensor:
    """Sums of shifted pictures: on a CPU several times as fast as torch's convolution with few channels."""
    middle = len(shifted) // 2
    total = shifted[middle] * weights[0]
    for distance in range(1, middle + 1):
        total.add_(shifted[middle - distance] + shifted[middle + distance], alpha=weights[distance])
    return total


def gradient(grey: torch.Tensor) -> torch.Tensor:
    """Sobel's derivatives, a step of 1 gives 4: float [N, 1, H, W] to [N, 2, H, W] (rightwards, downwards)."""
    padded = functional.pad(grey, (1, 1, 1, 1), "replicate")
    columns = padded[:, :, :, 2:] - padded[:, :, :, :-2]
    right = columns[:, :, :-2] + 2 * columns[:, :, 1:-1] + columns[:, :, 2:]
    rows = padded[:, :, 2:] - padded[:, :, :-2]
    down = rows[:, :, :, :-2] + 2 * rows[:, :, :, 1:-1] + rows[:, :, :, 2:]
    return torch.cat((right, down), 1)


def steepness(grey: torch.Tensor) -> torch.Tensor:
    """The length of Sobel's gradient, an upright step of 1 gives 4: float [N, 1, H, W]."""
    slope = gradient(grey)
    return torch.hypot(slope[:, :1], slope[:, 1:])


def laplacian(image: torch.Tensor) -> torch.Tensor:
    """The sum of the four neighbours less four times the pixel: float [N, C, H, W]."""
    padded = functional.pad(image, (1, 1, 1, 1), "replicate")
    across = padded[:, :, 1:-1, :-2] + padded[:, :, 1:-1, 2:]
    along = padded[:, :, :-2, 1:-1] + padded[:, :, 2:, 1:-1]
    return across + along - 4 * image


@lru_cache(maxsize=256)
def gaussian_weights(sigma: float, radius: int) -> list[float]:
    """The kernel from its middle outwards, `radius + 1` shares; with the mirrored half they add up to 1."""
    weights = [math.exp(-0.5 * (distance / sigma) ** 2) for distance in range(radius + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    return [weight / total for weight in weights]


__all__ = [
    "blur",
    "feedback",
    "gaussian",
    "gaussian_weights",
    "gradient",
    "laplacian",
    "sharpen",
    "steepness",
    "unchanged",
]
