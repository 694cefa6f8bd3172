"""How the group norm's kernels cut a picture up: plain arithmetic, with no GPU in it."""

from dataclasses import dataclass

COLUMNS = 64
"""Channels that lie side by side in a block, at most: whole lines of memory, whatever the width of a group."""
WIDEST_WHOLE = 64
"""Channels of a group, filled up, that one block has all of: wider ones were slower than two launches."""
LEAST_ROWS = 64
"""Of a block, where there are as many: every block reads the sums of all others below it, which takes longer the more
there are."""
VALUES_A_WARP, MOST_WARPS = 1024, 16
"""Of such a group: 32 registers of a thread."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a tiling aims at. What stands here was the fastest of some on an H200 (docs/experiments.md).

    A group of `most_whole` values, filled up, is one block's, which keeps them in its registers: read once, in one
    launch. Else one picture is cut into `programs` blocks or more, of no more than `most_tiles` below each other, since
    each block reads the sums of all of them; a block holds `values` at once, at most.
    """

    most_whole: int = 8192
    programs: int = 264
    most_tiles: int = 64
    values: int = 4096


RULE = Rule()


@dataclass(frozen=True, slots=True)
class Whole:
    """A block for each group of each picture, of `padded_rows` times `padded` values, both powers of two."""

    padded_rows: int
    padded: int
    warps: int


@dataclass(frozen=True, slots=True)
class Tiles:
    """`blocks` side by side of `columns` channels, `tiles` below each other of `tile_rows` pixels, `at_once` at a time.

    A block has values of up to `spans` groups, and a group lies in up to `shares` blocks: groups end where they end.
    All but `blocks`, `shares` and `tile_rows` are powers of two.
    """

    columns: int
    blocks: int
    spans: int
    shares: int
    tiles: int
    at_once: int
    tile_rows: int

    @property
    def slots(self) -> int:
        """Room for the sums of a group's shares in a tile, so that those of all tiles are a power of two."""
        return _power_of_two(self.shares)

    @property
    def sizes(self) -> dict[str, int]:
        """What the kernels are told of it, by their names for it."""
        return {name: getattr(self, name) for name in ("columns", "spans", "slots", "tiles", "at_once", "tile_rows")}


def tiling_of(rows: int, channels: int, groups: int, rule: Rule = RULE) -> Whole | Tiles:
    """The tiling of pictures of `rows` pixels. By the picture alone, not by how many there are: their number may be
    unknown when this is compiled, and the same picture gives the same answer in any company."""
    width = channels // groups
    padded_rows, padded = _power_of_two(rows), _power_of_two(width)
    values = padded_rows * padded
    if padded <= WIDEST_WHOLE and values <= rule.most_whole:
        return Whole(padded_rows, padded, min(MOST_WARPS, max(1, values // VALUES_A_WARP)))
    columns = min(COLUMNS, _power_of_two(channels))
    blocks = -(-channels // columns)
    starts = [block * columns for block in range(blocks)]
    spans = max((min(start + columns, channels) - 1) // width - start // width + 1 for start in starts)
    shares = max(
        (group * width + width - 1) // columns - group * width // columns + 1 for group in range(channels // width)
    )
    tiles = min(rule.most_tiles, _power_of_two(-(-rule.programs // blocks)))
    while tiles > 1 and tiles * LEAST_ROWS > rows:
        tiles //= 2
    at_once = max(1, min(rule.values // columns, _power_of_two(-(-rows // tiles))))
    tile_rows = -(-rows // (tiles * at_once)) * at_once
    return Tiles(columns, blocks, _power_of_two(spans), shares, tiles, at_once, tile_rows)


def _power_of_two(number: int) -> int:
    """The least that is not below `number`."""
    return 1 << (number - 1).bit_length()


__all__ = ["Rule", "Tiles", "Whole", "tiling_of"]
