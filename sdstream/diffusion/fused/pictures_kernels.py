"""Planes to pictures and back in one step each, in Triton. Arithmetic is float32; a block has some squares of four
pixels, which share their chroma."""

# Triton's language has no types, and is installed only where torch is for CUDA.
# pyright: basic, reportMissingModuleSource=false

from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch.library import triton_op, wrap_triton

from sdstream.diffusion.planes import FROM_RGB, TO_RGB

SQUARES = 256
"""Of a block."""
_SHARES = tuple(share for plane in FROM_RGB for share in plane)


@triton.jit
def picture_values(
    planes,
    out,
    width,
    squares,
    scale,
    offset,
    sample_stride,
    channel_stride,
    row_stride,
    column_stride,
    red_from_v: tl.constexpr,
    green_from_u: tl.constexpr,
    green_from_v: tl.constexpr,
    blue_from_u: tl.constexpr,
    at_once: tl.constexpr,
):
    square = tl.program_id(1) * at_once + tl.arange(0, at_once)
    kept = square < squares
    row, column = 2 * (square // (width // 2)), 2 * (square % (width // 2))
    base = planes + tl.program_id(0).to(tl.int64) * 6 * squares
    u = tl.load(base + 4 * squares + square, mask=kept, other=128).to(tl.float32) - 128.0
    v = tl.load(base + 5 * squares + square, mask=kept, other=128).to(tl.float32) - 128.0
    red = v * red_from_v
    green = u * green_from_u + v * green_from_v
    blue = u * blue_from_u
    target = out + tl.program_id(0).to(tl.int64) * sample_stride
    for corner in tl.static_range(4):
        y = row + corner // 2
        x = column + corner % 2
        grey = (tl.load(base + y * width + x, mask=kept, other=16).to(tl.float32) - 16.0) * (1.0 / 219.0)
        place = target + y * row_stride + x * column_stride
        tl.store(place, ((grey + red) * scale + offset).to(out.dtype.element_ty), mask=kept)
        place += channel_stride
        tl.store(place, ((grey + green) * scale + offset).to(out.dtype.element_ty), mask=kept)
        place += channel_stride
        tl.store(place, ((grey + blue) * scale + offset).to(out.dtype.element_ty), mask=kept)


@triton.jit
def _byte(value):
    """Clipped to what eight bits hold and rounded, halves to even: adding so much leaves no place for a fraction."""
    value = tl.minimum(tl.maximum(value, 0.0), 255.0)
    return ((value + 8388608.0) - 8388608.0).to(tl.uint8)


@triton.jit
def _mixed(red, green, blue, share_red: tl.constexpr, share_green: tl.constexpr, share_blue: tl.constexpr):
    return red * share_red + share_green * green + share_blue * blue


@triton.jit
def planes_values(
    picture,
    image,
    planes,
    finite,
    width,
    squares,
    scale,
    offset,
    sample_stride,
    channel_stride,
    row_stride,
    column_stride,
    y_red: tl.constexpr,
    y_green: tl.constexpr,
    y_blue: tl.constexpr,
    u_red: tl.constexpr,
    u_green: tl.constexpr,
    u_blue: tl.constexpr,
    v_red: tl.constexpr,
    v_green: tl.constexpr,
    v_blue: tl.constexpr,
    at_once: tl.constexpr,
):
    square = tl.program_id(1) * at_once + tl.arange(0, at_once)
    kept = square < squares
    row, column = 2 * (square // (width // 2)), 2 * (square % (width // 2))
    sample = tl.program_id(0).to(tl.int64)
    source = picture + sample * sample_stride
    pixels = image + sample * 12 * squares
    target = planes + sample * 6 * squares
    # In the order of the plain twin: each column of a square, then both.
    red_left = tl.zeros([at_once], tl.float32)
    green_left, blue_left = red_left, red_left
    red_right, green_right, blue_right = red_left, red_left, red_left
    bad = tl.zeros([at_once], tl.int32)
    for corner in tl.static_range(4):
        y = row + corner % 2
        x = column + corner // 2
        place = source + y * row_stride + x * column_stride
        red = tl.load(place, mask=kept, other=0.0).to(tl.float32) * scale + offset
        green = tl.load(place + channel_stride, mask=kept, other=0.0).to(tl.float32) * scale + offset
        blue = tl.load(place + 2 * channel_stride, mask=kept, other=0.0).to(tl.float32) * scale + offset
        at = y * width + x
        tl.store(pixels + at, red, mask=kept)
        tl.store(pixels + 4 * squares + at, green, mask=kept)
        tl.store(pixels + 8 * squares + at, blue, mask=kept)
        largest = 3.4028234663852886e38
        is_finite = (tl.abs(red) <= largest) & (tl.abs(green) <= largest) & (tl.abs(blue) <= largest)
        bad += tl.where(is_finite, 0, 1)
        red = tl.minimum(tl.maximum(red, 0.0), 1.0)
        green = tl.minimum(tl.maximum(green, 0.0), 1.0)
        blue = tl.minimum(tl.maximum(blue, 0.0), 1.0)
        tl.store(target + at, _byte(_mixed(red, green, blue, y_red, y_green, y_blue) + 16.0), mask=kept)
        if corner < 2:
            red_left += red
            green_left += green
            blue_left += blue
        else:
            red_right += red
            green_right += green
            blue_right += blue
    red, green, blue = red_left + red_right, green_left + green_right, blue_left + blue_right
    u = _mixed(red, green, blue, 0.25 * u_red, 0.25 * u_green, 0.25 * u_blue)
    v = _mixed(red, green, blue, 0.25 * v_red, 0.25 * v_green, 0.25 * v_blue)
    tl.store(target + 4 * squares + square, _byte(u + 128.0), mask=kept)
    tl.store(target + 5 * squares + square, _byte(v + 128.0), mask=kept)
    good = tl.where(tl.sum(bad, 0) == 0, 1, 0)
    tl.store(finite + tl.program_id(0) * tl.num_programs(1) + tl.program_id(1), good.to(tl.uint8))


@triton_op("sdstream::picture_of_planes", mutates_args=())
def picture_of_planes(planes: torch.Tensor, dtype: torch.dtype, scale: float, offset: float) -> torch.Tensor:
    """See `sdstream.diffusion.pictures.picture_of_planes`. Answers channels last."""
    return launch_picture(planes, dtype, scale, offset, wrap_triton)


@triton_op("sdstream::planes_of_picture", mutates_args=())
def planes_of_picture(
    picture: torch.Tensor, scale: float, offset: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """See `sdstream.diffusion.pictures.planes_of_picture`; the last is of parts of pictures, bool [S, parts]."""
    return launch_planes(picture, scale, offset, wrap_triton)


def launch_picture(
    planes: torch.Tensor, dtype: torch.dtype, scale: float, offset: float, wrap: Callable[[Any], Any]
) -> torch.Tensor:
    """As `picture_of_planes`; `wrap` makes a kernel ready to be launched."""
    planes = planes.contiguous()
    count, rows, width = planes.shape
    height = rows * 2 // 3
    out = torch.empty((count, 3, height, width), dtype=dtype, device=planes.device, memory_format=torch.channels_last)
    squares = height * width // 4
    wrap(picture_values)[_grid(count, squares)](
        planes, out, width, squares, scale, offset, *out.stride(), *TO_RGB["bt601", False], SQUARES
    )
    return out


def launch_planes(
    picture: torch.Tensor, scale: float, offset: float, wrap: Callable[[Any], Any]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As `planes_of_picture`."""
    count, _, height, width = picture.shape
    image = torch.empty((count, 3, height, width), dtype=torch.float32, device=picture.device)
    planes = torch.empty((count, height * 3 // 2, width), dtype=torch.uint8, device=picture.device)
    squares = height * width // 4
    grid = _grid(count, squares)
    finite = torch.empty(grid, dtype=torch.uint8, device=picture.device)
    wrap(planes_values)[grid](
        picture, image, planes, finite, width, squares, scale, offset, *picture.stride(), *_SHARES, SQUARES
    )
    return image, planes, finite.view(torch.bool)


def _grid(count: int, squares: int) -> tuple[int, int]:
    return count, -(-squares // SQUARES)


__all__ = ["launch_picture", "launch_planes", "picture_of_planes", "planes_of_picture"]
