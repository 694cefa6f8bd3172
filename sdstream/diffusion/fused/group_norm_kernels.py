"""A group norm for channels-last pictures, in Triton: small groups in one launch, others in two, all in a fixed order.

A small group is one block's, which keeps its values in registers. The few channels of a larger one lie in rows of
hundreds, so there a block takes channels that lie side by side, whatever group they are of, of some rows: reads are
whole lines, and there are blocks for every processor. Sums of tiles come first, then every value once more. Sums are
float32 and added in a fixed order: the same picture gives the same answer.
"""

# Triton's language has no types, and is installed only where torch is for CUDA.
# pyright: basic, reportMissingModuleSource=false

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch.library import triton_op, wrap_triton

from sdstream.diffusion.fused.group_norm_tiling import Whole, tiling_of


@triton.jit
def _load(base, beside, at, begin, channel, there, rows, channels, first, has_other: tl.constexpr, apart: tl.constexpr):
    """Values [rows, columns] as float32, of two pictures side by side if there is an `other`; zero where a channel is
    not `there`, and beyond the last row. Channels `begin` there, and `apart` says that no block has some of both
    pictures, so that one address is enough."""
    kept = (at < rows)[:, None] & there[None, :]
    if not has_other:
        value = tl.load(base + at[:, None] * channels + channel[None, :], mask=kept, other=0.0).to(tl.float32)
    elif apart:
        second = begin >= first
        source = tl.where(second, beside - first, base)
        stride = tl.where(second, channels - first, first)
        value = tl.load(source + at[:, None] * stride + channel[None, :], mask=kept, other=0.0).to(tl.float32)
    else:
        in_first = (channel < first)[None, :]
        place = base + at[:, None] * first + channel[None, :]
        value = tl.load(place, mask=kept & in_first, other=0.0).to(tl.float32)
        place = beside + at[:, None] * (channels - first) + (channel - first)[None, :]
        value += tl.load(place, mask=kept & (channel >= first)[None, :], other=0.0).to(tl.float32)
    return value, kept


