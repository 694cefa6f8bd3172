"""The processor that changes the size: upscale."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import torch
from torch.nn import functional

from sdstream.worker.processors.base import ProcessorContext

LANCZOS_LOBES = 3


def upscale(image: torch.Tensor, params: Mapping[str, Any], context: ProcessorContext) -> torch.Tensor:
    """`upscale`: `scale_factor` times as wide and high, pixels in between by `algorithm`. Sides come out even."""
    factor = float(params["scale_factor"])
    height, width = (max(2, int(side * factor) // 2 * 2) for side in image.shape[2:])
    match params["algorithm"]:
        case "nearest":
            return functional.interpolate(image, (height, width), mode="nearest-exact")
        case "bicubic":
            return functional.interpolate(image, (height, width), mode="bicubic", align_corners=False).clamp(0, 1)
        case "lanczos":
            return lanczos(image, width, height).clamp(0, 1)
        case _:
            return functional.interpolate(image, (height, width), mode="bilinear", align_corners=False)


def lanczos(image: torch.Tensor, width: int, height: int) -> torch.Tensor:
    """Enlarge with Lanczos' kernel of three lobes, rows then columns. float [N, C, H, W]."""
    columns = _lanczos_weights(image.shape[3], width, str(image.device)).to(image.dtype)
    rows = _lanczos_weights(image.shape[2], height, str(image.device)).to(image.dtype)
    return rows @ image @ columns.T


@lru_cache(maxsize=8)
def _lanczos_weights(source: int, target: int, device: str) -> torch.Tensor:
    """float [target, source]: the share of each source pixel in each target pixel; rows add up to 1."""
    centres = (torch.arange(target, device=device, dtype=torch.float32) + 0.5) * source / target - 0.5
    distance = centres[:, None] - torch.arange(source, device=device, dtype=torch.float32)[None, :]
    weights = torch.sinc(distance) * torch.sinc(distance / LANCZOS_LOBES) * (distance.abs() < LANCZOS_LOBES)
    return weights / weights.sum(1, keepdim=True)


__all__ = ["lanczos", "upscale"]
