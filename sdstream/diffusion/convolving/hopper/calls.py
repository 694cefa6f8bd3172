"""How a kernel for Hopper is called: worked out without a card."""

import math
from dataclasses import dataclass

import torch

from sdstream.diffusion.convolving.arguments import Arguments
from sdstream.diffusion.convolving.hopper.boxes import Boxes, boxes_of
from sdstream.diffusion.convolving.hopper.source import definitions_of, threads_of
from sdstream.diffusion.convolving.hopper.tilings import HopperTiling

Told = torch.Tensor | Boxes | int | None
"""Of a kernel: a tensor's address, a tensor's map, or a number of 32 bits."""


@dataclass(frozen=True, slots=True)
class Call:
    """A launch of the program with these `definitions`: `grid` blocks of `threads` with so much shared memory."""

    definitions: dict[str, int]
    grid: tuple[int, int, int]
    threads: int
    shared_bytes: int
    told: tuple[Told, ...]


def answer_of(arguments: Arguments) -> torch.Tensor:
    """Memory for the answer, channels last."""
    x = arguments.x
    size = (x.shape[0], arguments.weight.shape[0], arguments.out_height, arguments.out_width)
    return torch.empty(size, dtype=arguments.dtype, device=x.device, memory_format=torch.channels_last)


def call_of(arguments: Arguments, out: torch.Tensor, tiling: HopperTiling, processors: int) -> Call:
    """The call that writes the answer into `out`, on a card with so many processors."""
    order = torch.channels_last
    residual = None if arguments.residual is None else arguments.residual.contiguous(memory_format=order)
    laid = arguments._replace(x=arguments.x.contiguous(memory_format=order), residual=residual)
    weight = laid.weight
    batch, channels, height, width = laid.x.shape
    columns = weight.shape[0]
    tiles = tiling.tiles(batch, height, width)
    beside, deep = math.ceil(columns / tiling.columns), 2 if tiling.kind == "doubled" else tiling.parts
    blocks = tiling.blocks_of(tiles)
    if tiling.parts == 1:  # they answer one tile after the other
        blocks = min(blocks, max(1, processors * tiling.blocks_on_a_processor // (beside * deep)))
    seen = tuple(boxes_of(laid, out, tiling)) if tiling.is_streamed else (laid.x,)
    numbers = (tiles, height, width, channels, columns, tiling.part_channels(channels))
    return Call(
        definitions_of(tiling, laid),
        (blocks, beside, deep),
        threads_of(tiling),
        tiling.shared_bytes(channels),
        (*seen, weight, laid.bias, laid.more, residual, laid.scales, out, *numbers),
    )


__all__ = ["Call", "Told", "answer_of", "call_of"]
