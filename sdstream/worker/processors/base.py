"""What an image processor is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch

from sdstream.worker.looks import Looking


@dataclass(slots=True)
class ProcessorMemory:
    """What one processor at one place of one stream keeps from picture to picture.

    `result` is the last it made, `age` how many pictures ago, `values` what else it needs.
    """

    result: torch.Tensor | None = None
    age: int = 0
    values: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class ProcessorContext:
    """What a processor may know besides its picture.

    `previous_output` is the stream's last result, of any size, or None for the first picture; `delay` says how many
    pictures before the last one that came in it belongs to. `network` is the one it asked for. `channels` is 6 where a
    ControlNet takes two pictures in one.
    """

    previous_output: torch.Tensor | None = None
    delay: int = 0
    memory: ProcessorMemory = field(default_factory=ProcessorMemory)
    network: Any = None
    channels: int = 3


class ImageProcessor(Protocol):
    """One link of a chain: what it remembers is in its context, so its parameters may change at any picture."""

    def __call__(self, image: torch.Tensor, params: Mapping[str, Any], context: ProcessorContext) -> torch.Tensor:
        """A new picture, float [N, 3, H', W'], 0 to 1, of `image`, float [N, 3, H, W], which is not written to.

        `params` holds every parameter of the processor, of the right type and within its limits.
        """
        ...


class LookingProcessor(Protocol):
    """The same of one that looks with a network: what it gives is a generator, and the picture is what that returns."""

    def __call__(
        self, image: torch.Tensor, params: Mapping[str, Any], context: ProcessorContext
    ) -> Looking[torch.Tensor]:
        """See `ImageProcessor`."""
        ...


__all__ = ["ImageProcessor", "LookingProcessor", "ProcessorContext", "ProcessorMemory"]
