"""The filters of the four kinds of pixels of a doubled picture, in Triton.

They are told apart by whether row and column are even (phases). Each sees no more than two times two pixels of the
picture before it was doubled, by a filter whose places are sums of those of the one with three times three: four ninths
of the products. Sums are float32, rounded once. They are made anew whenever a picture is, which costs little beside the
products but where pictures are small, so they are those of the weights whatever is written into these, captured or not.
"""

# Triton's language has no types, and is installed only where torch is for CUDA.
# pyright: basic, reportMissingModuleSource=false

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl

from sdstream.diffusion.convolving.tilings import padded_width

ROWS, COLUMNS = 16, 64
"""Of a block."""


@triton.jit
def phase_filters(weight, out, columns, channels, some_rows: tl.constexpr, some_columns: tl.constexpr):
    """Filters [phase, column, 2, 2, channel] of filters [column, 3, 3, channel].

    Of rows as of columns, what lies in one pixel of the picture is added up: the last two places in an even phase, the
    first two in an odd one.
    """
    column = (tl.program_id(0) * some_rows + tl.arange(0, some_rows))[:, None]
    channel = (tl.program_id(1) * some_columns + tl.arange(0, some_columns))[None, :]
    kept = (column < columns) & (channel < channels)
    phase = tl.program_id(2) // 4
    place = tl.program_id(2) % 4
    upper = (place // 2) * (1 + phase // 2)
    lower = tl.where(place // 2 == 0, phase // 2, 2)
    left = (place % 2) * (1 + phase % 2)
    right = tl.where(place % 2 == 0, phase % 2, 2)
    source = weight + column * (9 * channels) + channel
    total = tl.load(source + (upper * 3 + left) * channels, mask=kept, other=0.0).to(tl.float32)
    beside, below = kept & (left != right), kept & (upper != lower)
    total += tl.load(source + (upper * 3 + right) * channels, mask=beside, other=0.0).to(tl.float32)
    total += tl.load(source + (lower * 3 + left) * channels, mask=below, other=0.0).to(tl.float32)
    total += tl.load(source + (lower * 3 + right) * channels, mask=beside & below, other=0.0).to(tl.float32)
    to = out + ((phase * columns + column) * 4 + place) * channels + channel
    tl.store(to, total.to(out.dtype.element_ty), mask=kept)


def filters_of_phases(weight: torch.Tensor, wrap: Callable[[Any], Any]) -> torch.Tensor:
    """What `phase_filters` makes of `weight` [O, C, 3, 3], channels last: [4, O, 2, 2, C]."""
    columns, channels = weight.shape[:2]
    made = torch.empty((4, columns, 2, 2, channels), dtype=weight.dtype, device=weight.device)
    some = min(COLUMNS, padded_width(channels))
    grid = (-(-columns // ROWS), -(-channels // some), 16)
    wrap(phase_filters)[grid](weight, made, columns, channels, some_rows=ROWS, some_columns=some)
    return made


__all__ = ["filters_of_phases"]
