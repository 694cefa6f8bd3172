"""What Hopper's copying machine is told of a tensor: how it lies, and how large the boxes of it are."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from sdstream.diffusion.convolving.arguments import Arguments
from sdstream.diffusion.convolving.hopper.tilings import HopperTiling

BOX_BYTES = 128
"""Of a pixel or a column in a box."""


@dataclass(frozen=True, slots=True)
class Boxes:
    """A tensor as four or five axes, the one next to each other first, with `strides` in bytes of the others. A box has
    128 bytes of the first; in shared memory each of these are swizzled."""

    tensor: torch.Tensor
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    box: tuple[int, ...]


def boxes_of(arguments: Arguments, out: torch.Tensor, tiling: HopperTiling) -> Iterable[Boxes]:
    """Of the pixels that are seen, the filters, the residual (without one, the pixels again), and the answer;
    pictures lie channels last."""
    x, weight = arguments.x, arguments.weight
    columns, channels = weight.shape[:2]
    value = weight.element_size()
    tall, wide = tiling.region
    yield _of_picture(x, *tiling.seen)
    yield Boxes(
        weight,
        (channels, 9, columns, 1),
        (channels * value, 9 * channels * value, columns * 9 * channels * value),
        (BOX_BYTES // value, 1, tiling.columns, 1),
    )
    # What answers go to in another way has no map, and may not be able to have one.
    answer = x if tiling.kind == "colours" else out
    yield _of_picture(arguments.residual if arguments.residual is not None else x, tall, wide)
    yield _of_doubled(answer, tall, wide) if tiling.kind == "doubled" else _of_picture(answer, tall, wide)


def _of_picture(x: torch.Tensor, tall: int, wide: int) -> Boxes:
    batch, channels, height, width = x.shape
    pixel = channels * x.element_size()
    line = width * pixel
    box = (BOX_BYTES // x.element_size(), wide, tall, 1)
    return Boxes(x, (channels, width, height, batch), (pixel, line, height * line), box)


def _of_doubled(x: torch.Tensor, tall: int, wide: int) -> Boxes:
    """With axes for even and odd pixels and for even and odd lines; the lines of all pictures are one axis."""
    batch, channels, height, width = x.shape
    pixel = channels * x.element_size()
    line = width * pixel
    sizes = (channels, 2, width // 2, 2, batch * height // 2)
    return Boxes(x, sizes, (pixel, 2 * pixel, line, 2 * line), (BOX_BYTES // x.element_size(), 1, wide, 1, tall))


__all__ = ["Boxes", "boxes_of"]
