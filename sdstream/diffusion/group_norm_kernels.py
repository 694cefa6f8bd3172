"""A group norm for channels-last pictures, in Triton: sums of tiles first, then every value once more, both in order.

The compilers' own reads the few channels of a group out of rows of hundreds, one group a block, which leaves most of a
GPU idle. Here a block takes several groups of some rows, so reads are whole lines and there are blocks for every
processor. Sums are float32 and added in a fixed order: the same picture gives the same answer.
"""

# Triton's language has no types, and is installed only where torch is for CUDA.
# pyright: basic, reportMissingImports=false

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch.library import triton_op, wrap_triton
from triton.errors import TritonError

from sdstream.diffusion.group_norm_tiling import tiling_of


@triton.jit
def _load(base, at, rows, channels, channel, inside, moved):
    kept = (at < rows)[:, None, None] & inside[None]
    value = tl.load(base + at[:, None, None] * channels + channel[None], mask=kept, other=0.0).to(tl.float32)
    return tl.where(kept, value + moved[None], 0.0), kept


@triton.jit
def _channels(
    shift,
    group,
    groups: tl.constexpr,
    width: tl.constexpr,
    padded: tl.constexpr,
    together: tl.constexpr,
    has_shift: tl.constexpr,
):
    column = tl.arange(0, padded)
    channel = group[:, None] * width + column[None, :]
    inside = (column < width)[None, :] & (group < groups)[:, None]
    moved = tl.zeros([together, padded], tl.float32)
    if has_shift:
        moved += tl.load(shift + channel, mask=inside, other=0.0).to(tl.float32)
    return channel, inside, moved


@triton.jit
def group_norm_sums(
    x,
    shift,
    partial,
    rows,
    channels,
    shift_stride,
    groups: tl.constexpr,
    width: tl.constexpr,
    padded: tl.constexpr,
    together: tl.constexpr,
    at_once: tl.constexpr,
    tiles: tl.constexpr,
    tile_rows: tl.constexpr,
    has_shift: tl.constexpr,
):
    sample = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    group = tl.program_id(1) * together + tl.arange(0, together)
    channel, inside, moved = _channels(shift + sample * shift_stride, group, groups, width, padded, together, has_shift)
    base = x + sample.to(tl.int64) * rows * channels
    total = tl.zeros([at_once, together, padded], tl.float32)
    squares = tl.zeros([at_once, together, padded], tl.float32)
    for step in range(0, tile_rows, at_once):
        at = tile * tile_rows + step + tl.arange(0, at_once)
        value, _ = _load(base, at, rows, channels, channel, inside, moved)
        total += value
        squares += value * value
    place = partial + (tl.program_id(0) * groups + group) * 2
    tl.store(place, tl.sum(tl.sum(total, 2), 0), mask=group < groups)
    tl.store(place + 1, tl.sum(tl.sum(squares, 2), 0), mask=group < groups)


@triton.jit
def group_norm_values(
    x,
    shift,
    partial,
    weight,
    bias,
    out,
    rows,
    channels,
    shift_stride,
    eps,
    groups: tl.constexpr,
    width: tl.constexpr,
    padded: tl.constexpr,
    together: tl.constexpr,
    at_once: tl.constexpr,
    tiles: tl.constexpr,
    tile_rows: tl.constexpr,
    has_shift: tl.constexpr,
    silu: tl.constexpr,
    summed: tl.constexpr,
):
    sample = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    group = tl.program_id(1) * together + tl.arange(0, together)
    channel, inside, moved = _channels(shift + sample * shift_stride, group, groups, width, padded, together, has_shift)
    base = x + sample.to(tl.int64) * rows * channels
    if summed:
        place = partial + ((sample * tiles + tl.arange(0, tiles))[:, None] * groups + group[None, :]) * 2
        there = (group < groups)[None, :] & (tl.arange(0, tiles) >= 0)[:, None]
        total = tl.sum(tl.load(place, mask=there, other=0.0), 0)
        square = tl.sum(tl.load(place + 1, mask=there, other=0.0), 0)
    else:
        totals = tl.zeros([at_once, together, padded], tl.float32)
        squares = tl.zeros([at_once, together, padded], tl.float32)
        for step in range(0, tile_rows, at_once):
            value, _ = _load(base, step + tl.arange(0, at_once), rows, channels, channel, inside, moved)
            totals += value
            squares += value * value
        total = tl.sum(tl.sum(totals, 2), 0)
        square = tl.sum(tl.sum(squares, 2), 0)
    count = rows * width
    mean = total / count
    variance = tl.maximum(square / count - mean * mean, 0.0)
    scale = tl.load(weight + channel, mask=inside, other=0.0).to(tl.float32) * tl.rsqrt(variance + eps)[:, None]
    offset = tl.load(bias + channel, mask=inside, other=0.0).to(tl.float32) - mean[:, None] * scale
    target = out + sample.to(tl.int64) * rows * channels
    for step in range(0, tile_rows, at_once):
        at = tile * tile_rows + step + tl.arange(0, at_once)
        value, kept = _load(base, at, rows, channels, channel, inside, moved)
        value = value * scale[None] + offset[None]
        if silu:
            value = value * tl.sigmoid(value)
        tl.store(target + at[:, None, None] * channels + channel[None], value.to(out.dtype.element_ty), mask=kept)


@triton_op("sdstream::group_norm", mutates_args=())
def group_norm(
    x: torch.Tensor,
    shift: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    eps: float,
    silu: bool,
) -> torch.Tensor:
    """Group norm of `x` [N, C, H, W] + `shift` [N, C] or [C], times `weight` and plus `bias` [C], then SiLU if asked
    for. Answers channels last, in the type of `x`; sums are float32."""
    return launch(x, shift, weight, bias, groups, eps, silu, wrap_triton)


def launch(
    x: torch.Tensor,
    shift: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    eps: float,
    silu: bool,
    wrap: Callable[[Any], Any],
) -> torch.Tensor:
    """As `group_norm`; `wrap` makes a kernel ready to be launched."""
    x = x.contiguous(memory_format=torch.channels_last)
    out = torch.empty_like(x)
    channels, rows = x.shape[1], x.shape[2] * x.shape[3]
    tiling = tiling_of(rows, channels, groups)
    grid = (x.shape[0] * tiling.tiles, tiling.blocks)
    if shift is not None and shift.stride(-1) != 1:
        shift = shift.contiguous()
    moved = weight if shift is None else shift
    # Rows of a part of something wider lie further apart than they are long.
    stride = shift.stride(0) if shift is not None and shift.dim() == 2 else 0
    shape = {
        "groups": groups,
        "width": channels // groups,
        "padded": tiling.padded,
        "together": tiling.together,
        "at_once": tiling.at_once,
        "tiles": tiling.tiles,
        "tile_rows": tiling.tile_rows,
        "has_shift": shift is not None,
        "num_warps": 4,
    }
    partial = torch.empty((x.shape[0] * tiling.tiles, groups, 2), dtype=torch.float32, device=x.device)
    summed = tiling.tiles > 1
    if summed:
        wrap(group_norm_sums)[grid](x, moved, partial, rows, channels, stride, **shape)
    wrap(group_norm_values)[grid](
        x, moved, partial, weight, bias, out, rows, channels, stride, eps, silu=silu, summed=summed, **shape
    )
    return out


__all__ = ["TritonError", "group_norm", "launch"]
