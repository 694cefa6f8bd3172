"""Holistically-nested edge detection: soft outlines of whole objects, after Xie and Tu (2015).

The layers are named as the weights of ControlNet's own HED detector name them.
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn import functional

BLOCKS = ((3, 64, 2), (64, 128, 2), (128, 256, 3), (256, 512, 3), (512, 512, 3))
"""Channels in and out, and convolutions, of each scale at full width."""


class EdgeBlock(nn.Module):
    """One scale: convolutions, and their projection to one map of edges."""

    def __init__(self, inside: int, outside: int, count: int) -> None:
        super().__init__()
        channels = [inside, *([outside] * count)]
        self.convs = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(channels))
        self.projection = nn.Conv2d(outside, 1, 1)

    def forward(self, values: torch.Tensor, shrink: bool) -> tuple[torch.Tensor, torch.Tensor]:
        if shrink:
            values = functional.max_pool2d(values, 2)
        for convolution in self.convs:
            values = functional.relu(convolution(values))
        return values, self.projection(values)


class EdgeNetwork(nn.Module):
    """Five scales of edges, averaged. `divisor` makes every scale that much narrower, for tests."""

    def __init__(self, divisor: int = 1) -> None:
        super().__init__()
        self.norm = nn.Parameter(torch.zeros(1, 3, 1, 1))
        for number, (inside, outside, count) in enumerate(BLOCKS, 1):
            narrow = inside if inside == 3 else inside // divisor
            setattr(self, f"block{number}", EdgeBlock(narrow, outside // divisor, count))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """`image` float [N, 3, H, W], 0 to 1, sides of 16 pixels at least; returns edges [N, 1, H, W], 0 to 1."""
        values = image * 255.0 - self.norm
        maps: list[torch.Tensor] = []
        for number in range(1, len(BLOCKS) + 1):
            values, edges = getattr(self, f"block{number}")(values, number > 1)
            maps.append(functional.interpolate(edges, image.shape[2:], mode="bilinear", align_corners=False))
        return torch.stack(maps).mean(0).sigmoid()


def in_steps(edges: torch.Tensor, steps: int = 2) -> torch.Tensor:
    """Edges rounded down to a few strengths, as the ControlNet was shown them in training: `safe` of `hed`."""
    return (edges * (steps + 1)).floor().clamp(max=steps) / steps


__all__ = ["EdgeBlock", "EdgeNetwork", "in_steps"]
