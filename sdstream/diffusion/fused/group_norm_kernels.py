"""A group norm for channels-last pictures, in Triton: sums of tiles first, then every value once more, both in order.

The compilers' own reads the few channels of a group out of rows of hundreds, one group a block, which leaves most of a
GPU idle. Here a block takes several groups of some rows, so reads are whole lines and there are blocks for every
processor. Sums are float32 and added in a fixed order: the same picture gives the same answer.
"""

# Triton's language has no types, and is installed only where torch is for CUDA.
# pyright: basic, reportMissingImports=false

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch.library import triton_op, wrap_triton
from triton.errors import TritonError

from sdstream.diffusion.fused.group_norm_tiling import tiling_of


@triton.jit
def _load(base, beside, at, rows, channels, first, channel, inside, moved, has_other: tl.constexpr):
    kept = (at < rows)[:, None, None] & inside[None]
    if has_other:
        in_first = (channel < first)[None]
        place = base + at[:, None, None] * first + channel[None]
        value = tl.load(place, mask=kept & in_first, other=0.0).to(tl.float32)
        place = beside + at[:, None, None] * (channels - first) + (channel - first)[None]
        value += tl.load(place, mask=kept & (channel >= first)[None], other=0.0).to(tl.float32)
    else:
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
    other,
    shift,
    partial,
    rows,
    channels,
    first,
    shift_stride,
    groups: tl.constexpr,
    width: tl.constexpr,
    padded: tl.constexpr,
    together: tl.constexpr,
    at_once: tl.constexpr,
    tiles: tl.constexpr,
    tile_rows: tl.constexpr,
    has_shift: tl.constexpr,
    has_other: tl.constexpr,
):
    sample = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    group = tl.program_id(1) * together + tl.arange(0, together)
    channel, inside, moved = _channels(shift + sample * shift_stride, group, groups, width, padded, together, has_shift)
    base = x + sample.to(tl.int64) * rows * (first if has_other else channels)
    beside = other + sample.to(tl.int64) * rows * (channels - first)
    total = tl.zeros([at_once, together, padded], tl.float32)
    squares = tl.zeros([at_once, together, padded], tl.float32)
    for step in range(0, tile_rows, at_once):
        at = tile * tile_rows + step + tl.arange(0, at_once)
        value, _ = _load(base, beside, at, rows, channels, first, channel, inside, moved, has_other)
        total += value
        squares += value * value
    place = partial + (tl.program_id(0) * groups + group) * 2
    tl.store(place, tl.sum(tl.sum(total, 2), 0), mask=group < groups)
    tl.store(place + 1, tl.sum(tl.sum(squares, 2), 0), mask=group < groups)


@triton.jit
def group_norm_values(
    x,
    other,
    shift,
    partial,
    weight,
    bias,
    kept_bias,
    out,
    whole,
    rows,
    channels,
    first,
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
    has_other: tl.constexpr,
    silu: tl.constexpr,
    summed: tl.constexpr,
    keeps: tl.constexpr,
    has_kept_bias: tl.constexpr,
):
    sample = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    group = tl.program_id(1) * together + tl.arange(0, together)
    channel, inside, moved = _channels(shift + sample * shift_stride, group, groups, width, padded, together, has_shift)
    base = x + sample.to(tl.int64) * rows * (first if has_other else channels)
    beside = other + sample.to(tl.int64) * rows * (channels - first)
    if summed:
        place = partial + ((sample * tiles + tl.arange(0, tiles))[:, None] * groups + group[None, :]) * 2
        there = (group < groups)[None, :] & (tl.arange(0, tiles) >= 0)[:, None]
        total = tl.sum(tl.load(place, mask=there, other=0.0), 0)
        square = tl.sum(tl.load(place + 1, mask=there, other=0.0), 0)
    else:
        totals = tl.zeros([at_once, together, padded], tl.float32)
        squares = tl.zeros([at_once, together, padded], tl.float32)
        for step in range(0, tile_rows, at_once):
            value, _ = _load(
                base, beside, step + tl.arange(0, at_once), rows, channels, first, channel, inside, moved, has_other
            )
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
    beside_target = whole + sample.to(tl.int64) * rows * channels
    added = tl.zeros([together, padded], tl.float32)
    if has_kept_bias:
        added += tl.load(kept_bias + channel, mask=inside, other=0.0).to(tl.float32)
    for step in range(0, tile_rows, at_once):
        at = tile * tile_rows + step + tl.arange(0, at_once)
        value, kept = _load(base, beside, at, rows, channels, first, channel, inside, moved, has_other)
        here = at[:, None, None] * channels + channel[None]
        if keeps:
            tl.store(beside_target + here, (value + added[None]).to(whole.dtype.element_ty), mask=kept)
        value = value * scale[None] + offset[None]
        if silu:
            value = value * tl.sigmoid(value)
        tl.store(target + here, value.to(out.dtype.element_ty), mask=kept)


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
    return launch(x, shift, Norm(weight, bias, groups, eps, silu), wrap_triton)


