"""What an image processor is."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch


@dataclass(frozen=True, slots=True)
class ProcessorContext:
    """What a processor may know besides its picture. `previous_output` is the stream's last result, of any size, or
    None for the first picture."""

    previous_output: torch.Tensor | None = None


class ImageProcessor(Protocol):
    """One link of a chain: a function without memory, so its parameters may change at any picture."""

    def __call__(self, image: torch.Tensor, params: Mapping[str, Any], context: ProcessorContext) -> torch.Tensor:
        """A new picture, float [N, 3, H', W'], 0 to 1, of `image`, float [N, 3, H, W], which is not written to.

        `params` holds every parameter of the processor, of the right type and within its limits.
        """
        ...


__all__ = ["ImageProcessor", "ProcessorContext"]
