"""Optical flow by OpenCV's dense inverse search, and what TemporalNet is shown of it.

OpenCV comes with the extra `flow`; without it the processor says so. The flow is found on the host, the warp made where
the picture is. `flow.py` has the network that may find it instead.
"""

import math
from functools import cache
from typing import Any

import torch
from torch.nn import functional

from sdstream.worker.annotators.libraries import optional_library
from sdstream.worker.colour import LUMA_WEIGHTS, resize

LEAST = 16
"""Pixels of a side below which OpenCV finds no flow."""
PATCH, COARSEST = 8, 20
"""OpenCV compares patches of so many pixels, and begins with pictures that are halved while they are this wide."""
WHEEL = (
    (15, (1, 0, 0), (1, 1, 0)),
    (6, (1, 1, 0), (0, 1, 0)),
    (4, (0, 1, 0), (0, 1, 1)),
    (11, (0, 1, 1), (0, 0, 1)),
    (13, (0, 0, 1), (1, 0, 1)),
    (6, (1, 0, 1), (1, 0, 0)),
)
"""Steps, and the colours that they go between."""


class FlowFinder:
    """Flow between two pictures of one size. One for each stream: OpenCV's object keeps work memory of its own."""

    def __init__(self) -> None:
        """Raises `ModelUnavailable` where OpenCV is not installed."""
        self._search = _opencv().DISOpticalFlow_create(_opencv().DISOPTICAL_FLOW_PRESET_FAST)

    def find(self, after: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """How far back each pixel of `after` has to be looked for in `before`: float [1, 2, H, W], pixels, x then y.

        Both are float [1, 3, H, W], 0 to 1. Waits for the device.
        """
        height, width = after.shape[2:]
        sides = searched_size(width, height)
        grey = [_grey(resize(image, *sides)).cpu().numpy() for image in (after, before)]
        found: Any = self._search.calc(grey[0], grey[1], None)
        flow = torch.as_tensor(found).permute(2, 0, 1)[None].to(after.device, after.dtype)
        if sides == (width, height):
            return flow
        scale = torch.tensor([width / sides[0], height / sides[1]], device=flow.device, dtype=flow.dtype)
        return resize(flow, width, height) * scale.view(1, 2, 1, 1)


def searched_size(width: int, height: int) -> tuple[int, int]:
    """Width and height at which flow is looked for in pictures of these: their own, but for those that are stretched.

    OpenCV looks at the width alone when it halves pictures. Where fewer rows than a patch has are left then, it reads
    beyond its memory, which may end the process.
    """
    width = max(LEAST, width)
    halvings = max(0, (width // COARSEST).bit_length() - 1)
    return width, max(LEAST, PATCH << halvings, height)


def warp(image: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    """`image` [1, 3, H, W] looked up at every pixel plus `flow` [1, 2, H, W]; its border goes on outside of it."""
    height, width = image.shape[2:]
    rows = torch.arange(height, device=image.device, dtype=image.dtype).view(-1, 1)
    columns = torch.arange(width, device=image.device, dtype=image.dtype).view(1, -1)
    x = (columns + flow[:, 0]) * (2.0 / max(1, width - 1)) - 1.0
    y = (rows + flow[:, 1]) * (2.0 / max(1, height - 1)) - 1.0
    grid = torch.stack((x, y), 3)
    return functional.grid_sample(image, grid, padding_mode="border", align_corners=True)


def draw_flow(flow: torch.Tensor) -> torch.Tensor:
    """Flow as colours: the direction is the hue, the length how far from white; float [1, 3, H, W], 0 to 1.

    The wheel is that of Baker and others (2011), and the longest flow of the picture is fully coloured.
    """
    length = torch.hypot(flow[:, :1], flow[:, 1:])
    share = length / length.amax((2, 3), keepdim=True).clamp(min=1e-5)
    wheel = torch.tensor(_wheel(), device=flow.device, dtype=flow.dtype)
    angle = torch.atan2(-flow[:, 1:], -flow[:, :1]) / math.pi
    place = (angle + 1) / 2 * (len(wheel) - 1)
    first = place.floor().long().clamp(max=len(wheel) - 1)
    between = place - first
    colours = wheel[first] * (1 - between)[..., None] + wheel[(first + 1) % len(wheel)] * between[..., None]
    shade = colours[:, 0].permute(0, 3, 1, 2)
    return 1 - share * (1 - shade)


@cache
def _wheel() -> tuple[tuple[float, float, float], ...]:
    steps: list[tuple[float, float, float]] = []
    for count, start, end in WHEEL:
        for step in range(count):
            share = math.floor(255 * step / count) / 255
            red, green, blue = (a + (b - a) * share for a, b in zip(start, end, strict=True))
            steps.append((red, green, blue))
    return tuple(steps)


def _grey(image: torch.Tensor) -> torch.Tensor:
    """uint8 [H, W]."""
    red, green, blue = LUMA_WEIGHTS["bt601"]
    grey = red * image[0, 0] + green * image[0, 1] + blue * image[0, 2]
    return (grey.clamp(0, 1) * 255).round().to(torch.uint8)


@cache
def _opencv() -> Any:
    library = optional_library("cv2", "flow", "temporal_net_tensorrt", "OpenCV")
    library.setNumThreads(2)  # its default is every core, which the networks of a CPU machine need
    return library


__all__ = ["FlowFinder", "draw_flow", "searched_size", "warp"]
