"""The RTP clock of an output: the publisher's time stamps where they run on, wall time where they do not."""

from fractions import Fraction

from sdstream.frames import VIDEO_CLOCK

TICKS = VIDEO_CLOCK.denominator
"""In one second. Pictures of the publisher count in them, so the usual way needs no fractions."""
LARGEST_STEP = 10.0
"""Seconds that one picture's time may differ from the wall clock before it is taken for another clock."""


class OutputTimeline:
    """Maps the time stamps of changing publishers, and moments without any, to one clock that only grows."""

    def __init__(self) -> None:
        self._offset: int | None = None
        self._last: int | None = None
        self._last_at = 0.0
        self.exact = False
        """Whether the last picture lies where its publisher's clock puts it."""

    def map(self, pts: int | None, time_base: Fraction, now: float) -> int:
        """The time in 90 kHz ticks of a picture with `pts` counted in `time_base`, or of one made up here (None).

        `now` is the monotonic second; results grow by at least one tick.
        """
        wall = 0 if self._last is None else self._last + max(1, round((now - self._last_at) * TICKS))
        if pts is None:
            ticks = wall
        else:
            source = pts if time_base is VIDEO_CLOCK else round(pts * time_base * TICKS)
            if self._offset is None:
                self._offset = wall - source
            ticks = source + self._offset
            if abs(ticks - wall) > LARGEST_STEP * TICKS:
                self._offset = wall - source
                ticks = wall
        self.exact = pts is not None
        if self._last is not None and ticks <= self._last:
            # Pictures made up here ran ahead, or a publisher's clock was set back a little.
            ticks = self._last + 1
            self.exact = False
        self._last = ticks
        self._last_at = now
        return ticks


__all__ = ["OutputTimeline"]
