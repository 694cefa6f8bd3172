"""The times of a file's packets, made to go on where the file turns back, as where two films were joined into one."""

from collections import deque
from fractions import Fraction
from typing import NamedTuple

MOST_PARTS = 8
"""How many turns a stream may come behind another."""
TURN = Fraction(1, 10)
"""Seconds that a stream must go back to have begun anew; less is the unsteady hand of whoever wrote the file."""
NEAR = 10
"""Seconds between the end of a stream and where it goes on, at most: they end and begin at times of their own."""


class GoingOn:
    """What to add to the times of each packet. All are seconds; packets of each stream come in the order of decoding.

    A film's streams turn back one after another, each at its own packet, and by the same step: else sound and pictures
    would part. The first of them settles it, so that its next packet stands where all that came before has ended.
    """

    def __init__(self) -> None:
        self._begun: deque[_Part] = deque(maxlen=MOST_PARTS)
        """The newest parts of the file, which streams are still to enter."""
        self._parts: dict[int, _Part] = {}
        """In which one a stream is."""
        self._last: dict[int, Fraction] = {}
        """As the file has them."""
        self._ends: dict[int, Fraction] = {}
        """As they were given."""

    def shift(self, stream: int, decoded: Fraction, shown: Fraction, duration: Fraction) -> Fraction:
        """The seconds to add to a packet of the stream of this number that is `decoded` and `shown` at these times."""
        part = self._parts.get(stream, FIRST)
        if decoded < self._last.get(stream, decoded) - TURN:
            part = self._parts[stream] = self._part_after(part, stream, shown)
        self._last[stream] = decoded
        end = shown + part.shift + duration
        self._ends[stream] = max(self._ends.get(stream, end), end)
        return part.shift

    def _part_after(self, part: "_Part", stream: int, shown: Fraction) -> "_Part":
        """The part that another stream has begun already, where this one goes on there; else a new one."""
        for later in self._begun:
            if later.number > part.number and abs(shown + later.shift - self._ends[stream]) <= NEAR:
                return later
        newest = self._begun[-1].number if self._begun else FIRST.number
        self._begun.append(_Part(newest + 1, max(self._ends.values()) - shown))
        return self._begun[-1]


class _Part(NamedTuple):
    """What lies between two turns, and the seconds that its times are moved by."""

    number: int
    shift: Fraction


FIRST = _Part(0, Fraction(0))

__all__ = ["GoingOn"]