@triton.jit
def _write(
    value,
    scale,
    offset,
    kept_bias,
    out,
    whole,
    place,
    channel,
    there,
    kept,
    factor,
    silu: tl.constexpr,
    keeps: tl.constexpr,
    has_kept_bias: tl.constexpr,
    small: tl.constexpr,
):
    if keeps:
        came = value
        if has_kept_bias:
            came += tl.load(kept_bias + channel, mask=there, other=0.0).to(tl.float32)[None, :]
        tl.store(whole + place, came.to(whole.dtype.element_ty), mask=kept)
    value = value * scale[None, :] + offset[None, :]
    if silu:
        value = value * tl.sigmoid(value)
    if small:  # a NaN must show in the answer
        value = tl.clamp(value * factor, -448.0, 448.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(out + place, value.to(out.dtype.element_ty), mask=kept)


@triton.jit
def group_norm_whole(
    x,
    other,
    shift,
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
    factor,
    groups: tl.constexpr,
    width: tl.constexpr,
    padded_rows: tl.constexpr,
    padded: tl.constexpr,
    has_shift: tl.constexpr,
    has_other: tl.constexpr,
    apart: tl.constexpr,
    silu: tl.constexpr,
    keeps: tl.constexpr,
    has_kept_bias: tl.constexpr,
    small: tl.constexpr,
):
    """All of one group of one picture in one block, whose values are read once."""
    sample = tl.program_id(0) // groups
    column = tl.arange(0, padded)
    there = column < width
    begin = (tl.program_id(0) % groups) * width
    channel = begin + column
    at = tl.arange(0, padded_rows)
    picture = sample.to(tl.int64) * rows
    base = x + picture * (first if has_other else channels)
    beside = other + picture * (channels - first)
    value, kept = _load(base, beside, at, begin, channel, there, rows, channels, first, has_other, apart)
    if has_shift:
        moved = tl.load(shift + sample * shift_stride + channel, mask=there, other=0.0)
        value = tl.where(kept, value + moved.to(tl.float32)[None, :], 0.0)
    count = rows * width
    mean = tl.sum(tl.sum(value, 0), 0) / count
    distance = tl.where(kept, value - mean, 0.0)
    variance = tl.sum(tl.sum(distance * distance, 0), 0) / count
    scale = tl.load(weight + channel, mask=there, other=0.0).to(tl.float32) * tl.rsqrt(variance + eps)
    offset = tl.load(bias + channel, mask=there, other=0.0).to(tl.float32) - mean * scale
    place = at[:, None] * channels + channel[None, :]
    out += picture * channels
    whole += picture * channels
    ends = (factor, silu, keeps, has_kept_bias, small)
    _write(value, scale, offset, kept_bias, out, whole, place, channel, there, kept, *ends)


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
    columns: tl.constexpr,
    spans: tl.constexpr,
    slots: tl.constexpr,
    at_once: tl.constexpr,
    tiles: tl.constexpr,
    tile_rows: tl.constexpr,
    has_shift: tl.constexpr,
    has_other: tl.constexpr,
    apart: tl.constexpr,
):
    """Sums of the values, and of their squares beside them, of a block's share of each of its groups, to `partial`
    [pictures, groups, tiles, slots, 2]."""
    sample = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    block = tl.program_id(1)
    begin = block * columns
    channel = begin + tl.arange(0, columns)
    there = channel < channels
    picture = sample.to(tl.int64) * rows
    base = x + picture * (first if has_other else channels)
    beside = other + picture * (channels - first)
    moved = tl.zeros([columns], tl.float32)
    if has_shift:
        moved += tl.load(shift + sample * shift_stride + channel, mask=there, other=0.0).to(tl.float32)
    total = tl.zeros([at_once, columns], tl.float32)
    squares = tl.zeros([at_once, columns], tl.float32)
    for step in range(0, tile_rows, at_once):
        at = tile * tile_rows + step + tl.arange(0, at_once)
        value, kept = _load(base, beside, at, begin, channel, there, rows, channels, first, has_other, apart)
        if has_shift:
            value = tl.where(kept, value + moved[None, :], 0.0)
        total += value
        squares += value * value
    group = begin // width + tl.arange(0, spans)
    mine = (channel // width)[None, :] == group[:, None]
    total_of = tl.sum(tl.where(mine, tl.sum(total, 0)[None, :], 0.0), 1)
    squares_of = tl.sum(tl.where(mine, tl.sum(squares, 0)[None, :], 0.0), 1)
    share = block - group * width // columns
    ours = (group < groups) & (group * width < begin + columns)
    place = partial + (((sample * groups + group) * tiles + tile) * slots + share) * 2
    tl.store(place, total_of, mask=ours)
    tl.store(place + 1, squares_of, mask=ours)


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
    factor,
    groups: tl.constexpr,
    width: tl.constexpr,
    columns: tl.constexpr,
    spans: tl.constexpr,
    slots: tl.constexpr,
    at_once: tl.constexpr,
    tiles: tl.constexpr,
    tile_rows: tl.constexpr,
    has_shift: tl.constexpr,
    has_other: tl.constexpr,
    apart: tl.constexpr,
    silu: tl.constexpr,
    keeps: tl.constexpr,
    has_kept_bias: tl.constexpr,
    small: tl.constexpr,
):
    """Every value once more, with what `group_norm_sums` has found."""
    sample = tl.program_id(0) // tiles
    tile = tl.program_id(0) % tiles
    block = tl.program_id(1)
    begin = block * columns
    channel = begin + tl.arange(0, columns)
    there = channel < channels
    picture = sample.to(tl.int64) * rows
    base = x + picture * (first if has_other else channels)
    beside = other + picture * (channels - first)
    group = begin // width + tl.arange(0, spans)
    number = (group * width + width - 1) // columns - group * width // columns + 1
    slot = tl.arange(0, tiles * slots)
    sums = partial + ((sample * groups + group[None, :]) * (tiles * slots) + slot[:, None]) * 2
    ours = (group < groups)[None, :] & ((slot % slots)[:, None] < number[None, :])
    # Side by side, sums and squares are one sum, for which threads wait for each other once; so are mean and inverse.
    both = tl.join(tl.load(sums, mask=ours, other=0.0), tl.load(sums + 1, mask=ours, other=0.0))
    total, square = tl.split(tl.sum(both, 0))
    count = rows * width
    mean_of = total / count
    inverse_of = tl.rsqrt(tl.maximum(square / count - mean_of * mean_of, 0.0) + eps)
    mine = (channel // width)[None, :] == group[:, None]
    both_of = tl.join(mean_of, inverse_of)
    mean, inverse = tl.split(tl.sum(tl.where(mine[:, :, None], both_of[:, None, :], 0.0), 0))
    scale = tl.load(weight + channel, mask=there, other=0.0).to(tl.float32) * inverse
    offset = tl.load(bias + channel, mask=there, other=0.0).to(tl.float32) - mean * scale
    moved = tl.zeros([columns], tl.float32)
    out += picture * channels
    whole += picture * channels
    if has_shift:
        moved += tl.load(shift + sample * shift_stride + channel, mask=there, other=0.0).to(tl.float32)
    for step in range(0, tile_rows, at_once):
        at = tile * tile_rows + step + tl.arange(0, at_once)
        value, kept = _load(base, beside, at, begin, channel, there, rows, channels, first, has_other, apart)
        if has_shift:
            value += moved[None, :]
        place = at[:, None] * channels + channel[None, :]
        ends = (factor, silu, keeps, has_kept_bias, small)
        _write(value, scale, offset, kept_bias, out, whole, place, channel, there, kept, *ends)


@triton_op("sdstream::group_norm", mutates_args=())
def group_norm(
    x: torch.Tensor,
    shift: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    eps: float,
    silu: bool,
    factor: float,
) -> torch.Tensor:
    """Group norm of `x` [N, C, H, W] + `shift` [N, C] or [C], times `weight` and plus `bias` [C], then SiLU if asked
    for. Answers channels last, in the type of `x`, or, where `factor` is not 0, times that in eight bits; sums are
    float32."""
    return launch(x, shift, Norm(weight, bias, groups, eps, silu, factor), wrap_triton)


@triton_op("sdstream::group_norm_of_two", mutates_args=())
def group_norm_of_two(
    x: torch.Tensor,
    other: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor,
    groups: int,
    eps: float,
    silu: bool,
    factor: float,
) -> torch.Tensor:
    """As `group_norm`, of the channels of `x` and, after them, of `other`, which lie where they are."""
    return launch_two(x, other, None, Norm(weight, bias, groups, eps, silu, factor), wrap_triton, keeps=False)[0]


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
    factor: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `group_norm_of_two`, and all channels as they came, plus `kept_bias` [C], in memory of their own."""
    return launch_two(x, other, kept_bias, Norm(weight, bias, groups, eps, silu, factor), wrap_triton)


class Norm(NamedTuple):
    """How the `groups` of channels are normed: with `weight` and `bias` [C], `eps` beside the variance, and SiLU of the
    answer if asked for. With a `factor` that is multiplied by it and of the dtype `small`."""

    weight: torch.Tensor
    bias: torch.Tensor
    groups: int
    eps: float
    silu: bool
    factor: float = 0.0
    small: torch.dtype = torch.float8_e4m3fn

    def dtype_of(self, x: torch.Tensor) -> torch.dtype:
        """Of the answer."""
        return self.small if self.factor else x.dtype


def launch(x: torch.Tensor, shift: torch.Tensor | None, norm: Norm, wrap: Callable[[Any], Any]) -> torch.Tensor:
    """As `group_norm`; `wrap` makes a kernel ready to be launched."""
    x = x.contiguous(memory_format=torch.channels_last)
    out = torch.empty_like(x, dtype=norm.dtype_of(x))
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
    out = torch.empty(shape, dtype=norm.dtype_of(x), device=x.device, memory_format=torch.channels_last)
    whole = torch.empty_like(out, dtype=x.dtype) if keeps else None
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
    weight, bias, groups, eps, silu, factor, _ = norm
    samples, channels, rows = out.shape[0], out.shape[1], out.shape[2] * out.shape[3]
    first, width = x.shape[1], channels // groups
    tiling = tiling_of(rows, channels, groups)
    if shift is not None and shift.stride(-1) != 1:
        shift = shift.contiguous()
    moved = weight if shift is None else shift
    # Rows of a part of something wider lie further apart than they are long.
    stride = shift.stride(0) if shift is not None and shift.dim() == 2 else 0
    beside = x if other is None else other
    sizes = (rows, channels, first, stride)
    given = {"groups": groups, "width": width, "has_shift": shift is not None, "has_other": other is not None}
    ends = {"silu": silu, "keeps": whole is not None, "has_kept_bias": kept_bias is not None, "small": factor != 0.0}
    tensors = (weight, bias, weight if kept_bias is None else kept_bias, out, out if whole is None else whole)
    if isinstance(tiling, Whole):
        given |= {"padded_rows": tiling.padded_rows, "padded": tiling.padded, "apart": first % width == 0}
        wrap(group_norm_whole)[(samples * groups,)](
            x, beside, moved, *tensors, *sizes, eps, factor, **given, **ends, num_warps=tiling.warps
        )
        return
    grid = (samples * tiling.tiles, tiling.blocks)
    given |= {**tiling.sizes, "apart": first % tiling.columns == 0}
    partial = torch.empty((samples, groups, tiling.tiles, tiling.slots, 2), dtype=torch.float32, device=x.device)
    wrap(group_norm_sums)[grid](x, beside, moved, partial, *sizes, **given, num_warps=4)
    wrap(group_norm_values)[grid](
        x, beside, moved, partial, *tensors, *sizes, eps, factor, **given, **ends, num_warps=4
    )


__all__ = ["Norm", "group_norm", "group_norm_kept", "group_norm_of_two", "launch", "launch_two"]
