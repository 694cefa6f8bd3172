"""Meters of a stream: rates, latencies and drops, in fixed memory and constant time for each picture.

None is locked: `StreamTraffic` holds the one lock.
"""

import math
from array import array
from bisect import bisect_left

from sdstream.metrics import LATENCY_BOUNDS, LatencyCounts
from sdstream.streams.views import LatencySummary

SLOT_SECONDS = 0.1
LATENCY_CAPACITY = 2400
"""Ten seconds of the highest frame rate that a setting allows."""


class RateMeter:
    """Events a second over the last `window` seconds, which must be a multiple of 0.1."""

    def __init__(self, window: float = 2.0) -> None:
        self._slots = round(window / SLOT_SECONDS)
        self._window = window
        self._counts = [0] * self._slots
        self._numbers = [-1] * self._slots
        self._first: float | None = None
        self._last: float | None = None
        self.total = 0

    @property
    def first_at(self) -> float | None:
        """The first event of the present flow, which a pause longer than the window ends."""
        return self._first

    @property
    def last_at(self) -> float | None:
        return self._last

    def add(self, now: float) -> None:
        """Count one event at `now`, monotonic seconds."""
        number = int(now / SLOT_SECONDS)
        place = number % self._slots
        if self._numbers[place] != number:
            self._numbers[place] = number
            self._counts[place] = 0
        self._counts[place] += 1
        if self._last is None or now - self._last > self._window:
            self._first = now
        self._last = now
        self.total += 1

    def rate(self, now: float) -> float:
        """Events a second until `now`; 0 when there was none within the window."""
        if self._first is None:
            return 0.0
        newest = int(now / SLOT_SECONDS)
        oldest = newest - self._slots + 1
        count = sum(n for n, number in zip(self._counts, self._numbers, strict=True) if oldest <= number <= newest)
        span = now - oldest * SLOT_SECONDS
        flow = now - self._first
        if flow < span:  # the first event opens the span instead of filling it
            count, span = count - 1, max(flow, 5 * SLOT_SECONDS)
        return max(count, 0) / span

    def restart(self) -> None:
        """Forget the flow, not the total."""
        self._numbers = [-1] * self._slots
        self._first = self._last = None


class LatencyWindow:
    """Durations of the last `window` seconds (at most 2400 of them), and all of them as a histogram."""

    def __init__(self, window: float = 10.0) -> None:
        self._window = window
        self._times = array("d", bytes(8 * LATENCY_CAPACITY))
        self._values = array("d", bytes(8 * LATENCY_CAPACITY))
        self._buckets = [0] * (len(LATENCY_BOUNDS) + 1)
        self._sum = 0.0
        self._added = 0

    def add(self, now: float, seconds: float) -> None:
        place = self._added % LATENCY_CAPACITY
        self._times[place] = now
        self._values[place] = seconds
        self._buckets[bisect_left(LATENCY_BOUNDS, seconds)] += 1
        self._sum += seconds
        self._added += 1

    def summary(self, now: float) -> LatencySummary | None:
        """Median and 95th percentile (nearest rank) of the window; None when it is empty."""
        kept = min(self._added, LATENCY_CAPACITY)
        since = now - self._window
        values = sorted(self._values[place] for place in range(kept) if self._times[place] >= since)
        if not values:
            return None
        return LatencySummary(_percentile(values, 0.5), _percentile(values, 0.95))

    def counts(self) -> LatencyCounts:
        """All durations ever added, by bucket."""
        return LatencyCounts(tuple(self._buckets), self._sum)


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


__all__ = ["LATENCY_CAPACITY", "SLOT_SECONDS", "LatencyWindow", "RateMeter"]
