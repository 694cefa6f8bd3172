"""Every image processor by its wire name, and how one is run."""

from collections.abc import Mapping
from typing import Any

import torch

from sdstream.params.processors import working_size
from sdstream.worker.colour import resize
from sdstream.worker.processors.base import ImageProcessor, ProcessorContext
from sdstream.worker.processors.edges import canny, soft_edge, standard_lineart
from sdstream.worker.processors.filters import blur, feedback, sharpen, unchanged
from sdstream.worker.processors.learned import LEARNED
from sdstream.worker.processors.scaling import upscale

PROCESSORS: Mapping[str, ImageProcessor] = {
    "passthrough": unchanged,
    "external": unchanged,
    "blur": blur,
    "sharpen": sharpen,
    "canny": canny,
    "soft_edge": soft_edge,
    "standard_lineart": standard_lineart,
    "feedback": feedback,
    "upscale": upscale,
}
"""By wire name; those that need no weights. `LEARNED` has those that look with a network."""


def changes_nothing(name: str) -> bool:
    """Whether every picture comes out of this processor as it went in."""
    return PROCESSORS.get(name) is unchanged


def run_processor(name: str, image: torch.Tensor, params: Mapping[str, Any], context: ProcessorContext) -> torch.Tensor:
    """Run one processor at the size that its parameters ask for, and give the result back at the picture's own.

    `detect_resolution` (a square), else `image_width` and `image_height`, else `image_resolution` (a square) set the
    size at which it works.
    """
    process = PROCESSORS[name] if name in PROCESSORS else LEARNED[name].run
    size = working_size(params)
    if size is None or changes_nothing(name):
        return process(image, params, context)
    width, height = image.shape[3], image.shape[2]
    small = resize(image, *size)
    result = process(small, params, context)
    factor = result.shape[3] / small.shape[3]
    return resize(result, round(width * factor), round(height * factor))


__all__ = ["PROCESSORS", "changes_nothing", "run_processor"]
