"""Sums with biases, gates, layer norms and doubled pictures in one step each, in Triton. Arithmetic is float32."""

# Triton's language has no types, and is installed only where torch is for CUDA.
# pyright: basic, reportMissingModuleSource=false

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch.library import triton_op, wrap_triton

ROWS, COLUMNS = 16, 64
"""Of a block where values do not depend on each other: lines of memory are read whole."""
VALUES = 2048
"""Of a block of the kernels that move the most: two accesses of 16 bytes to each tensor for every thread."""
GATED_COLUMNS = 256
"""Of such a block of gates, at most."""
SHORT = 512
"""Numbers of a row of a norm, filled up: two of them a block, of two warps, were the fastest on an H200."""
FEWEST, FEW, MANY = 2, 4, 8
"""Warps for such rows, for those of up to `VALUES` numbers, and for longer ones."""
AT_ONCE = 2048
"""Values of a block that has no columns."""


@triton.jit
def _block(rows, width, some_rows: tl.constexpr, some_columns: tl.constexpr):
    """The rows and columns of a block, and which of them there are."""
    row = tl.program_id(0) * some_rows + tl.arange(0, some_rows)[:, None]
    column = tl.program_id(1) * some_columns + tl.arange(0, some_columns)[None, :]
    return row.to(tl.int64), column, (row < rows) & (column < width)


@triton.jit
def gated_value(value, gate):
    """GEGLU's product: `value` times the GELU of `gate`.

    GELU is max(x, 0) less |x| times the normal distribution's tail beyond |x|, and that is by formula 7.1.26 of
    Abramowitz and Stegun, within 7.5e-8. The library's erf takes twice the instructions, which is what this waits for.
    """
    size = tl.abs(gate)
    root = tl.rsqrt(1.0 + 0.23164189 * size)  # its square is the quotient that a division takes more steps for
    t = root * root
    tail = ((((0.5307027145 * t - 0.7265760135) * t + 0.7107068705) * t - 0.142248368) * t + 0.127414796) * t
    return value * (tl.maximum(gate, 0.0) - size * (tail * tl.exp2(-0.72134752 * gate * gate)))


@triton.jit
def norm_of_row(value, kept, column, width, weight, shift, eps, axis: tl.constexpr):
    """The layer norm of a row, or of each row of a block, along `axis`, the last one."""
    middle = tl.sum(value, axis, keep_dims=True) / width
    centred = tl.where(kept, value - middle, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred, axis, keep_dims=True) / width + eps)
    there = column < width
    scale = scale * tl.load(weight + column, mask=there, other=0.0).to(tl.float32)
    return centred * scale + tl.load(shift + column, mask=there, other=0.0).to(tl.float32)


@triton.jit
def sum_of_row(one, other, bias, after, sums, start, column, width, kept, has_after: tl.constexpr):
    """The sum of a row and a bias as it would be in memory, or of each row of a block. `sums` gets the same with
    `after`, if there is one."""
    there = column < width
    value = tl.load(other + start + column, mask=kept, other=0.0).to(tl.float32)
    value += tl.load(bias + column, mask=there, other=0.0).to(tl.float32)
    value += tl.load(one + start + column, mask=kept, other=0.0).to(tl.float32)
    rounded = value.to(sums.dtype.element_ty).to(tl.float32)
    if has_after:
        value += tl.load(after + column, mask=there, other=0.0).to(tl.float32)
    tl.store(sums + start + column, value.to(sums.dtype.element_ty), mask=kept)
    return rounded


@triton.jit
def biased_sum_values(
    one,
    other,
    bias,
    more,
    out,
    rows,
    channels,
    has_more: tl.constexpr,
    some_rows: tl.constexpr,
    some_columns: tl.constexpr,
):
    row, channel, kept = _block(rows, channels, some_rows, some_columns)
    at = row * channels + channel
    moved = tl.load(bias + channel, mask=channel < channels).to(tl.float32)
    if has_more:
        moved += tl.load(more + channel, mask=channel < channels).to(tl.float32)
    value = tl.load(other + at, mask=kept).to(tl.float32) + moved + tl.load(one + at, mask=kept).to(tl.float32)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=kept)


@triton.jit
def gated_values(x, out, rows, width, some_rows: tl.constexpr, some_columns: tl.constexpr):
    row, column, kept = _block(rows, width, some_rows, some_columns)
    place = x + row * 2 * width + column
    value = tl.load(place, mask=kept).to(tl.float32)
    gate = tl.load(place + width, mask=kept).to(tl.float32)
    tl.store(out + row * width + column, gated_value(value, gate).to(out.dtype.element_ty), mask=kept)


