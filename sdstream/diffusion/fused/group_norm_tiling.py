"""How the group norm's kernels cut a picture up: plain arithmetic, with no GPU in it."""

from dataclasses import dataclass

LANES = 128
"""Channels that a block takes at once, filled up to powers of two."""
VALUES = 2048
"""Values that a block holds at once."""
BLOCKS = 264
"""Blocks that one picture is cut into, about: two for each processor of a large GPU."""
STEPS = 2
"""Times that a block may go on to its next rows where it takes all of them, twice, which is one launch instead of two.
On an H100 a block of 16 steps took four times as long as both launches."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """Blocks of `together` groups, `padded` channels each, of `tile_rows` pixels, `at_once` of them at a time.

    `blocks` side by side have all groups, and `tiles` below each other all pixels of a picture. All but `tile_rows`
    and `blocks` are powers of two.
    """

    padded: int
    together: int
    at_once: int
    blocks: int
    tiles: int
    tile_rows: int

    @property
    def sizes(self) -> dict[str, int]:
        """What the kernels are told of it, by their names for it."""
        return {name: getattr(self, name) for name in ("padded", "together", "at_once", "tiles", "tile_rows")}


def tiling_of(rows: int, channels: int, groups: int) -> Tiling:
    """The tiling of pictures of `rows` pixels. By the picture alone, not by how many there are: their number may be
    unknown when this is compiled."""
    padded = _power_of_two(channels // groups)
    together = max(1, min(_power_of_two(groups), LANES // padded))
    at_once = max(1, VALUES // (together * padded))
    blocks = -(-groups // together)
    tiles = 1 if rows <= STEPS * at_once else _power_of_two(-(-BLOCKS // blocks))
    while tiles > 1 and tiles * at_once > rows:
        tiles //= 2
    tile_rows = -(-rows // (tiles * at_once)) * at_once
    return Tiling(padded, together, at_once, blocks, tiles, tile_rows)


def _power_of_two(number: int) -> int:
    """The least that is not below `number`."""
    return 1 << (number - 1).bit_length()


__all__ = ["Tiling", "tiling_of"]
