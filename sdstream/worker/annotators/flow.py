"""RAFT, a network that finds optical flow, through torchvision: on the network's device, several streams at once.

torchvision comes with the extra `raft`; its file says which SHA-256 it must have by the end of its name.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional

from sdstream.worker.annotators.libraries import optional_library

LARGEST = 512
"""Pixels of the longer side at which it looks: it compares every place with every other, which takes the fourth power
of a side in memory."""
SMALLEST = 128
"""Below this its pyramid has nothing left to compare."""
STRIDE = 8


class FlowNetwork(nn.Module):
    """`raft` is torchvision's `RAFT`, which betters its answer `updates` times."""

    def __init__(self, raft: Any, updates: int = 12) -> None:
        super().__init__()
        self.raft = raft
        self.updates = updates

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        """How far back each pixel of the first picture of a pair has to be looked for in the second.

        `pairs` float [N, 6, H, W], 0 to 1; returns float [N, 2, H, W], pixels, x then y.
        """
        height, width = pairs.shape[2:]
        factor = min(1.0, LARGEST / max(height, width))
        sides = [max(SMALLEST, round(side * factor / STRIDE) * STRIDE) for side in (height, width)]
        fitting = functional.interpolate(pairs, sides, mode="bilinear", align_corners=False, antialias=True)
        after, before = (fitting * 2.0 - 1.0).chunk(2, 1)
        flow: torch.Tensor = self.raft(after.contiguous(), before.contiguous(), num_flow_updates=self.updates)[-1]
        self.raft.corr_block.corr_pyramid = []  # else the largest tensors of the last call stay until the next
        large = functional.interpolate(flow, (height, width), mode="bilinear", align_corners=False)
        scale = torch.tensor([width / sides[1], height / sides[0]], device=flow.device, dtype=flow.dtype)
        return large * scale.view(1, 2, 1, 1)


def make_flow(name: str) -> FlowNetwork:
    """`raft_small` or `raft_large` without its weights. Raises `ModelUnavailable` where torchvision is not usable."""
    models = optional_library("torchvision.models.optical_flow", "raft", "temporal_net_tensorrt", "torchvision")
    return FlowNetwork(getattr(models, name)())


__all__ = ["LARGEST", "FlowNetwork", "make_flow"]
