"""Activations in eight bits, in one step with the norm or the gate that makes them, in Triton. Arithmetic is float32.

A program has one row: its largest number must be known before the first can be written. What the plain twins round to
half precision in between is rounded here, too, so that both come to the same eight bits.
"""

# Triton's language has no types, and is installed only where torch is for CUDA.
# pyright: basic, reportMissingModuleSource=false

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch.library import triton_op, wrap_triton

from sdstream.diffusion.fused.pointwise_kernels import gated_value, norm_of_row, sum_of_row

ROWS, COLUMNS = 16, 64
"""Of a block where values do not depend on each other."""
SMALL = torch.float8_e4m3fn
FEW, MANY = 4, 8
"""Warps for rows of up to 2048 numbers, and for longer ones."""


@triton.jit
def _larger(one, other):
    return tl.maximum(one, other, propagate_nan=tl.PropagateNan.ALL)


@triton.jit
def _store(value, kept, column, width, out, scales):
    """Write the row in eight bits, and its scale."""
    row = tl.program_id(0).to(tl.int64)
    top = tl.reduce(tl.where(kept, tl.abs(value), 0.0), 0, _larger)  # a NaN must show in the answer
    top = tl.where(top == 0.0, 448.0, top)
    small = tl.clamp(value * tl.div_rn(448.0, top), -448.0, 448.0, propagate_nan=tl.PropagateNan.ALL)
    tl.store(out + row * width + column, small.to(out.dtype.element_ty), mask=kept)
    tl.store(scales + row, tl.div_rn(top, 448.0))


@triton.jit
def quantised_values(x, out, scales, width, at_once: tl.constexpr):
    column = tl.arange(0, at_once)
    kept = column < width
    start = tl.program_id(0).to(tl.int64) * width
    value = tl.load(x + start + column, mask=kept, other=0.0).to(tl.float32)
    _store(value, kept, column, width, out, scales)


@triton.jit
def gated_quantised_values(x, out, scales, width, at_once: tl.constexpr):
    column = tl.arange(0, at_once)
    kept = column < width
    place = x + tl.program_id(0).to(tl.int64) * 2 * width + column
    value = tl.load(place, mask=kept, other=0.0).to(tl.float32)
    gate = tl.load(place + width, mask=kept, other=0.0).to(tl.float32)
    _store(gated_value(value, gate).to(x.dtype.element_ty).to(tl.float32), kept, column, width, out, scales)


@triton.jit
def normed_quantised_values(x, weight, shift, out, scales, width, eps, at_once: tl.constexpr):
    column = tl.arange(0, at_once)
    kept = column < width
    start = tl.program_id(0).to(tl.int64) * width
    value = tl.load(x + start + column, mask=kept, other=0.0).to(tl.float32)
    made = norm_of_row(value, kept, column, width, weight, shift, eps, 0)
    _store(made.to(x.dtype.element_ty).to(tl.float32), kept, column, width, out, scales)


@triton.jit
def summed_norm_quantised_values(
    one,
    other,
    bias,
    weight,
    shift,
    after,
    sums,
    out,
    scales,
    width,
    eps,
    has_after: tl.constexpr,
    at_once: tl.constexpr,
):
    column = tl.arange(0, at_once)
    kept = column < width
    start = tl.program_id(0).to(tl.int64) * width
    value = sum_of_row(one, other, bias, after, sums, start, column, width, kept, has_after)
    made = norm_of_row(value, kept, column, width, weight, shift, eps, 0)
    _store(made.to(sums.dtype.element_ty).to(tl.float32), kept, column, width, out, scales)


@triton.jit
def scaled_values(
    whole, by_row, by_column, bias, out, rows, width, some_rows: tl.constexpr, some_columns: tl.constexpr
):
    row = tl.program_id(0) * some_rows + tl.arange(0, some_rows)[:, None]
    column = tl.program_id(1) * some_columns + tl.arange(0, some_columns)[None, :]
    kept = (row < rows) & (column < width)
    at = row.to(tl.int64) * width + column
    value = tl.load(whole + at, mask=kept) * tl.load(by_row + row, mask=row < rows)
    value = value * tl.load(by_column + column, mask=column < width)
    value += tl.load(bias + column, mask=column < width).to(tl.float32)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=kept)


