"""The RTP clock of an output: the publisher's time stamps where they run on, wall time where they do not."""

from fractions import Fraction
from typing import NamedTuple

from sdstream.frames import VIDEO_CLOCK

TICKS = VIDEO_CLOCK.denominator
"""In one second. Pictures of the publisher count in them, so the usual way needs no fractions."""
LARGEST_STEP = 10.0
"""Seconds that one picture's time may differ from the wall clock before it is taken for another clock."""
LATENCY_ROOM = 1.0
"""Seconds that pictures made up here stay behind the wall once a publisher's have been seen.

When the pipeline gets slower, repetitions fill the pause, and after them come pictures that were captured before. Those
must find their places free: a picture that is moved behind a repetition lies beside its sound. More room would make
segments of HLS too long, because where nothing gets slower the next picture lies that much behind the repetitions.
"""
LATE_PATIENCE = 0.25
"""Seconds that pictures whose places are taken may come one after the other before their clock is set anew. What a
network held up comes all at once and is over by then; a clock that stood still while its publisher paused is as late as
it was."""
CATCHING_UP = 1.5
"""Seconds of the publisher's clock in one of the wall's from which it is on its way back to its places."""
LEAST_STEP = TICKS // 1000
"""Ticks from one picture to the next that is made up or moved: RTMP counts milliseconds."""


class Lateness(NamedTuple):
    """Since when, in monotonic seconds, the places of the publisher's pictures have been taken: its ticks then, and
    where the wall was."""

    since: float
    source: int
    wall: int

    def lasts(self, source: int, now: float) -> bool:
        """Whether the publisher's clock will not catch up by itself."""
        elapsed = now - self.since
        return elapsed >= LATE_PATIENCE and source - self.source < CATCHING_UP * elapsed * TICKS

    def wall_at(self, now: float) -> int:
        """Where the wall is by now."""
        return self.wall + round((now - self.since) * TICKS)


class OutputTimeline:
    """Maps the time stamps of changing publishers, and moments without any, to one clock that only grows."""

    def __init__(self) -> None:
        self._offset: int | None = None
        """The output's ticks less the publisher's; None before a publisher."""
        self._source: int | None = None
        self._last: int | None = None
        self._anchor = 0, 0.0
        """Where the publisher's clock put its newest picture, and when that came; without a publisher, the start."""
        self._late: Lateness | None = None
        self.exact = False
        """Whether the last picture lies where its publisher's clock puts it."""

    def map(self, pts: int | None, time_base: Fraction, now: float) -> int:
        """The time in 90 kHz ticks of a picture with `pts` counted in `time_base`, or of one made up here (None).

        A picture that comes a second time is made up. `now` is the monotonic second; results grow by at least one tick.
        """
        if self._last is None:
            self._anchor = 0, now
        wall = self._anchor[0] + round((now - self._anchor[1]) * TICKS)
        source = None if pts is None else pts if time_base is VIDEO_CLOCK else round(pts * time_base * TICKS)
        if source is None or source == self._source:
            ticks = wall if self._offset is None else wall - round(LATENCY_ROOM * TICKS)
            self.exact = False
        else:
            ticks = self._follow(source, wall, now)
            self._source, self._anchor = source, (ticks, now)
            self.exact = True
        if self._last is not None and ticks <= self._last:
            # Made up within the room; or more of the room was needed than there is; or a clock was set back a little.
            ticks = self._last + LEAST_STEP
            self.exact = False
        self._last = ticks
        return ticks

    def _follow(self, source: int, wall: int, now: float) -> int:
        """Where the publisher's clock puts its picture; another clock, or one that stood still, begins at the wall's
        time."""
        known = self._offset is not None and abs(source + self._offset - wall) <= LARGEST_STEP * TICKS
        if known and self._offset is not None and self._last is not None and source + self._offset <= self._last:
            late = self._late = self._late or Lateness(now, source, wall)
            if not late.lasts(source, now):
                return source + self._offset
            known, wall = False, late.wall_at(now)
        self._late = None
        if self._offset is None or not known:
            begin = wall if self._last is None else max(wall, self._last + LEAST_STEP)
            self._offset = begin - source
        return source + self._offset


__all__ = ["OutputTimeline"]
