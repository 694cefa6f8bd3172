"""Every image processor by its wire name, and how one is run."""

from collections.abc import Mapping
from typing import Any

import torch

from sdstream.params.processors import working_size
from sdstream.worker.colour import resize
from sdstream.worker.looks import Looking
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

SHARED = frozenset({"blur", "sharpen", "canny", "soft_edge", "standard_lineart", "upscale"})
"""Those without weights that see nothing but their pictures, each by itself, so that several can be given at once."""


def changes_nothing(name: str) -> bool:
    """Whether every picture comes out of this processor as it went in."""
    return PROCESSORS.get(name) is unchanged


def run_processor(name: str, image: torch.Tensor, params: Mapping[str, Any], context: ProcessorContext) -> torch.Tensor:
    """Run a processor without weights at the size that its parameters ask for; the result has the picture's own.

    `detect_resolution` (a square), else `image_width` and `image_height`, else `image_resolution` (a square) set the
    size at which it works.
    """
    small = image if changes_nothing(name) else _at_working_size(image, params)
    return _back(PROCESSORS[name](small, params, context), small, image)


def look(name: str, image: torch.Tensor, params: Mapping[str, Any], context: ProcessorContext) -> Looking[torch.Tensor]:
    """The same of a processor that looks with a network."""
    small = _at_working_size(image, params)
    result = yield from LEARNED[name].run(small, params, context)
    return _back(result, small, image)


def _at_working_size(image: torch.Tensor, params: Mapping[str, Any]) -> torch.Tensor:
    size = working_size(params)
    return image if size is None else resize(image, *size)


def _back(result: torch.Tensor, small: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    if small is image:
        return result
    factor = result.shape[3] / small.shape[3]
    return resize(result, round(image.shape[3] * factor), round(image.shape[2] * factor))


__all__ = ["PROCESSORS", "SHARED", "changes_nothing", "look", "run_processor"]