@triton.jit
def norm_values(
    one,
    other,
    bias,
    weight,
    shift,
    after,
    sums,
    out,
    rows,
    width,
    eps,
    is_summed: tl.constexpr,
    has_after: tl.constexpr,
    some_rows: tl.constexpr,
    at_once: tl.constexpr,
):
    """Layer norms of `some_rows` whole rows: of a sum, or of `one` alone."""
    row = tl.program_id(0) * some_rows + tl.arange(0, some_rows)[:, None]
    column = tl.arange(0, at_once)[None, :]
    kept = (row < rows) & (column < width)
    start = row.to(tl.int64) * width
    if is_summed:
        value = sum_of_row(one, other, bias, after, sums, start, column, width, kept, has_after)
    else:
        value = tl.load(one + start + column, mask=kept, other=0.0).to(tl.float32)
    made = norm_of_row(value, kept, column, width, weight, shift, eps, 1)
    tl.store(out + start + column, made.to(out.dtype.element_ty), mask=kept)


@triton.jit
def doubled_values(x, out, pixels, width, channels, some_rows: tl.constexpr, some_columns: tl.constexpr):
    # Pixels are counted in 32 bits, for what is divided: values of memory may be more.
    pixel = tl.program_id(0) * some_rows + tl.arange(0, some_rows)[:, None]
    channel = tl.program_id(1) * some_columns + tl.arange(0, some_columns)[None, :]
    kept = (pixel < pixels) & (channel < channels)
    value = tl.load(x + pixel.to(tl.int64) * channels + channel, mask=kept)
    # Each line has `width` pixels, and begins as many lines of twice the width lower.
    place = out + (2 * (pixel + pixel // width * width)).to(tl.int64) * channels + channel
    below = place + 2 * width * channels
    tl.store(place, value, mask=kept)
    tl.store(place + channels, value, mask=kept)
    tl.store(below, value, mask=kept)
    tl.store(below + channels, value, mask=kept)


@triton.jit
def biased_values(x, bias, values, channels: tl.constexpr, at_once: tl.constexpr):
    """`channels` is known to the compiler: what is divided by it is no division then, and few channels, such as those
    of colours, leave no part of a block idle."""
    begin = tl.program_id(0).to(tl.int64) * at_once
    place = begin + tl.arange(0, at_once)
    kept = place < values
    channel = ((begin % channels).to(tl.int32) + tl.arange(0, at_once)) % channels
    if channels % 8 == 0:  # which the compiler does not find out by itself
        channel = tl.max_contiguous(tl.multiple_of(channel, 8), 8)
    value = tl.load(x + place, mask=kept).to(tl.float32) + tl.load(bias + channel).to(tl.float32)
    tl.store(x + place, value.to(x.dtype.element_ty), mask=kept)


@triton_op("sdstream::biased_sum", mutates_args=())
def biased_sum(one: torch.Tensor, other: torch.Tensor, bias: torch.Tensor, more: torch.Tensor | None) -> torch.Tensor:
    """See `sdstream.diffusion.fused.pointwise`. Answers channels last."""
    return launch_biased_sum(one, other, bias, more, wrap_triton)


@triton_op("sdstream::gated", mutates_args=())
def gated(x: torch.Tensor) -> torch.Tensor:
    """See `sdstream.diffusion.fused.pointwise`."""
    return launch_gated(x, wrap_triton)


@triton_op("sdstream::summed_norm", mutates_args=())
def summed_norm(
    one: torch.Tensor,
    other: torch.Tensor,
    bias: torch.Tensor,
    weight: torch.Tensor,
    shift: torch.Tensor,
    eps: float,
    after: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """See `sdstream.diffusion.fused.pointwise`."""
    return launch_summed_norm(one, other, bias, weight, shift, eps, after, wrap_triton)


@triton_op("sdstream::normed", mutates_args=())
def normed(x: torch.Tensor, weight: torch.Tensor, shift: torch.Tensor, eps: float) -> torch.Tensor:
    """See `sdstream.diffusion.fused.pointwise`."""
    return launch_normed(x, weight, shift, eps, wrap_triton)


@triton_op("sdstream::doubled", mutates_args=())
def doubled(x: torch.Tensor) -> torch.Tensor:
    """See `sdstream.diffusion.fused.pointwise`. Answers channels last."""
    return launch_doubled(x, wrap_triton)


@triton_op("sdstream::add_bias", mutates_args={"x"})
def add_bias(x: torch.Tensor, bias: torch.Tensor) -> None:
    """See `sdstream.diffusion.fused.pointwise`. `x` lies channels last."""
    launch_add_bias(x, bias, wrap_triton)


def launch_biased_sum(
    one: torch.Tensor,
    other: torch.Tensor,
    bias: torch.Tensor,
    more: torch.Tensor | None,
    wrap: Callable[[Any], Any],
) -> torch.Tensor:
    """As `biased_sum`; `wrap` makes a kernel ready to be launched."""
    one, other = (part.contiguous(memory_format=torch.channels_last) for part in (one, other))
    out = torch.empty_like(one)
    channels = one.shape[1]
    rows = one.numel() // channels
    wrap(biased_sum_values)[_grid(rows, channels)](
        one, other, bias, bias if more is None else more, out, rows, channels, more is not None, ROWS, COLUMNS
    )
    return out


def launch_gated(x: torch.Tensor, wrap: Callable[[Any], Any]) -> torch.Tensor:
    """As `gated`."""
    x = x.contiguous()
    width = x.shape[-1] // 2
    out = x.new_empty((*x.shape[:-1], width))
    rows = out.numel() // width
    some_columns = min(GATED_COLUMNS, _padded(width))
    some_rows = VALUES // some_columns
    grid = (-(-rows // some_rows), -(-width // some_columns))
    wrap(gated_values)[grid](x, out, rows, width, some_rows, some_columns, num_warps=FEW)
    return out


def launch_summed_norm(
    one: torch.Tensor,
    other: torch.Tensor,
    bias: torch.Tensor,
    weight: torch.Tensor,
    shift: torch.Tensor,
    eps: float,
    after: torch.Tensor | None,
    wrap: Callable[[Any], Any],
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `summed_norm`."""
    one, other = one.contiguous(), other.contiguous()
    sums, out = torch.empty_like(one), torch.empty_like(one)
    summed = (other, bias, bias if after is None else after, sums)
    _launch_norm(one, summed, weight, shift, out, eps, wrap, has_after=after is not None)
    return sums, out


def launch_normed(
    x: torch.Tensor, weight: torch.Tensor, shift: torch.Tensor, eps: float, wrap: Callable[[Any], Any]
) -> torch.Tensor:
    """As `normed`."""
    x = x.contiguous()
    out = torch.empty_like(x)
    _launch_norm(x, None, weight, shift, out, eps, wrap)
    return out


def _launch_norm(
    one: torch.Tensor,
    summed: tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor] | None,
    weight: torch.Tensor,
    shift: torch.Tensor,
    out: torch.Tensor,
    eps: float,
    wrap: Callable[[Any], Any],
    *,
    has_after: bool = False,
) -> None:
    """`summed` is what is added to `one`, its bias, what is added after, and where the sum goes."""
    other, bias, after, sums = (one, weight, weight, out) if summed is None else summed
    width = one.shape[-1]
    rows = one.numel() // width
    at_once = _padded(width)
    short = at_once <= SHORT
    some_rows = max(1, (2 * SHORT if short else VALUES) // at_once)
    wrap(norm_values)[(-(-rows // some_rows),)](
        one,
        other,
        bias,
        weight,
        shift,
        after,
        sums,
        out,
        rows,
        width,
        eps,
        summed is not None,
        has_after,
        some_rows,
        at_once,
        num_warps=FEWEST if short else FEW if at_once <= VALUES else MANY,
    )


def _padded(width: int) -> int:
    """The least power of two that is not below `width`."""
    return 1 << (width - 1).bit_length()


def launch_doubled(x: torch.Tensor, wrap: Callable[[Any], Any]) -> torch.Tensor:
    """As `doubled`."""
    order = torch.channels_last
    x = x.contiguous(memory_format=order)
    batch, channels, height, width = x.shape
    out = torch.empty((batch, channels, 2 * height, 2 * width), dtype=x.dtype, device=x.device, memory_format=order)
    pixels = batch * height * width
    wrap(doubled_values)[_grid(pixels, channels)](x, out, pixels, width, channels, ROWS, COLUMNS)
    return out


def launch_add_bias(x: torch.Tensor, bias: torch.Tensor, wrap: Callable[[Any], Any]) -> None:
    """As `add_bias`."""
    assert x.is_contiguous(memory_format=torch.channels_last), "what is written in place lies channels last"
    values = x.numel()
    wrap(biased_values)[(-(-values // AT_ONCE),)](x, bias, values, x.shape[1], AT_ONCE)


def _grid(rows: int, width: int) -> tuple[int, int]:
    return -(-rows // ROWS), -(-width // COLUMNS)


__all__ = [
    "add_bias",
    "biased_sum",
    "doubled",
    "gated",
    "launch_add_bias",
    "launch_biased_sum",
    "launch_doubled",
    "launch_gated",
    "launch_normed",
    "launch_summed_norm",
    "normed",
    "summed_norm",
]
