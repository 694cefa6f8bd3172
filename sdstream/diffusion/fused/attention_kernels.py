"""Attention without masks, in Triton: queries in blocks, keys step by step, and no table of all pairs in memory.

The recurrence is that of FlashAttention-2 (Dao, 2023): the largest score so far, the sum of exponentials relative to
it, and the sum of values weighed by them. Scores and sums are float32; weights of values are of the values' type.
"""

# Triton's language has no types, and is installed only where torch is for CUDA.
# pyright: basic, reportMissingModuleSource=false

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch.library import triton_op, wrap_triton

from sdstream.diffusion.fused.attention_tiling import AttentionTiling, attention_tiling_named
from sdstream.diffusion.trials.compiling import compile_together

LOG_OF_TWO = 0.6931471805599453


@triton.jit
def attention_values(
    query,
    key,
    value,
    out,
    queries,
    keys,
    heads,
    query_batch,
    query_head,
    query_token,
    key_batch,
    key_head,
    key_token,
    value_batch,
    value_head,
    value_token,
    scale,
    width: tl.constexpr,
    padded: tl.constexpr,
    rows: tl.constexpr,
    columns: tl.constexpr,
    whole: tl.constexpr,
):
    """One block of queries of one head. `scale` is for powers of two. `whole`: keys fill their blocks."""
    batch = (tl.program_id(1) // heads).to(tl.int64)
    head = tl.program_id(1) % heads
    row = tl.program_id(0) * rows + tl.arange(0, rows)
    column = tl.arange(0, columns)
    place = tl.arange(0, padded)
    inside = place < width
    query += batch * query_batch + head * query_head
    key += batch * key_batch + head * key_head
    value += batch * value_batch + head * value_head
    kept = (row < queries)[:, None] & inside[None, :]
    asked = tl.load(query + row[:, None] * query_token + place[None, :], mask=kept, other=0.0)
    largest = tl.full([rows], float("-inf"), tl.float32)
    total = tl.zeros([rows], tl.float32)
    seen = tl.zeros([rows, padded], tl.float32)
    for start in range(0, keys, columns):
        at = start + column
        if whole and padded == width:
            offered = tl.load(key + at[None, :] * key_token + place[:, None])
            told = tl.load(value + at[:, None] * value_token + place[None, :])
        else:
            there = at < keys
            offered = tl.load(
                key + at[None, :] * key_token + place[:, None], mask=there[None, :] & inside[:, None], other=0.0
            )
            told = tl.load(
                value + at[:, None] * value_token + place[None, :], mask=there[:, None] & inside[None, :], other=0.0
            )
        scores = tl.dot(asked, offered)
        if not whole:
            scores = tl.where((at < keys)[None, :], scores, float("-inf"))
        larger = tl.maximum(largest, tl.max(scores, 1) * scale)
        weights = tl.exp2(scores * scale - larger[:, None])  # one step of multiplying and adding each
        faded = tl.exp2(largest - larger)
        total = total * faded + tl.sum(weights, 1)
        seen = tl.dot(weights.to(told.dtype), told, seen * faded[:, None])
        largest = larger
    seen = seen / total[:, None]
    target = out + (batch * queries + row[:, None]) * heads * width + head * width + place[None, :]
    tl.store(target, seen.to(out.dtype.element_ty), mask=kept)


@triton_op("sdstream::attention", mutates_args=())
def attention(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, tiling: str) -> torch.Tensor:
    """Scaled dot-product attention of `query` [B, heads, queries, width] to `key` and `value` [B, heads, keys, width].

    They may lie anyhow but for the last axis, which is dense. `tiling` is the name of one. The answer is [B, heads,
    queries, width], whose memory is [B, queries, heads, width].
    """
    return launch(query, key, value, attention_tiling_named(tiling), wrap_triton)


def launch(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    tiling: AttentionTiling,
    wrap: Callable[[Any], Any],
) -> torch.Tensor:
    """As `attention`; `wrap` makes a kernel ready to be launched."""
    query, key, value = (each if each.stride(-1) == 1 else each.contiguous() for each in (query, key, value))
    batch, heads, queries, width = query.shape
    keys = key.shape[2]
    out = torch.empty((batch, queries, heads, width), dtype=query.dtype, device=query.device)
    wrap(attention_values)[(-(-queries // tiling.rows), batch * heads)](
        query,
        key,
        value,
        out,
        queries,
        keys,
        heads,
        *query.stride()[:3],
        *key.stride()[:3],
        *value.stride()[:3],
        width**-0.5 / LOG_OF_TWO,
        width=width,
        padded=max(16, 1 << (width - 1).bit_length()),
        rows=tiling.rows,
        columns=tiling.columns,
        whole=keys % tiling.columns == 0,
        num_warps=tiling.warps,
        num_stages=tiling.stages,
    )
    return out.transpose(1, 2)


def compile_ahead(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, tilings: Iterable[AttentionTiling]
) -> None:
    """Compile the kernels that `launch` would take for these, all at the same time, and launch none."""
    compile_together([partial(launch, query, key, value, tiling) for tiling in tilings])


__all__ = ["attention", "compile_ahead", "launch"]
