"""How convolutions are cut into blocks of threads for Hopper's own instructions, and which ways are worth a trial."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from sdstream.diffusion.convolving.shapes import EIGHT_BIT, HALVES, Card, Shape

Kind = Literal["resident", "stepped", "doubled", "colours", "gathered", "eight_bit"]
NAME = r"hopper (\w+) (\d+)x(\d+)x(\d+)g(\d+)p(\d+)"
"""Of a tiling."""
CAPABILITY = (9, 0)
"""Of the only cards with these instructions."""
CHANNELS = 64
"""That a step takes in half precision, and a multiple of which there must be in eight bits, too."""
STEP_BYTES = 128
"""Of a pixel, or of a column of a filter, in a step."""
LEAST_EIGHT_BIT = 128
"""Channels: a whole step."""
MOST_SHARED_BYTES = 227 * 1024
"""That a block may have."""
MOST_ROOMS = 9
"""For filters of one place."""
FEW_COLUMNS = 8
"""Of an answer with no more, such as a picture's colours."""
MOST_GATHERED = 7
"""Channels of which all places of a filter are gathered pixel by pixel."""
MOST_TRIED = 4
"""Ways that are tried for a shape."""
PARTS = (1, 2, 3, 4, 5, 6, 7, 8)
"""Of a sum; a cluster has no more than eight blocks on every card."""
BEGIN_CYCLES, STEP_CYCLES, SUM_CYCLES = 4000, 60, 2000
"""What a block, a step and adding parts cost besides, to order ways and for nothing else."""
BYTES_IN_A_CYCLE = 24
"""Of the second cache, for each processor, when all read."""