@triton_op("sdstream::quantised", mutates_args=())
def quantised(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """See `sdstream.diffusion.eight_bit.products`: values of the shape of `x`, and scales [rows, 1]."""
    return launch_quantised(x, wrap_triton)


@triton_op("sdstream::gated_quantised", mutates_args=())
def gated_quantised(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of what `sdstream.diffusion.fused.pointwise.gated` answers."""
    return launch_gated_quantised(x, wrap_triton)


@triton_op("sdstream::normed_quantised", mutates_args=())
def normed_quantised(
    x: torch.Tensor, weight: torch.Tensor, shift: torch.Tensor, eps: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same of the layer norm of `x`."""
    return launch_normed_quantised(x, weight, shift, eps, wrap_triton)


@triton_op("sdstream::summed_norm_quantised", mutates_args=())
def summed_norm_quantised(
    one: torch.Tensor,
    other: torch.Tensor,
    bias: torch.Tensor,
    weight: torch.Tensor,
    shift: torch.Tensor,
    eps: float,
    after: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `sdstream.diffusion.fused.pointwise.summed_norm`; of the second answer values and scales."""
    return launch_summed_norm_quantised(one, other, bias, weight, shift, eps, after, wrap_triton)


@triton_op("sdstream::scaled", mutates_args=())
def scaled(whole: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """See `sdstream.diffusion.eight_bit.products`."""
    return launch_scaled(whole, rows, columns, bias, wrap_triton)


def launch_quantised(
    x: torch.Tensor, wrap: Callable[[Any], Any], kind: torch.dtype = SMALL
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `quantised`; `wrap` makes a kernel ready to be launched, and `kind` is what values are written as: Triton's
    interpreter rounds to eight bits wrongly, so it is tried without."""
    x = x.contiguous()
    out, scales, options = _room(x, x.shape[-1], kind)
    wrap(quantised_values)[(len(scales),)](x, out, scales, x.shape[-1], **options)
    return out, scales


def launch_gated_quantised(
    x: torch.Tensor, wrap: Callable[[Any], Any], kind: torch.dtype = SMALL
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `gated_quantised`."""
    x = x.contiguous()
    width = x.shape[-1] // 2
    out, scales, options = _room(x, width, kind)
    wrap(gated_quantised_values)[(len(scales),)](x, out, scales, width, **options)
    return out, scales


def launch_normed_quantised(
    x: torch.Tensor,
    weight: torch.Tensor,
    shift: torch.Tensor,
    eps: float,
    wrap: Callable[[Any], Any],
    kind: torch.dtype = SMALL,
) -> tuple[torch.Tensor, torch.Tensor]:
    """As `normed_quantised`."""
    x = x.contiguous()
    out, scales, options = _room(x, x.shape[-1], kind)
    wrap(normed_quantised_values)[(len(scales),)](x, weight, shift, out, scales, x.shape[-1], eps, **options)
    return out, scales


def launch_summed_norm_quantised(
    one: torch.Tensor,
    other: torch.Tensor,
    bias: torch.Tensor,
    weight: torch.Tensor,
    shift: torch.Tensor,
    eps: float,
    after: torch.Tensor | None,
    wrap: Callable[[Any], Any],
    kind: torch.dtype = SMALL,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `summed_norm_quantised`."""
    one, other = one.contiguous(), other.contiguous()
    sums = torch.empty_like(one)
    out, scales, options = _room(one, one.shape[-1], kind)
    wrap(summed_norm_quantised_values)[(len(scales),)](
        one,
        other,
        bias,
        weight,
        shift,
        bias if after is None else after,
        sums,
        out,
        scales,
        one.shape[-1],
        eps,
        after is not None,
        **options,
    )
    return sums, out, scales


def launch_scaled(
    whole: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, bias: torch.Tensor, wrap: Callable[[Any], Any]
) -> torch.Tensor:
    """As `scaled`."""
    whole = whole.contiguous()
    count, width = whole.shape
    out = torch.empty_like(whole, dtype=bias.dtype)
    grid = (-(-count // ROWS), -(-width // COLUMNS))
    wrap(scaled_values)[grid](whole, rows, columns, bias, out, count, width, ROWS, COLUMNS)
    return out


def _room(x: torch.Tensor, width: int, kind: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, dict[str, int]]:
    """Memory for values of `x` [..., width] and for the rows' scales, and how a kernel of whole rows is launched."""
    out = x.new_empty((*x.shape[:-1], width), dtype=kind)
    scales = x.new_empty((out.numel() // width, 1), dtype=torch.float32)
    at_once = 1 << (width - 1).bit_length()
    return out, scales, {"at_once": at_once, "num_warps": FEW if at_once <= 2048 else MANY}


__all__ = [
    "gated_quantised",
    "launch_gated_quantised",
    "launch_normed_quantised",
    "launch_quantised",
    "launch_scaled",
    "launch_summed_norm_quantised",
    "normed_quantised",
    "quantised",
    "scaled",
    "summed_norm_quantised",
]
