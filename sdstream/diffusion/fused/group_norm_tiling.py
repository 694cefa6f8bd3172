"""How the group norm's kernels cut a picture up: plain arithmetic, with no GPU in it."""

from dataclasses import dataclass

COLUMNS = 64
"""Channels that lie side by side in a block, at most: whole lines of memory, whatever the width of a group."""
VALUES = 4096
"""Values that a block holds at once."""
BLOCKS = 264
"""Blocks that one picture is cut into, about: two for each processor of a large GPU."""
MOST_WHOLE = 32768
"""Values of a group, filled up, that one block keeps in its registers: read once, in one launch."""
VALUES_A_WARP, MOST_WARPS = 1024, 16
"""Of such a group: 32 registers of a thread, or 64 of the largest."""


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
    def sizes(self) -> dict[str, int]:
        """What the kernels are told of it, by their names for it."""
        return {name: getattr(self, name) for name in ("columns", "spans", "shares", "tiles", "at_once", "tile_rows")}


def tiling_of(rows: int, channels: int, groups: int, most_whole: int = MOST_WHOLE) -> Whole | Tiles:
    """The tiling of pictures of `rows` pixels. By the picture alone, not by how many there are: their number may be
    unknown when this is compiled, and the same picture gives the same answer in any company."""
    width = channels // groups
    padded_rows, padded = _power_of_two(rows), _power_of_two(width)
    if padded_rows * padded <= most_whole:
        return Whole(padded_rows, padded, min(MOST_WARPS, max(1, padded_rows * padded // VALUES_A_WARP)))
    columns = min(COLUMNS, _power_of_two(channels))
    blocks = -(-channels // columns)
    starts = [block * columns for block in range(blocks)]
    spans = max((min(start + columns, channels) - 1) // width - start // width + 1 for start in starts)
    shares = max(
        (group * width + width - 1) // columns - group * width // columns + 1 for group in range(channels // width)
    )
    at_once = max(1, VALUES // columns)
    tiles = _power_of_two(-(-BLOCKS // blocks))
    while tiles > 1 and tiles * at_once > rows:
        tiles //= 2
    tile_rows = -(-rows // (tiles * at_once)) * at_once
    return Tiles(columns, blocks, _power_of_two(spans), shares, tiles, at_once, tile_rows)


def _power_of_two(number: int) -> int:
    """The least that is not below `number`."""
    return 1 << (number - 1).bit_length()


__all__ = ["Tiles", "Whole", "tiling_of"]
