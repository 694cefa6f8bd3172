"""The worker's end of a tap: a small JPEG of what a processor made."""

import io
from typing import Any

import torch
from PIL import Image

from sdstream.worker.colour import resize
from sdstream.worker.pipelines import Pipeline

LARGEST_SIDE = 320
QUALITY = 80


def small_jpeg(image: torch.Tensor) -> bytes:
    """`image` float [1, 3, H, W], 0 to 1, at most 320 pixels large. Waits for the device."""
    height, width = image.shape[2:]
    factor = min(1.0, LARGEST_SIDE / max(height, width))
    small = resize(image, max(1, round(width * factor)), max(1, round(height * factor)))
    pixels: Any = (small[0].clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def small_tap(pipeline: Pipeline | None, processor: str) -> bytes | None:
    """What a processor of `pipeline` made last, as a small JPEG; None when there is no such thing."""
    image = None if pipeline is None else pipeline.taps.get(processor)
    return None if image is None else small_jpeg(image[:, :3])


__all__ = ["LARGEST_SIDE", "small_jpeg", "small_tap"]
