"""How convolutions are cut into blocks, and which ways are worth a trial on a card: plain arithmetic."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

Activation = Literal["", "relu", "silu"]
NOTHING, RELU, SILU = "", "relu", "silu"

NAME = r"(\d+)x(\d+)x(\d+)w(\d+)s(\d+)p(\d+)g(\d+)(phased)?(?:near(\d+))?(turned)?"
"""Of a tiling."""
LEAST_CAPABILITY = (8, 0)
"""Older cards have no asynchronous copies, and no bfloat16."""
SHARED_BYTES = {(8, 0): 163, (8, 6): 99, (8, 7): 163, (8, 9): 99, (9, 0): 227, (10, 0): 227, (10, 3): 227, (11, 0): 227}
"""KiB of shared memory that a block may have, by compute capability: NVIDIA's programming guide."""
FEW_BYTES = 99
"""The same of what is not in the table, cards of games and desks (12.0, 12.1) among them."""
MOST_TRIED = 6
"""Ways of `BASE` that are tried for a shape; each takes a compilation, a second or two, when it is new to a machine."""
MOST_BESIDE = 2
"""Ways of `BESIDE` that are tried, too."""
WHOLE_STEP = 128 * 128 * 64
"""Products in a step of a large block, 0.3 microseconds of a processor of an H100 at its best."""
STEP_OVERHEAD = 0.15
"""Of such a step: what a step costs whatever its size."""
LAUNCH = 8.0
"""What one more kernel costs, in such steps."""
BYTES_IN_A_STEP = 1_000_000
"""What a whole card writes and reads of parts of sums meanwhile, about."""
PARTS = (1, 2, 3, 4, 6, 8, 12, 16)
HOPPER = 9
"""Major compute capability of what `BESIDE` is for."""
LEAST_DEPTH, NARROWEST = 32, 16
"""Of all tilings."""
LARGE_SHARE = 128 * 128 // 4
"""Values of the answer that a warp has in registers, at most."""
LEAST_STEPS = 4
"""Steps that a part of a sum has at least: what the pipeline needs to fill."""


@dataclass(frozen=True, slots=True)
class Shape:
    """A convolution as far as its speed goes: filters of `side` times `side`, square, over all channels.

    `batch` pictures of `height` times `width` pixels, of `channels` and of `other_channels` more from a second source,
    become `columns` channels. `doubled` pictures are first made twice as high and wide. What follows in the same step:
    `biases` vectors of the columns (0 to 2), a sum with a picture if `residual`, and an activation.
    """

    batch: int
    height: int
    width: int
    channels: int
    other_channels: int
    columns: int
    side: int
    stride: int
    padding: int
    out_height: int
    out_width: int
    doubled: bool
    biases: int
    residual: bool
    activation: Activation
    dtype: str

    @property
    def name(self) -> str:
        """What it is remembered by: every field is in it."""
        source = f"{self.channels}" + (f"+{self.other_channels}" if self.other_channels else "")
        words = [
            f"{self.batch}x{self.height}x{self.width}x{source}",
            f"to {self.out_height}x{self.out_width}x{self.columns}",
            f"by {self.side}x{self.side} stride {self.stride} padding {self.padding}",
            self.dtype,
        ]
        words += ["doubled"] * self.doubled + [f"biases {self.biases}"] + ["sum"] * self.residual
        return " ".join([*words, self.activation]).strip()

    @property
    def rows(self) -> int:
        """Pixels of the answers."""
        return self.batch * self.out_height * self.out_width

    @property
    def depth(self) -> int:
        """Products that each value is the sum of."""
        return self.side * self.side * (self.channels + self.other_channels)

    @property
    def operations(self) -> int:
        """Multiplications and additions; those with the picture's border count."""
        return 2 * self.rows * self.columns * self.depth


@dataclass(frozen=True, slots=True)
class Card:
    """What of a GPU matters to the choice of a tiling."""

    capability: tuple[int, int]
    processors: int


