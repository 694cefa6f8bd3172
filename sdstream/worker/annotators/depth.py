"""Depth Anything V2 through transformers: how far every pixel is away, near is bright."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from sdstream.worker.annotators.parted import NetworkPart, PartedNetwork, Shapes
from sdstream.worker.annotators.settings import network_config

SIDE = 518
"""Pixels of the shorter side at which the network looks, as it was trained."""
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class DepthModule(nn.Module):
    """What engines are made of: normalised pixels [N, 3, h, w] in, the unscaled nearness [N, h, w] out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        near: torch.Tensor = self.model(pixel_values=pixels).predicted_depth
        return near


class DepthNetwork(PartedNetwork):
    """`model` is transformers' `DepthAnythingForDepthEstimation`, which looks at a shorter side of `side` at most."""

    def __init__(self, model: Any, side: int = SIDE) -> None:
        super().__init__()
        self.look = DepthModule(model)
        self.side = side
        self.patch = int(model.config.backbone_config.patch_size)
        self.mean: torch.Tensor
        self.spread: torch.Tensor
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("spread", torch.tensor(SPREAD).view(1, 3, 1, 1), persistent=False)
        part = NetworkPart("depth", self.look, ("pixels",), ("nearness",), network_config(model))
        self._parts = {part.name: part}

    @property
    def parts(self) -> Mapping[str, NetworkPart]:
        return self._parts

    def shapes(self, width: int, height: int) -> Mapping[str, Shapes]:
        factor = min(1.0, self.side / min(height, width))
        sides = (max(1, round(side * factor / self.patch)) * self.patch for side in (height, width))
        return {"depth": ((3, *sides),)}

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """`image` float [N, 3, H, W], 0 to 1; returns [N, 1, H, W], each picture's range stretched to 0 to 1."""
        height, width = image.shape[2:]
        sides = list(self.shapes(width, height)["depth"][0][1:])
        small = functional.interpolate(image, sides, mode="bicubic", align_corners=False, antialias=True)
        (answer,) = self.ask("depth", ((small - self.mean) / self.spread).to(self.dtype))
        near = answer[:, None].float()
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


__all__ = ["SIDE", "DepthModule", "DepthNetwork", "load_depth"]