@dataclass(frozen=True, slots=True)
class HopperTiling:
    """Tiles of `down` times `across` blocks of eight times eight pixels, in `columns`, are answered by `groups` of four
    warps, or by each of them where filters are `resident`. Sums are cut into `parts`, one for each block of a cluster.
    """

    kind: Kind
    down: int
    across: int
    columns: int
    groups: int
    parts: int = 1

    @property
    def name(self) -> str:
        """Such as `hopper stepped 2x2x64g2p3`, for `hopper_tiling_named`."""
        return f"hopper {self.kind} {self.down}x{self.across}x{self.columns}g{self.groups}p{self.parts}"

    @property
    def is_streamed(self) -> bool:
        """Whether Hopper's copying machine brings and takes what it works on."""
        return self.kind != "gathered"

    @property
    def is_resident(self) -> bool:
        """Whether filters stay while tiles come and go, so that each group answers tiles of its own."""
        return self.kind in ("resident", "doubled", "colours")

    @property
    def blocks(self) -> int:
        """Of eight times eight pixels."""
        return self.down * self.across

    @property
    def groups_of_blocks(self) -> int:
        """Groups that share a tile's pixels; others share columns."""
        return 1 if self.is_resident else min(self.groups, self.blocks)

    @property
    def groups_of_columns(self) -> int:
        """Groups that share columns."""
        return 1 if self.is_resident else self.groups // self.groups_of_blocks

    @property
    def group_columns(self) -> int:
        """That a group of warps answers."""
        return self.columns // self.groups_of_columns

    @property
    def seen(self) -> tuple[int, int]:
        """Height and width of the pixels that a tile is made of."""
        return 8 * self.down + 2, 8 * self.across + 2

    @property
    def region(self) -> tuple[int, int]:
        """Height and width of what a group answers."""
        return 8 * self.down // self.groups_of_blocks, 8 * self.across

    @property
    def step_channels(self) -> int:
        """That a step takes."""
        return STEP_BYTES if self.kind == "eight_bit" else CHANNELS

    @property
    def rooms(self) -> int:
        """For filters of one place and a step's channels: all where they stay, else as many as there is space for."""
        if self.is_resident:
            return 8 if self.kind == "doubled" else MOST_ROOMS
        return min(MOST_ROOMS, (MOST_SHARED_BYTES - self._other_bytes(MOST_ROOMS)) // self._filter_bytes)

    def tiles(self, batch: int, height: int, width: int) -> int:
        """Of so many pictures."""
        return batch * math.ceil(height / (8 * self.down)) * math.ceil(width / (8 * self.across))

    @property
    def blocks_on_a_processor(self) -> int:
        """Blocks of threads that are at work there at the same time; what is streamed has room for one."""
        return 1 if self.is_streamed else 2

    def part_channels(self, channels: int) -> int:
        """That each part of a sum is made of; the last may have fewer."""
        if self.parts == 1:
            return channels
        return math.ceil(math.ceil(channels / self.step_channels) / self.parts) * self.step_channels

    def blocks_of(self, tiles: int) -> int:
        """Blocks of threads that so many tiles are work for."""
        return math.ceil(tiles / self.groups) if self.is_resident else tiles

    def shared_bytes(self, channels: int) -> int:
        """Shared memory that a block has."""
        if self.kind == "gathered":
            eighths = math.ceil(9 * channels / 16) * 2
            return eighths * 16 * (self.columns + 64 * self.blocks) + 4 * self.columns
        return self._other_bytes(self.rooms) + self.rooms * self._filter_bytes

    @property
    def _filter_bytes(self) -> int:
        return self.columns * STEP_BYTES

    @property
    def _picture_bytes(self) -> int:
        return math.prod(self.seen) * STEP_BYTES

    def _other_bytes(self, rooms: int) -> int:
        """Of what is streamed all but filters: pixels, answers, what is added and multiplied, barriers."""
        pictures = 2 * self.groups if self.is_resident else 2
        answer = (
            0 if self.parts > 1 or self.group_columns < CHANNELS else math.prod(self.region) * 2 * self.group_columns
        )
        barriers = 8 * (2 * pictures + 2 * rooms + self.groups)
        whole = math.ceil(self._picture_bytes / 1024) * 1024  # each room is swizzled as the first
        terms = 2 if self.kind == "eight_bit" else 1
        return pictures * whole + self.groups * answer + terms * 4 * self.columns + barriers


RESIDENT = (
    HopperTiling("resident", 1, 2, 64, 2),
    HopperTiling("resident", 2, 1, 64, 2),
    HopperTiling("resident", 1, 1, 64, 2),
    HopperTiling("resident", 1, 1, 64, 1),
)
STEPPED = (
    HopperTiling("stepped", 2, 2, 64, 2),
    HopperTiling("stepped", 2, 2, 128, 2),
    HopperTiling("stepped", 2, 1, 64, 2),
    HopperTiling("stepped", 2, 1, 128, 2),
    HopperTiling("stepped", 1, 1, 64, 1),
    HopperTiling("stepped", 1, 1, 128, 2),
)
COLOURS = (
    HopperTiling("colours", 2, 2, FEW_COLUMNS, 2),
    HopperTiling("colours", 1, 2, FEW_COLUMNS, 2),
)
GATHERED = (
    HopperTiling("gathered", 2, 2, 64, 2),
    HopperTiling("gathered", 1, 2, 64, 2),
    HopperTiling("gathered", 1, 1, 64, 2),
)


def is_for_hopper(name: str) -> bool:
    """Whether a tiling of this name is one of these."""
    return name.startswith("hopper ")


def hopper_tiling_named(name: str) -> HopperTiling:
    """The tiling of a name. Raises `ValueError` when it is none."""
    found = re.fullmatch(NAME, name)
    kind = next((each for each in get_args(Kind) if found is not None and each == found[1]), None)
    if found is None or kind is None:
        raise ValueError(f"{name!r} is no tiling for Hopper")
    down, across, columns, groups, parts = map(int, found.groups()[1:])
    return HopperTiling(kind, down, across, columns, groups, parts)


def hopper_candidates(shape: Shape, card: Card, most: int = MOST_TRIED) -> tuple[HopperTiling, ...]:
    """The ways worth a trial, the most promising first; none where there are none."""
    if card.capability != CAPABILITY or shape.dtype not in (*HALVES, EIGHT_BIT):
        return ()
    if (shape.side, shape.stride, shape.padding, shape.other_channels) != (3, 1, 1, 0):
        return ()
    factor = 2 if shape.doubled else 1
    if (shape.out_height, shape.out_width) != (factor * shape.height, factor * shape.width):
        return ()
    return tuple(sorted(_ways(shape, card), key=lambda way: (cycles_of(way, shape, card), way.name))[:most])


def _ways(shape: Shape, card: Card) -> Iterable[HopperTiling]:
    if shape.dtype == EIGHT_BIT:
        if can_be_eight_bit(shape.channels, shape.columns) and not shape.doubled:
            yield from (_in_parts(replace(way, kind="eight_bit"), shape, card) for way in STEPPED)
    elif shape.doubled:
        if shape.channels == CHANNELS and shape.columns % CHANNELS == 0 and not shape.residual:
            ways = (replace(way, kind="doubled") for way in RESIDENT)
            # Lines of all pictures are one axis of the answer, of which a tile may not have those of two.
            yield from (way for way in ways if shape.height % (8 * way.down) == 0)
    elif shape.channels <= MOST_GATHERED:
        if shape.columns % CHANNELS == 0:
            yield from GATHERED
    elif shape.channels == CHANNELS and shape.columns <= FEW_COLUMNS:
        yield from () if shape.residual else COLOURS
    elif shape.channels % CHANNELS == 0 and shape.columns % CHANNELS == 0:
        if shape.channels == CHANNELS:
            yield from RESIDENT
        yield from (_in_parts(way, shape, card) for way in STEPPED)


def can_be_eight_bit(channels: int, columns: int) -> bool:
    """Whether there is a way in eight bits for filters of three times three of so many channels and columns."""
    return channels >= LEAST_EIGHT_BIT and channels % CHANNELS == 0 and columns % CHANNELS == 0


def _in_parts(way: HopperTiling, shape: Shape, card: Card) -> HopperTiling:
    """With as many parts as are the best."""
    steps = math.ceil(shape.channels / way.step_channels)
    ways = [replace(way, parts=each) for each in PARTS if _can_have_parts(way, each, steps)]
    return min(ways, key=lambda way: cycles_of(way, shape, card))


def _can_have_parts(way: HopperTiling, parts: int, steps: int) -> bool:
    """Whether no part has nothing left to do, and a block that adds parts has the registers for it."""
    if parts == 1:
        return True
    return parts <= steps and math.ceil(steps / math.ceil(steps / parts)) == parts and way.blocks * way.columns <= 256


def cycles_of(way: HopperTiling, shape: Shape, card: Card) -> float:
    """What a way takes: to order them, and for nothing else."""
    steps = math.ceil(math.ceil(shape.channels / way.step_channels) / way.parts) * 9
    programs = way.tiles(shape.batch, shape.height, shape.width) * math.ceil(shape.columns / way.columns) * way.parts
    products = 2 * way.blocks * max(way.columns, 32)
    processors = card.processors
    if way.kind in ("stepped", "eight_bit"):
        bytes_read = STEP_BYTES * (way.columns + math.prod(way.seen) / 9)
        each = steps * (max(products, bytes_read / BYTES_IN_A_CYCLE) + STEP_CYCLES) + BEGIN_CYCLES
    else:
        each = 9 * products
        if way.kind == "doubled":
            programs *= 2
        if way.is_resident:
            each *= way.groups
            programs = math.ceil(programs / way.groups)
    sums = 0.0 if way.parts == 1 else SUM_CYCLES
    return math.ceil(programs / processors) * each + BEGIN_CYCLES + sums


__all__ = [
    "CHANNELS",
    "COLOURS",
    "GATHERED",
    "MOST_TRIED",
    "RESIDENT",
    "STEPPED",
    "HopperTiling",
    "can_be_eight_bit",
    "cycles_of",
    "hopper_candidates",
    "hopper_tiling_named",
    "is_for_hopper",
]
