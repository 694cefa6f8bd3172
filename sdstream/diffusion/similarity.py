"""The similar-image filter: pictures that hardly differ from the last one processed may be left out.

How like two pictures are is computed on the device. Where that is a GPU the number is not waited for, and a picture is
decided by how like the one before it was.
"""

from dataclasses import dataclass

import torch
from torch.nn import functional

from sdstream.diffusion.readback import Readback, make_readback

SAMPLES = 64
"""Pixels of each side that are compared, evenly spread: what is seen at all of them is seen at these."""


@dataclass(frozen=True, slots=True)
class FilterRule:
    """`threshold` 0 to 1: above this likeness pictures may be skipped; `most` of them in a row."""

    threshold: float
    most: int


def chance_of_skipping(likeness: float, threshold: float) -> float:
    """How probably a picture is left out: never at the threshold or below, always when nothing moved, upstream's line
    between. A threshold of 1 leaves none out."""
    if threshold >= 1.0:
        return 0.0
    return min(1.0, max(0.0, 1.0 - (1.0 - likeness) / (1.0 - threshold)))


def is_skipped(likeness: float | None, rule: FilterRule, in_a_row: int, draw: float) -> bool:
    """Whether a picture is left out. `likeness` is None while it is not known, `in_a_row` are the pictures left out
    since the last one processed, `draw` is a random number from 0 to just below 1."""
    if likeness is None or in_a_row >= rule.most:
        return False
    return draw < chance_of_skipping(likeness, rule.threshold)


def likeness_of(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The cosine of two pictures, 0 to 1 [1, 3, H, W] each, taken as vectors of -1 to 1; a tensor of one number."""
    return functional.cosine_similarity(one.reshape(1, -1) * 2 - 1, other.reshape(1, -1) * 2 - 1, dim=1, eps=1e-6)


class SimilarImageFilter:
    """One stream's filter. `skipped` counts the pictures that it has left out."""

    def __init__(self, rule: FilterRule, seed: int, device: torch.device, readback: Readback | None = None) -> None:
        self._rule = rule
        self._random = torch.Generator().manual_seed(seed)
        self._readback = make_readback(device) if readback is None else readback
        self._reference: torch.Tensor | None = None
        self._in_a_row = 0
        self._due = 0
        self.skipped = 0

    def turn(self, rule: FilterRule) -> None:
        """Put another rule into force."""
        self._rule = rule

    def process_next(self, pictures: int = 1) -> None:
        """Leave none of the next `pictures` out: what is done with them has changed, so the last output is old."""
        self._due = max(self._due, pictures)

    def skips(self, image: torch.Tensor) -> bool:
        """Whether this picture, float [1, 3, H, W] of 0 to 1, is left out, and the last output is to be sent again."""
        seen = _sample(image)
        if self._reference is not None and self._reference.shape == seen.shape:
            self._readback.put(likeness_of(self._reference, seen))
        draw = float(torch.rand(1, generator=self._random))  # of the host
        skipped = is_skipped(self._readback.take(), self._rule, self._in_a_row, draw)
        if skipped and self._due == 0:
            self._in_a_row += 1
            self.skipped += 1
            return True
        self._due = max(0, self._due - 1)
        self._in_a_row = 0
        self._reference = seen
        return False


def _sample(image: torch.Tensor) -> torch.Tensor:
    """The compared pixels in memory of their own. Not an average: that would hide noise, which upstream's rule sees."""
    down, across = (max(1, side // SAMPLES) for side in image.shape[-2:])
    return image[:, :, ::down, ::across].clone()


__all__ = ["FilterRule", "SimilarImageFilter", "chance_of_skipping", "is_skipped", "likeness_of"]