@dataclass(frozen=True, slots=True)
class Tiling:
    """Blocks of `rows` times `columns`, powers of two, that take `depth` products of each value in a step.

    `stages` steps are on their way at a time, `warps` share a block, sums are cut into `parts`, and `together` blocks
    of rows are worked on side by side, so that what they share stays in the cache. With `phased` the even and the odd
    pixels of a doubled picture have filters of two times two places each (`has_phases`). With `turned` it is columns
    times rows that are multiplied. Rows of a block that is `near` are a rectangle of so many pixels across, read
    through the first cache, all places of the filter after each other.
    """

    rows: int
    columns: int
    depth: int
    warps: int
    stages: int
    parts: int = 1
    together: int = 8
    phased: bool = False
    near: int = 0
    turned: bool = False

    @property
    def name(self) -> str:
        """Such as `128x64x64w4s4p2g8` and `256x64x64w8s2p1g8phasednear16turned`, for `tiling_named`."""
        block = f"{self.rows}x{self.columns}x{self.depth}"
        return f"{block}w{self.warps}s{self.stages}p{self.parts}g{self.together}" + self._words

    @property
    def _words(self) -> str:
        return "phased" * self.phased + f"near{self.near}" * bool(self.near) + "turned" * self.turned

    @property
    def shared_bytes(self) -> int:
        """Shared memory that its steps take, two bytes a value."""
        return 2 * self.stages * self.depth * (self.rows + self.columns)

    def row_blocks(self, batch: int, height: int, width: int) -> int:
        """Blocks that lie below each other in answers (of one phase) of this size."""
        if not self.near:
            return -(-batch * height * width // self.rows)
        return batch * -(-height // (self.rows // self.near)) * -(-width // self.near)


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
BESIDE = (
    Tiling(256, 64, 64, 8, 2, near=16, turned=True),
    Tiling(128, 64, 64, 4, 4, near=16, turned=True),
    Tiling(128, 64, 64, 4, 4, turned=True),
    Tiling(128, 128, 64, 8, 3, near=16),
    Tiling(64, 64, 64, 4, 4, near=8),
    Tiling(128, 16, 64, 4, 2, near=16),
)
"""Ways for Hopper besides, worked out and not measured yet.

*Near*: 512x512 pixels of 64 channels come nine times through the second cache, 302 MB, and the filters once for each of
2048 blocks of 128 rows, 151 MB: 6.3 TB/s at the 72 us measured. Of 16x16 pixels the first cache needs 18x18, 1.27 times
the picture, 42 MB, and half the blocks read 75 MB of filters. What shared memory leaves of the 256 KiB has to hold such
pixels: 128 bytes each of two blocks, 83 KB of 96.

*Turned*: a product of 64x64x16 reads 4 KB of shared memory in the 32 cycles that it takes, all there is; one of
64x128x16, with the 64 columns as its rows, 6 KB in 64.

Two blocks of each have room on a processor at the same time. Of `BASE` the numbers of parts that won on an H200 were
those that made 240 blocks for its 132 processors, so these are ranked as if there were twice as many.
"""


def tiling_named(name: str) -> Tiling:
    """The tiling of a name. Raises `ValueError` when it is none."""
    found = re.fullmatch(NAME, name)
    if found is None:
        raise ValueError(f"{name!r} is no tiling")
    *sizes, phased, near, turned = found.groups()
    rows, columns, depth, warps, stages, parts, together = map(int, sizes)
    made = Tiling(rows, columns, depth, warps, stages, parts, together)
    return replace(made, phased=phased is not None, near=int(near or 0), turned=turned is not None)


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


def candidates(shape: Shape, card: Card, most: int = MOST_TRIED, beside: int = MOST_BESIDE) -> tuple[Tiling, ...]:
    """The ways worth a trial, the most promising first; none where the kernel cannot do it.

    Each is the best number of parts of one way to cut, but the last of `most`, which is the next best of the first.
    Where there are phases half of the ways have them, each half with such a last one. Up to `beside` ways that nothing
    was measured of stand behind them.
    """
    if card.capability < LEAST_CAPABILITY or shape.dtype not in ("float16", "bfloat16"):
        return ()
    if is_narrow(shape) and shape.other_channels:
        return ()
    phased = _ranked(BASE, shape, card, phased=True) if has_phases(shape) else []
    ways = _with_more_parts(phased, most // 2)
    ways += _with_more_parts(_ranked(BASE, shape, card), most - len(ways))
    if phased:
        ways.sort(key=lambda way: (cost_of(way, shape, card), way.name))
    if card.capability[0] == HOPPER:
        shared = replace(card, processors=2 * card.processors)
        ways += [way[0] for way in _ranked(BESIDE, shape, shared, phased=bool(phased))[:beside]]
    return tuple(ways)


def _ranked(base: Iterable[Tiling], shape: Shape, card: Card, *, phased: bool = False) -> list[list[Tiling]]:
    """Of each way that suits its numbers of parts, the best first in both orders."""

    def cost(tiling: Tiling) -> tuple[float, str]:
        return cost_of(tiling, shape, card), tiling.name

    ways = [
        sorted((replace(tiling, parts=parts) for parts in _parts(tiling, shape)), key=cost)
        for tiling in (replace(each, phased=phased) for each in base)
        if fits(tiling, card.capability) and _suits(tiling, shape, card)
    ]
    return sorted(ways, key=lambda way: cost(way[0]))


def _with_more_parts(ways: list[list[Tiling]], most: int) -> list[Tiling]:
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
    blocks = phases * tiling.row_blocks(shape.batch, *_seen(tiling, shape))
    programs = blocks * -(-shape.columns // tiling.columns) * tiling.parts
    turns = -(-programs // card.processors)
    steps = -(-_steps(tiling, shape) // tiling.parts)
    each = tiling.rows * tiling.columns * tiling.depth / WHOLE_STEP + STEP_OVERHEAD
    values = shape.rows * shape.columns
    sums = 0.0 if tiling.parts == 1 else LAUNCH + values * tiling.parts * 8 / BYTES_IN_A_STEP
    if tiling.phased:  # three times three places are read, and four times two times two written
        sums += LAUNCH + shape.columns * shape.channels * (9 + 16) * 2 / BYTES_IN_A_STEP
    return turns * (steps + tiling.stages) * each + sums


def _seen(tiling: Tiling, shape: Shape) -> tuple[int, int]:
    """Height and width of the answer, or of each phase of it."""
    return (shape.height, shape.width) if tiling.phased else (shape.out_height, shape.out_width)


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
    if tiling.near:
        high, wide = _seen(tiling, shape)
        if shape.side == 1 or tiling.near > wide or tiling.rows // tiling.near > high:
            return False  # nothing is read twice, or most of a block would have nothing to do
    if is_narrow(shape):
        return tiling.depth == LEAST_DEPTH and tiling not in BESIDE
    return shape.channels % tiling.depth == 0 and shape.other_channels % tiling.depth == 0


def padded_width(columns: int) -> int:
    """The least power of two that is not below `columns`."""
    return 1 << max(0, columns - 1).bit_length()


__all__ = [
    "BASE",
    "BESIDE",
    "HOPPER",
    "LEAST_DEPTH",
    "LEAST_STEPS",
    "MOST_BESIDE",
    "MOST_TRIED",
    "NOTHING",
    "RELU",
    "SILU",
    "Activation",
    "Card",
    "Shape",
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
]
