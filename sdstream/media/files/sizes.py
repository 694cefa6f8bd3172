"""Which size a stream may have that fits a file."""

import math
from typing import Any

from sdstream.frames import PictureSize

SIDES = range(384, 1025, 64)
"""The widths and heights that a stream may have."""


def fit_size(width: int, height: int, *, fixed_width: Any = None, fixed_height: Any = None) -> PictureSize:
    """The size a stream may have whose aspect is nearest to `width`:`height`, then nearest in pixels.

    A side that is settled already and that a stream may have is kept; any other is left to the validation.
    """
    aspect, pixels = width / height, width * height

    def distance(size: PictureSize) -> float:
        return 8 * abs(math.log(size.width / size.height / aspect)) + abs(math.log(size.byte_count / 1.5 / pixels)) / 8

    widths = [fixed_width] if fixed_width in SIDES else SIDES
    heights = [fixed_height] if fixed_height in SIDES else SIDES
    return min((PictureSize(one, other) for one in widths for other in heights), key=distance)


__all__ = ["SIDES", "fit_size"]
