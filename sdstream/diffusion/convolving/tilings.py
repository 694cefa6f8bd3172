"""How convolutions are cut into blocks, and which ways are worth a trial on a card: plain arithmetic."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

from sdstream.diffusion.convolving.hopper.tilings import MOST_TRIED as MOST_HOPPER
from sdstream.diffusion.convolving.hopper.tilings import (
    HopperTiling,
    hopper_candidates,
    hopper_tiling_named,
    is_for_hopper,
)
from sdstream.diffusion.convolving.shapes import EIGHT_BIT, HALVES, Card, Shape

NAME = r"(\d+)x(\d+)x(\d+)w(\d+)s(\d+)p(\d+)g(\d+)(phased)?"
"""Of a tiling."""
LEAST_CAPABILITY = (8, 0)
"""Older cards have no asynchronous copies, and no bfloat16."""
SHARED_BYTES = {(8, 0): 163, (8, 6): 99, (8, 7): 163, (8, 9): 99, (9, 0): 227, (10, 0): 227, (10, 3): 227, (11, 0): 227}
"""KiB of shared memory that a block may have, by compute capability: NVIDIA's programming guide."""
FEW_BYTES = 99
"""The same of what is not in the table, cards of games and desks (12.0, 12.1) among them."""
MOST_TRIED = 6
"""Ways of `BASE` that are tried for a shape; each takes a compilation, a second or two, when it is new to a machine."""
WHOLE_STEP = 128 * 128 * 64
"""Products in a step of a large block, 0.3 microseconds of a processor of an H100 at its best."""
STEP_OVERHEAD = 0.15
"""Of such a step: what a step costs whatever its size."""
LAUNCH = 8.0
"""What one more kernel costs, in such steps."""
BYTES_IN_A_STEP = 1_000_000
"""What a whole card writes and reads of parts of sums meanwhile, about."""
PARTS = (1, 2, 3, 4, 6, 8, 12, 16)
LEAST_DEPTH, NARROWEST = 32, 16
"""Of all tilings."""
LARGE_SHARE = 128 * 128 // 4
"""Values of the answer that a warp has in registers, at most."""
LEAST_STEPS = 4
"""Steps that a part of a sum has at least: what the pipeline needs to fill."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """Blocks of `rows` times `columns`, powers of two, that take `depth` products of each value in a step.

    `stages` steps are on their way at a time, `warps` share a block, sums are cut into `parts`, and `together` blocks
    of rows are worked on side by side, so that what they share stays in the cache. With `phased` the even and the odd
    pixels of a doubled picture have filters of two times two places each (`has_phases`).
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    parts: int = 1
    together: int = 8
    phased: bool = False

    @property
    def name(self) -> str:
        """Such as `128x64x64w4s4p2g8`, for `tiling_named`."""
        block = f"{self.rows}x{self.columns}x{self.depth}"
        return f"{block}w{self.warps}s{self.stages}p{self.parts}g{self.together}" + "phased" * self.phased

    @property
    def shared_bytes(self) -> int:
        """Shared memory that its steps take, two bytes a value."""
        return 2 * self.stages * self.depth * (self.rows + self.columns)


AnyTiling = Tiling | HopperTiling

BASE = (
    Tiling(128, 256, 64, 8, 3),
    Tiling(128, 128, 64, 8, 4),
    Tiling(128, 128, 64, 4, 3),
    Tiling(128, 128, 32, 4, 4),
    Tiling(256, 64, 64, 8, 3),
    Tiling(128, 64, 64, 4, 4),
    Tiling(128, 64, 32, 4, 4),
    Tiling(64, 128, 64, 4, 4),
    Tiling(64, 64, 64, 4, 4),
    Tiling(64, 64, 32, 4, 5),
    Tiling(64, 32, 64, 4, 5),
    Tiling(128, 16, 64, 4, 4),
    Tiling(64, 16, 32, 4, 5),
)
"""The ways that there are, without parts."""


def tiling_named(name: str) -> AnyTiling:
    """The tiling of a name, of either kind. Raises `ValueError` when it is none."""
    return hopper_tiling_named(name) if is_for_hopper(name) else triton_tiling_named(name)


def triton_tiling_named(name: str) -> Tiling:
    """The same of those that are not for Hopper's own instructions."""
    found = re.fullmatch(NAME, name)
    if found is None:
        raise ValueError(f"{name!r} is no tiling")
    *sizes, phased = found.groups()
    return Tiling(*(int(size) for size in sizes), phased=phased is not None)


def shared_limit(capability: tuple[int, int]) -> int:
    """Bytes of shared memory that a block may have on a card."""
    return 1024 * SHARED_BYTES.get(capability, FEW_BYTES)


def fits(tiling: Tiling, capability: tuple[int, int]) -> bool:
    """Whether the steps of a tiling have room. A part of the memory is left to what the compiler needs besides."""
    return tiling.shared_bytes + 1024 <= shared_limit(capability)


def has_registers(tiling: Tiling, capability: tuple[int, int], *, doubled: bool, narrow: bool) -> bool:
    """Whether a block of it has room in the registers of its threads, as compiled by Triton 3.6 and 3.7: what is
    spilled to memory costs more than large blocks save."""
    values = tiling.rows * tiling.columns // tiling.warps
    if narrow:
        return values < LARGE_SHARE // 2  # addresses are worked out value by value
    return not (doubled and capability[0] == 8 and values >= LARGE_SHARE and tiling.depth > LEAST_DEPTH)


