"""Processors that draw lines, white on black: canny, soft_edge, standard_lineart."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import functional

from sdstream.worker.colour import LUMA_WEIGHTS, resize
from sdstream.worker.processors.base import ProcessorContext
from sdstream.worker.processors.filters import gaussian, gradient, steepness

FOLLOW_STEPS = 8
"""Growth steps of Canny's edges between two looks whether they still grow; a look waits for the device."""
FOLLOW_LIMIT = 512
"""Pixels that an edge is followed at most from where it starts."""
DIAGONAL = (0.41421356, 2.41421356)
"""Tangents of 22.5 and 67.5 degrees, between which a gradient counts as diagonal."""
SOFT_EDGE_SCALES = ((1, 0.5), (2, 0.3), (4, 0.2))
"""How far the picture is shrunk for each of soft_edge's gradients, and the weight of that gradient."""
SOFT_EDGE_GAIN = 2.0
LINEART_SPREAD = 127.0 / 255.0
"""The brightness that standard_lineart gives to the median line."""
LINEART_FLOOR = 16.0 / 255.0
"""The least difference that is taken for the median line, so that noise alone is not drawn bright."""


def canny(image: torch.Tensor, params: Mapping[str, Any], context: ProcessorContext) -> torch.Tensor:
    """`canny`: edges one pixel wide, after Canny (1986): Sobel gradients of the grey picture in 0..255, thinned along
    the gradient, kept above `high_threshold` and where they go on above `low_threshold`.

    The size of a gradient is the sum of its two parts, as the thresholds of OpenCV's `Canny` mean it.
    """
    low, high = sorted((float(params["low_threshold"]), float(params["high_threshold"])))
    grey = (brightness(image.clamp(0, 1)) * 255.0).round()
    slope = gradient(grey)
    right, down = slope[:, :1], slope[:, 1:]
    size = right.abs() + down.abs()
    candidate = _is_ridge(right, down, size) & (size > low)
    edge = candidate & (size > high)
    return _follow(edge, candidate).to(image.dtype).expand(-1, 3, -1, -1)


def soft_edge(image: torch.Tensor, params: Mapping[str, Any], context: ProcessorContext) -> torch.Tensor:
    """`soft_edge`: the lengths of gradients at three scales, added up and smoothed."""
    grey = brightness(image)
    height, width = grey.shape[2:]
    total = torch.zeros_like(grey)
    for divisor, weight in SOFT_EDGE_SCALES:
        small = resize(grey, max(1, width // divisor), max(1, height // divisor))
        steep = steepness(small) / 4.0
        total = total + weight * resize(steep, width, height)
    soft = gaussian(total, 1.0) * SOFT_EDGE_GAIN
    return soft.clamp(0, 1).expand(-1, 3, -1, -1)


def standard_lineart(image: torch.Tensor, params: Mapping[str, Any], context: ProcessorContext) -> torch.Tensor:
    """`standard_lineart`: how much darker each pixel is than its surroundings of `gaussian_sigma` pixels, scaled so
    that the median of the differences above `intensity_threshold` (of 255) becomes middle grey."""
    darker = (gaussian(image, float(params["gaussian_sigma"])) - image).amin(1, keepdim=True).clamp(0, 1)
    threshold = float(params["intensity_threshold"]) / 255.0
    flat = darker.flatten(1)
    counted = torch.where(flat > threshold, flat, torch.full_like(flat, float("nan")))
    median = counted.nanmedian(1).values.nan_to_num(0.0).clamp(min=LINEART_FLOOR)
    return (darker / median.view(-1, 1, 1, 1) * LINEART_SPREAD).clamp(0, 1).expand(-1, 3, -1, -1)


def brightness(image: torch.Tensor) -> torch.Tensor:
    """The grey picture by BT.601's weights: float [N, 3, H, W] to [N, 1, H, W]."""
    red, green, blue = LUMA_WEIGHTS["bt601"]
    return red * image[:, :1] + green * image[:, 1:2] + blue * image[:, 2:]


def _is_ridge(right: torch.Tensor, down: torch.Tensor, size: torch.Tensor) -> torch.Tensor:
    """Where `size` is largest along its gradient: bool [N, 1, H, W]. Of two equal neighbours the later one loses."""
    around = functional.pad(size, (1, 1, 1, 1))
    height, width = size.shape[2:]

    def neighbour(x: int, y: int) -> torch.Tensor:
        return around[:, :, 1 + y : 1 + y + height, 1 + x : 1 + x + width]

    across, along = right.abs(), down.abs()
    horizontal = along < DIAGONAL[0] * across
    vertical = along > DIAGONAL[1] * across
    falling = (right < 0) == (down < 0)  # the gradient points to the lower right or the upper left
    ridge_across = (size > neighbour(-1, 0)) & (size >= neighbour(1, 0))
    ridge_along = (size > neighbour(0, -1)) & (size >= neighbour(0, 1))
    ridge_falling = (size > neighbour(-1, -1)) & (size > neighbour(1, 1))
    ridge_rising = (size > neighbour(1, -1)) & (size > neighbour(-1, 1))
    diagonal = torch.where(falling, ridge_falling, ridge_rising)
    return torch.where(horizontal, ridge_across, torch.where(vertical, ridge_along, diagonal))


def _follow(edge: torch.Tensor, candidate: torch.Tensor) -> torch.Tensor:
    """Grow `edge` through touching candidates until nothing is added, or for `FOLLOW_LIMIT` pixels."""
    for _ in range(0, FOLLOW_LIMIT, FOLLOW_STEPS):
        before = edge
        for _ in range(FOLLOW_STEPS):
            edge = _dilate(edge) & candidate
        if torch.equal(before, edge):
            break
    return edge


def _dilate(mask: torch.Tensor) -> torch.Tensor:
    """A pixel is set when it or one of its eight neighbours is."""
    padded = functional.pad(mask, (1, 1, 1, 1))
    row = padded[:, :, :, :-2] | padded[:, :, :, 1:-1] | padded[:, :, :, 2:]
    return row[:, :, :-2] | row[:, :, 1:-1] | row[:, :, 2:]


__all__ = ["brightness", "canny", "soft_edge", "standard_lineart"]