@triton_op("sdstream::group_norm_of_two", mutates_args=())
def group_norm_of_two(
    x: torch.Tensor,
    other: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    eps: float,
    silu: bool,
) -> torch.Tensor:
    """As `group_norm`, of the channels of `x` and, after them, of `other`, which lie where they are."""
    return launch_two(x, other, None, Norm(weight, bias, groups, eps, silu), wrap_triton, keeps=False)[0]


@triton_op("sdstream::group_norm_kept", mutates_args=())
def group_norm_kept(
    x: torch.Tensor,
    other: torch.Tensor | None,
    kept_bias: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    eps: float,
    silu: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `group_norm_of_two`, and all channels as they came, plus `kept_bias` [C], in memory of their own."""
    return launch_two(x, other, kept_bias, Norm(weight, bias, groups, eps, silu), wrap_triton)


class Norm(NamedTuple):
    """How the `groups` of channels are normed: with `weight` and `bias` [C], `eps` beside the variance, and SiLU of the
    answer if asked for."""

    weight: torch.Tensor
    bias: torch.Tensor
    groups: int
    eps: float
    silu: bool


def launch(x: torch.Tensor, shift: torch.Tensor | None, norm: Norm, wrap: Callable[[Any], Any]) -> torch.Tensor:
    """As `group_norm`; `wrap` makes a kernel ready to be launched."""
    x = x.contiguous(memory_format=torch.channels_last)
    out = torch.empty_like(x)
    _launch(x, norm, out, wrap, shift=shift)
    return out


def launch_two(
    x: torch.Tensor,
    other: torch.Tensor | None,
    kept_bias: torch.Tensor | None,
    norm: Norm,
    wrap: Callable[[Any], Any],
    *,
    keeps: bool = True,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `group_norm_kept`; the second is the first where nothing is kept."""
    x = x.contiguous(memory_format=torch.channels_last)
    channels = x.shape[1]
    if other is not None:
        other = other.contiguous(memory_format=torch.channels_last)
        channels += other.shape[1]
    shape = (x.shape[0], channels, *x.shape[2:])
    out = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    whole = torch.empty_like(out) if keeps else None
    _launch(x, norm, out, wrap, other=other, kept_bias=kept_bias, whole=whole)
    return out, out if whole is None else whole


def _launch(
    x: torch.Tensor,
    norm: Norm,
    out: torch.Tensor,
    wrap: Callable[[Any], Any],
    *,
    other: torch.Tensor | None = None,
    shift: torch.Tensor | None = None,
    kept_bias: torch.Tensor | None = None,
    whole: torch.Tensor | None = None,
) -> None:
    """Write the norm to `out`, and what came to `whole` if given; all pictures are channels last."""
    weight, bias, groups, eps, silu = norm
    samples, channels, rows = out.shape[0], out.shape[1], out.shape[2] * out.shape[3]
    tiling = tiling_of(rows, channels, groups)
    grid = (samples * tiling.tiles, tiling.blocks)
    if shift is not None and shift.stride(-1) != 1:
        shift = shift.contiguous()
    moved = weight if shift is None else shift
    # Rows of a part of something wider lie further apart than they are long.
    stride = shift.stride(0) if shift is not None and shift.dim() == 2 else 0
    shape = {
        "groups": groups,
        "width": channels // groups,
        **tiling.sizes,
        "has_shift": shift is not None,
        "has_other": other is not None,
        "num_warps": 4,
    }
    partial = torch.empty((samples * tiling.tiles, groups, 2), dtype=torch.float32, device=x.device)
    summed = tiling.tiles > 1
    beside = x if other is None else other
    sizes = (rows, channels, x.shape[1], stride)
    if summed:
        wrap(group_norm_sums)[grid](x, beside, moved, partial, *sizes, **shape)
    wrap(group_norm_values)[grid](
        x,
        beside,
        moved,
        partial,
        weight,
        bias,
        weight if kept_bias is None else kept_bias,
        out,
        out if whole is None else whole,
        *sizes,
        eps,
        silu=silu,
        summed=summed,
        keeps=whole is not None,
        has_kept_bias=kept_bias is not None,
        **shape,
    )


__all__ = ["Norm", "TritonError", "group_norm", "group_norm_kept", "group_norm_of_two", "launch", "launch_two"]
