"""A number in the picture that survives a lossy codec and a change of size.

A row of `CELLS` black or white cells lies across the top of the picture: `BITS` of the number, then a check of four
bits. A cell is a `CELLS`th of the width wide and as high as wide.
"""

import numpy

from sdstream.frames import Plane

BITS = 16
CHECK_BITS = 4
CELLS = BITS + CHECK_BITS
LARGEST = 2**BITS - 1
BLACK, WHITE = 24, 228
"""Luma inside the limited range, so that no conversion clips it."""


def takes_stamp(width: int, height: int) -> bool:
    """Whether a picture is large enough for a number."""
    side = width // CELLS
    return side >= 16 and height >= 2 * side


def write_stamp(y: Plane, u: Plane, v: Plane, number: int) -> None:
    """Draw `number` (taken modulo 65536) into an I420 picture, in place. Raises `ValueError` when it is too small."""
    code = _code(number % (LARGEST + 1))
    height, width = y.shape
    side = width // CELLS
    if not takes_stamp(width, height):
        raise ValueError(f"a picture of {width}x{height} is too small for a number")
    for position in range(CELLS):
        left, right = _edges(position, width)
        y[:side, left:right] = WHITE if code >> (CELLS - 1 - position) & 1 else BLACK
    u[: (side + 1) // 2, :] = 128
    v[: (side + 1) // 2, :] = 128


def read_stamp(y: Plane) -> int | None:
    """The number in a luma plane, uint8 [height, width]; None when none can be read."""
    width = y.shape[1]
    side = width // CELLS
    code = 0
    for position in range(CELLS):
        left, right = _edges(position, width)
        margin = max(1, (right - left) // 4)
        middle = y[margin : max(margin + 1, side - margin), left + margin : right - margin]
        if middle.size == 0:
            return None
        level = float(numpy.mean(middle))
        if BLACK + 60 < level < WHITE - 60:
            return None
        code = code << 1 | (level > (BLACK + WHITE) / 2)
    number = code >> CHECK_BITS
    return number if _code(number) == code else None


def _edges(position: int, width: int) -> tuple[int, int]:
    return position * width // CELLS, (position + 1) * width // CELLS


def _code(number: int) -> int:
    """The number and a check that is never zero, so that neither an all-black nor an all-white row is a number."""
    check = 5
    for shift in range(0, BITS, CHECK_BITS):
        check ^= number >> shift & 15
    return number << CHECK_BITS | check


__all__ = ["BITS", "CELLS", "LARGEST", "read_stamp", "takes_stamp", "write_stamp"]
