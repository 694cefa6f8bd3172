"""A linear layer and the gate behind it in one step, in Triton: what the gate takes in never goes to memory.

A block multiplies its rows by the columns of the values and by those of their gates at the same time. Products are
summed in float32, in a fixed order, and the gate works on them as they are.
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

from sdstream.diffusion.convolving.tilings import Tiling, tiling_named
from sdstream.diffusion.fused.pointwise_kernels import gated_value


@triton.jit
def gated_product_values(
    x,
    weight,
    bias,
    out,
    rows,
    columns,
    depth,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
    block_depth: tl.constexpr,
    together: tl.constexpr,
    has_bias: tl.constexpr,
):
    """One block of `out` [rows, columns] of `x` [rows, depth] and `weight` [2 columns, depth]. `depth` is a multiple of
    that of a block."""
    row_blocks = tl.cdiv(rows, block_rows)
    column_blocks = tl.cdiv(columns, block_columns)
    # Programs that run at the same time should read the same rows and weights: `together` row blocks in a band.
    number = tl.program_id(0)
    band = number // (together * column_blocks)
    first = band * together
    high = tl.minimum(row_blocks - first, together)
    inside = number - band * together * column_blocks
    row = (first + inside % high) * block_rows + tl.arange(0, block_rows)
    column = (inside // high) * block_columns + tl.arange(0, block_columns)
    # Beyond the end another row is read again, which is cheaper than a mask in every step.
    place = tl.arange(0, block_depth)
    asked = x + tl.where(row < rows, row, 0)[:, None].to(tl.int64) * depth + place[None, :]
    factors = weight + tl.where(column < columns, column, 0)[None, :] * depth + place[:, None]
    beside = columns * depth
    value = tl.zeros([block_rows, block_columns], tl.float32)
    gate = tl.zeros([block_rows, block_columns], tl.float32)
    for step in range(0, depth, block_depth):
        some = tl.load(asked + step)
        value = tl.dot(some, tl.load(factors + step), value)
        gate = tl.dot(some, tl.load(factors + (beside + step)), gate)
    if has_bias:
        value += tl.load(bias + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]
        gate += tl.load(bias + columns + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]
    target = out + row[:, None].to(tl.int64) * columns + column[None, :]
    kept = (row < rows)[:, None] & (column < columns)[None, :]
    tl.store(target, gated_value(value, gate).to(out.dtype.element_ty), mask=kept)


@triton_op("sdstream::gated_product", mutates_args=())
def gated_product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, tiling: str) -> torch.Tensor:
    """`x` [..., in] times `weight` [2 out, in] plus `bias` [2 out]: the first half of that times GELU of the second.

    `tiling` is the name of one, without parts, whose depth divides `in`.
    """
    return launch(x, weight, bias, tiling_named(tiling), wrap_triton)


def launch(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    tiling: Tiling,
    wrap: Callable[[Any], Any],
) -> torch.Tensor:
    """As `gated_product`; `wrap` makes a kernel ready to be launched."""
    x = x.contiguous()
    depth, columns = x.shape[-1], weight.shape[0] // 2
    out = x.new_empty((*x.shape[:-1], columns))
    rows = x.numel() // depth
    blocks = -(-rows // tiling.rows) * -(-columns // tiling.columns)
    wrap(gated_product_values)[(blocks,)](
        x,
        weight,
        weight if bias is None else bias,
        out,
        rows,
        columns,
        depth,
        block_rows=tiling.rows,
        block_columns=tiling.columns,
        block_depth=tiling.depth,
        together=tiling.together,
        has_bias=bias is not None,
        num_warps=tiling.warps,
        num_stages=tiling.stages,
    )
    return out


__all__ = ["TritonError", "gated_product", "launch"]
