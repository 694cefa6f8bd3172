"""How many pictures a second there are, and how many bits they may take. Pure; times are given."""

import itertools
import math
import statistics
from collections import deque
from dataclasses import dataclass

from sdstream.frames import PictureSize

NOMINAL_RATE = 30
"""Pictures a second that a bitrate of the settings is for."""
REFERENCE_PIXELS = 512 * 512
RATE_POWER = 0.5
"""Twice the pictures take 1.4 times the bits: the closer pictures lie, the less differs between them."""
FEWEST_INTERVALS = 10
LEAST_CHANGE = 1.3
"""Ratio of two rates from which on the encoder is set anew."""
SETTLED_SECONDS = 3.0
"""A rate must have held so long before the encoder is set to it."""
LOOK_SECONDS = 0.25
"""The rate is looked at so often: to look costs more than all else that is counted of a picture."""
SLOWEST, FASTEST = 1.0, 240.0


class PictureRate:
    """Pictures a second as the median of the newest intervals, so that neither a gap nor a repetition counts."""

    def __init__(self, intervals: int = 24) -> None:
        self._times: deque[int] = deque(maxlen=intervals + 1)

    def note(self, time: int) -> None:
        """A picture lies at `time`, in 90 kHz ticks."""
        self._times.append(time)

    @property
    def value(self) -> float | None:
        """None before ten intervals were seen."""
        if len(self._times) <= FEWEST_INTERVALS:
            return None
        usual = statistics.median(later - time for time, later in itertools.pairwise(self._times))
        return round(90_000 / usual, 2) if usual > 0 else None


class RateFollower:
    """The rate that an encoder is set to: it follows the pictures' rate where that has changed much and for good."""

    def __init__(self, rate: float = NOMINAL_RATE) -> None:
        self.rate = rate
        self._pictures = PictureRate()
        self._off_since: float | None = None
        self._look_at = float("-inf")

    def note(self, time: int, now: float) -> None:
        """A picture lies at `time`, in 90 kHz ticks; it is the second `now`."""
        self._pictures.note(time)
        if now < self._look_at:
            return
        self._look_at = now + LOOK_SECONDS
        measured = self._pictures.value
        if measured is None:
            return
        measured = min(max(measured, SLOWEST), FASTEST)
        if max(measured / self.rate, self.rate / measured) < LEAST_CHANGE:
            self._off_since = None
        elif self._off_since is None:
            self._off_since = now
        elif now - self._off_since >= SETTLED_SECONDS:
            self.rate, self._off_since = measured, None


@dataclass(frozen=True, slots=True)
class Bitrates:
    """Bits a second by the settings: `reference` is for 512x512 at 30; all are between `least` and `most`.

    With `follows` they are fewer where viewers' lines carry less.
    """

    reference: int = 1_500_000
    least: int = 100_000
    most: int = 50_000_000
    follows: bool = True

    def of(self, size: PictureSize, rate: float = NOMINAL_RATE, limit: float = math.inf) -> int:
        """Bits a second of `rate` pictures of `size`, by the pixels and by the square root of the rate: no more than
        `limit`, but `least` at any rate."""
        pixels = size.width * size.height / REFERENCE_PIXELS
        wanted = min(self.reference * pixels * (rate / NOMINAL_RATE) ** RATE_POWER, limit)
        return round(min(max(wanted, self.least), self.most))


__all__ = ["NOMINAL_RATE", "Bitrates", "PictureRate", "RateFollower"]
