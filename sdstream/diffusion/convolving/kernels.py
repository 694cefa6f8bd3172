"""Convolutions of channels-last pictures as products of matrices, in Triton, that never lay out a picture's patches.

A row is a pixel of the answer, a column a channel of it, and sums go over the places of the filter with all channels of
each: the order in which a channels-last filter lies in memory, so that it is read as it is, whatever is written into
it. Products are summed in float32 and in a fixed order, so the same picture gives the same answer: where
programs share a sum each writes its part, and a second kernel adds the parts one after the other.

A tiling that is `phased` reads a doubled picture where it is small (`sdstream.diffusion.convolving.phase_kernels`).
"""

# Triton's language has no types, and is installed only where torch is for CUDA.
# pyright: basic, reportMissingModuleSource=false

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, cast

import torch
import triton
import triton.language as tl
from torch.library import triton_op, wrap_triton

from sdstream.diffusion.convolving.arguments import Arguments
from sdstream.diffusion.convolving.phase_kernels import filters_of_phases
from sdstream.diffusion.convolving.shapes import ACTIVATIONS, Activation
from sdstream.diffusion.convolving.tilings import Tiling, padded_width, triton_tiling_named
from sdstream.diffusion.trials.compiling import compile_together

SUM_ROWS, SUM_COLUMNS = 16, 64
"""Of a block of the kernel that adds parts up."""


@triton.jit
def _finished(
    value,
    bias,
    more,
    residual,
    place,
    column,
    columns,
    kept,
    has_bias: tl.constexpr,
    has_more: tl.constexpr,
    has_residual: tl.constexpr,
    activation: tl.constexpr,
):
    """Sums of products with all that follows a convolution: biases, what is added to it, what it is passed through."""
    if has_bias:
        value += tl.load(bias + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]
    if has_more:
        value += tl.load(more + column, mask=column < columns, other=0.0).to(tl.float32)[None, :]
    if has_residual:
        value += tl.load(residual + place, mask=kept, other=0.0).to(tl.float32)
    if activation == 1:  # a NaN must show in the answer, as it does in torch's
        value = tl.maximum(value, 0.0, propagate_nan=tl.PropagateNan.ALL)
    elif activation == 2:
        value = value * tl.sigmoid(value)
    return value