def candidates(shape: Shape, card: Card, most: int = MOST_TRIED, hopper: int = MOST_HOPPER) -> tuple[AnyTiling, ...]:
    """The ways worth a trial, the most promising of each kind first; none where no kernel can do it.

    First stand up to `hopper` ways by Hopper's own instructions; where there are any, half of `most`, rounded up, of
    the others are enough. Of these each is the best number of parts of one way to cut, but the last, which is the next
    best of the first. Where there are phases half of them have them, each half with such a last one. In eight bits
    there are only Hopper's.
    """
    if shape.dtype == EIGHT_BIT:
        return hopper_candidates(shape, card, hopper)
    if card.capability < LEAST_CAPABILITY or shape.dtype not in HALVES:
        return ()
    if is_narrow(shape) and shape.other_channels:
        return ()
    first = hopper_candidates(shape, card, hopper)
    if first:
        most = -(-most // 2)
    phased = _ranked(shape, card, most // 2, phased=True) if has_phases(shape) else []
    ways = phased + _ranked(shape, card, most - len(phased))
    if phased:
        ways.sort(key=lambda way: (cost_of(way, shape, card), way.name))
    return (*first, *ways)


def _ranked(shape: Shape, card: Card, most: int, *, phased: bool = False) -> list[Tiling]:
    def cost(tiling: Tiling) -> tuple[float, str]:
        return cost_of(tiling, shape, card), tiling.name

    ways = [
        sorted((replace(tiling, parts=parts) for parts in _parts(tiling, shape)), key=cost)
        for tiling in (replace(each, phased=phased) for each in BASE)
        if fits(tiling, card.capability) and _suits(tiling, shape, card)
    ]
    ways.sort(key=lambda way: cost(way[0]))
    more = ways[0][1:2] if ways and most > 1 else []
    return [way[0] for way in ways[: most - len(more)]] + more


def has_phases(shape: Shape) -> bool:
    """Whether a doubled picture is read by filters of three times three places that each pixel of it is the middle of:
    then its even and its odd pixels have filters of two times two places of the picture's own."""
    return shape.doubled and (shape.side, shape.stride, shape.padding, shape.other_channels) == (3, 1, 1, 0)


def is_narrow(shape: Shape) -> bool:
    """Whether its channels are too few, or too odd, to be read a block's depth at a time."""
    return bool(shape.channels % LEAST_DEPTH or shape.other_channels % LEAST_DEPTH)


def cost_of(tiling: Tiling, shape: Shape, card: Card) -> float:
    """What a tiling takes, in steps of 128 times 128 times 64 of one processor: to order them, and for nothing else."""
    phases = 4 if tiling.phased else 1
    programs = phases * -(-shape.rows // phases // tiling.rows) * -(-shape.columns // tiling.columns) * tiling.parts
    turns = -(-programs // card.processors)
    steps = -(-_steps(tiling, shape) // tiling.parts)
    each = tiling.rows * tiling.columns * tiling.depth / WHOLE_STEP + STEP_OVERHEAD
    values = shape.rows * shape.columns
    sums = 0.0 if tiling.parts == 1 else LAUNCH + values * tiling.parts * 8 / BYTES_IN_A_STEP
    if tiling.phased:  # three times three places are read, and four times two times two written
        sums += LAUNCH + shape.columns * shape.channels * (9 + 16) * 2 / BYTES_IN_A_STEP
    return turns * (steps + tiling.stages) * each + sums


def _steps(tiling: Tiling, shape: Shape) -> int:
    depth = shape.depth * 4 // 9 if tiling.phased else shape.depth
    return -(-depth // tiling.depth)


def _parts(tiling: Tiling, shape: Shape) -> Iterable[int]:
    steps = _steps(tiling, shape)
    for parts in PARTS:
        # As many as there really are: the last of them may have nothing left to do.
        if parts == 1 or (parts * LEAST_STEPS <= steps and -(-steps // -(-steps // parts)) == parts):
            yield parts


def _suits(tiling: Tiling, shape: Shape, card: Card) -> bool:
    """Whether its blocks are neither much wider than the answer nor deeper than the channels allow, nor too large."""
    if not has_registers(tiling, card.capability, doubled=shape.doubled and not tiling.phased, narrow=is_narrow(shape)):
        return False
    if tiling.columns > max(NARROWEST, padded_width(shape.columns)):
        return False
    if is_narrow(shape):
        return tiling.depth == LEAST_DEPTH
    return shape.channels % tiling.depth == 0 and shape.other_channels % tiling.depth == 0


def padded_width(columns: int) -> int:
    """The least power of two that is not below `columns`."""
    return 1 << max(0, columns - 1).bit_length()


__all__ = [
    "BASE",
    "LEAST_DEPTH",
    "LEAST_STEPS",
    "MOST_HOPPER",
    "MOST_TRIED",
    "AnyTiling",
    "Tiling",
    "candidates",
    "cost_of",
    "fits",
    "has_phases",
    "has_registers",
    "is_narrow",
    "padded_width",
    "shared_limit",
    "tiling_named",
    "triton_tiling_named",
]
