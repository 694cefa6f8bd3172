"""Depth Anything V2 through transformers: how far every pixel is away, near is bright."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

SIDE = 518
"""Pixels of the shorter side at which the network looks, as it was trained."""
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class DepthNetwork(nn.Module):
    """`model` is transformers' `DepthAnythingForDepthEstimation`, which looks at a shorter side of `side` at most."""

    def __init__(self, model: Any, side: int = SIDE) -> None:
        super().__init__()
        self.model = model
        self.side = side
        self.patch = int(model.config.backbone_config.patch_size)
        self.mean: torch.Tensor
        self.spread: torch.Tensor
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("spread", torch.tensor(SPREAD).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """`image` float [N, 3, H, W], 0 to 1; returns [N, 1, H, W], each picture's range stretched to 0 to 1."""
        height, width = image.shape[2:]
        factor = min(1.0, self.side / min(height, width))
        sides = [max(1, round(side * factor / self.patch)) * self.patch for side in (height, width)]
        small = functional.interpolate(image, sides, mode="bicubic", align_corners=False, antialias=True)
        pixels = ((small - self.mean) / self.spread).to(next(self.model.parameters()).dtype)
        near: torch.Tensor = self.model(pixel_values=pixels).predicted_depth[:, None].float()
        lowest, highest = near.amin((2, 3), keepdim=True), near.amax((2, 3), keepdim=True)
        stretched = (near - lowest) / (highest - lowest).clamp(min=1e-6)
        return functional.interpolate(stretched, (height, width), mode="bilinear", align_corners=False)


def load_depth(folder: Path, dtype: torch.dtype) -> DepthNetwork:
    """From a transformers directory. Raises what transformers raises."""
    from sdstream.diffusion.libraries import transformers

    model = transformers.DepthAnythingForDepthEstimation.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, dtype=dtype
    )
    return DepthNetwork(model)


__all__ = ["SIDE", "DepthNetwork", "load_depth"]