@triton.jit(do_not_specialize=["rows", "height", "width", "out_height", "out_width", "split_steps"])
def convolution_values(
    x,
    other,
    weight,
    bias,
    more,
    residual,
    out,
    rows,
    height,
    width,
    out_height,
    out_width,
    channels,
    other_channels,
    columns,
    split_steps,
    side: tl.constexpr,
    stride: tl.constexpr,
    padding: tl.constexpr,
    doubled: tl.constexpr,
    phased: tl.constexpr,
    narrow: tl.constexpr,
    has_other: tl.constexpr,
    is_split: tl.constexpr,
    has_bias: tl.constexpr,
    has_more: tl.constexpr,
    has_residual: tl.constexpr,
    activation: tl.constexpr,
    block_rows: tl.constexpr,
    block_columns: tl.constexpr,
    block_depth: tl.constexpr,
    together: tl.constexpr,
):
    """One block of the answer, or of a part of its sums.

    Pictures are `height` times `width` pixels of `channels`, and of `other_channels` after them from `other`. `narrow`
    is for channels that are no multiple of a block's depth: places and channels are one axis then, gathered by number.
    With `phased` the answer is twice as high and wide as `out_height` and `out_width` say, the third number of a
    program is a phase, and `weight` are the filters of phases.
    """
    row_blocks = tl.cdiv(rows, block_rows)
    column_blocks = tl.cdiv(columns, block_columns)
    # Programs that run at the same time should read the same rows and filters: `together` row blocks in a band.
    number = tl.program_id(0)
    band = number // (together * column_blocks)
    first = band * together
    high = tl.minimum(row_blocks - first, together)
    inside = number - band * together * column_blocks
    row_block = first + inside % high
    column_block = inside // high

    row = row_block * block_rows + tl.arange(0, block_rows)
    column = column_block * block_columns + tl.arange(0, block_columns)
    there = row < rows
    # Beyond the end another row is read again, which is cheaper than a mask in every step.
    pixel = tl.where(there, row, 0)
    out_x = pixel % out_width
    out_y = (pixel // out_width) % out_height
    sample = pixel // (out_width * out_height)
    top = out_y * stride - padding
    left = out_x * stride - padding
    full_height = height * 2 if doubled else height
    full_width = width * 2 if doubled else width
    picture = sample * (height * width)
    if phased:
        phase = tl.program_id(2)
        top += phase // 2
        left += phase % 2
    # Which places of the filter lie inside the picture, a bit for each: worked out once and not in every step.
    places = tl.zeros([block_rows], tl.int32)
    for place in tl.static_range(side * side):
        y = top + place // side
        x_at = left + place % side
        is_there = (y >= 0) & (y < full_height) & (x_at >= 0) & (x_at < full_width)
        places |= is_there.to(tl.int32) << place

    all_channels = channels + other_channels
    depth_whole = side * side * all_channels
    depth = tl.arange(0, block_depth)
    filters = weight + tl.where(column < columns, column, 0)[None, :] * depth_whole
    if phased:
        filters += phase * (columns * depth_whole)
    total = tl.zeros([block_rows, block_columns], tl.float32)
    if narrow:
        begin = tl.program_id(1) * split_steps
        end = tl.minimum(begin + split_steps, tl.cdiv(depth_whole, block_depth))
        for step in range(begin, end):
            number_in = step * block_depth + depth
            place_of = number_in // all_channels
            channel = number_in % all_channels
            inside_picture = ((places[:, None] >> place_of[None, :]) & 1) != 0
            good = inside_picture & (number_in < depth_whole)[None, :]
            down = top[:, None] + (place_of // side)[None, :]
            right = left[:, None] + (place_of % side)[None, :]
            if doubled:
                down = down >> 1
                right = right >> 1
            at = (picture[:, None] + down * width + right) * channels + channel[None, :]
            values = tl.load(x + at, mask=good, other=0.0)
            factors = tl.load(filters + number_in[:, None], mask=(number_in < depth_whole)[:, None], other=0.0)
            total = tl.dot(values, factors, total)
    else:
        steps = all_channels // block_depth
        begin = tl.program_id(1) * split_steps
        end = tl.minimum(begin + split_steps, side * side * steps)
        start = picture + top * width + left
        for step in range(begin, end):
            place_of = step // steps
            channel = (step % steps) * block_depth
            down = place_of // side
            right = place_of % side
            if doubled:
                at = picture + ((top + down) >> 1) * width + ((left + right) >> 1)
            else:
                at = start + (down * width + right)
            good = ((places >> place_of) & 1) != 0
            if has_other:
                second = channel >= channels
                source = tl.where(second, other, x)
                wide = tl.where(second, other_channels, channels)
                from_channel = tl.where(second, channel - channels, channel)
            else:
                source = x
                wide = channels
                from_channel = channel
            values = tl.load(
                source + (at * wide + from_channel)[:, None] + depth[None, :], mask=good[:, None], other=0.0
            )
            factors = tl.load(filters + (place_of * all_channels + channel) + depth[:, None])
            total = tl.dot(values, factors, total)

    kept = there[:, None] & (column < columns)[None, :]
    if phased:
        line = (sample * out_height + out_y) * 2 + phase // 2
        to = (line * (2 * out_width) + 2 * out_x + phase % 2)[:, None] * columns + column[None, :]
        all_rows = 4 * rows
    else:
        to = row[:, None] * columns + column[None, :]
        all_rows = rows
    if is_split:
        part = tl.program_id(1).to(tl.int64) * all_rows * columns
        tl.store(out + part + to, total, mask=kept)
    else:
        value = _finished(
            total, bias, more, residual, to, column, columns, kept, has_bias, has_more, has_residual, activation
        )
        tl.store(out + to, value.to(out.dtype.element_ty), mask=kept)


@triton.jit(do_not_specialize=["rows", "parts"])
def convolution_sums(
    partial,
    bias,
    more,
    residual,
    out,
    rows,
    columns,
    parts,
    has_bias: tl.constexpr,
    has_more: tl.constexpr,
    has_residual: tl.constexpr,
    activation: tl.constexpr,
    some_rows: tl.constexpr,
    some_columns: tl.constexpr,
):
    """The answer from `parts` parts of its sums [parts, rows, columns]."""
    row = tl.program_id(0) * some_rows + tl.arange(0, some_rows)
    column = tl.program_id(1) * some_columns + tl.arange(0, some_columns)
    kept = (row < rows)[:, None] & (column < columns)[None, :]
    place = row[:, None] * columns + column[None, :]
    total = tl.zeros([some_rows, some_columns], tl.float32)
    for part in range(parts):
        total += tl.load(partial + tl.cast(part, tl.int64) * rows * columns + place, mask=kept, other=0.0)
    value = _finished(
        total, bias, more, residual, place, column, columns, kept, has_bias, has_more, has_residual, activation
    )
    tl.store(out + place, value.to(out.dtype.element_ty), mask=kept)


@triton_op("sdstream::convolution", mutates_args=())
def convolution(
    x: torch.Tensor,
    other: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    more: torch.Tensor | None,
    residual: torch.Tensor | None,
    stride: int,
    padding: int,
    out_height: int,
    out_width: int,
    doubled: bool,
    activation: str,
    tiling: str,
) -> torch.Tensor:
    """Of what `Arguments` name. `tiling` is the name of one. Answers channels last."""
    sizes = (stride, padding, out_height, out_width, doubled)
    arguments = Arguments(x, other, weight, bias, more, residual, *sizes, cast("Activation", activation))
    return launch(arguments, triton_tiling_named(tiling), wrap_triton)


def launch(arguments: Arguments, tiling: Tiling, wrap: Callable[[Any], Any]) -> torch.Tensor:
    """As `convolution`; `wrap` makes a kernel ready to be launched."""
    x, other, weight, bias, more, residual, stride, padding, out_height, out_width, doubled, activation, _ = arguments
    order = torch.channels_last
    x = x.contiguous(memory_format=order)
    other = None if other is None else other.contiguous(memory_format=order)
    residual = None if residual is None else residual.contiguous(memory_format=order)
    batch, channels, height, width = x.shape
    columns, side = weight.shape[0], weight.shape[2]
    other_channels = 0 if other is None else other.shape[1]
    rows = batch * out_height * out_width
    out = torch.empty((batch, columns, out_height, out_width), dtype=x.dtype, device=x.device, memory_format=order)
    narrow = bool(channels % tiling.depth or other_channels % tiling.depth)
    phases = 1
    if tiling.phased:
        assert doubled, "other pictures have no phases"
        assert (side, stride, padding, other) == (3, 1, 1, None), "nor do other filters"
        phases, side, doubled = 4, 2, False
    seen_rows, seen = rows // phases, (out_height, out_width) if phases == 1 else (height, width)
    steps = -(-side * side * (channels + other_channels) // tiling.depth)
    split_steps = -(-steps // tiling.parts)
    parts = -(-steps // split_steps)
    is_split = parts > 1
    follows = {
        "has_bias": bias is not None,
        "has_more": more is not None,
        "has_residual": residual is not None,
        "activation": ACTIVATIONS[activation],
    }
    what = (weight if bias is None else bias, weight if more is None else more, x if residual is None else residual)
    to = torch.empty((parts, rows, columns), dtype=torch.float32, device=x.device) if is_split else out
    filters = weight if phases == 1 else filters_of_phases(weight, wrap)
    blocks = -(-seen_rows // tiling.rows) * -(-columns // tiling.columns)
    wrap(convolution_values)[(blocks, parts, phases)](
        x,
        x if other is None else other,
        filters,
        *what,
        to,
        seen_rows,
        height,
        width,
        *seen,
        channels,
        other_channels,
        columns,
        split_steps,
        side=side,
        stride=stride,
        padding=padding,
        doubled=doubled,
        phased=tiling.phased,
        narrow=narrow,
        has_other=other is not None,
        is_split=is_split,
        **(dict.fromkeys(follows, 0) if is_split else follows),
        block_rows=tiling.rows,
        block_columns=tiling.columns,
        block_depth=tiling.depth,
        together=tiling.together,
        num_warps=tiling.warps,
        num_stages=tiling.stages,
    )
    if is_split:
        some = min(SUM_COLUMNS, padded_width(columns))
        grid = (-(-rows // SUM_ROWS), -(-columns // some))
        wrap(convolution_sums)[grid](
            to, *what, out, rows, columns, parts, **follows, some_rows=SUM_ROWS, some_columns=some
        )
    return out


def compile_ahead(arguments: Arguments, tilings: Iterable[str]) -> None:
    """Compile the kernels that `launch` would take for these arguments, all at the same time, and launch none. What
    cannot be compiled is left out: it fails again, and says why, when it is launched."""
    compile_together([partial(launch, arguments, triton_tiling_named(name)) for name in tilings])


__all__ = ["compile_ahead", "convolution", "launch"]
