"""The only importer of `time`: monotonic seconds for durations, UTC for humans.

Everything that decides by time takes a `Clock`, so a test can move time by hand.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Protocol


class Clock(Protocol):
    """What the time is, in the two senses the project uses."""

    def monotonic(self) -> float:
        """Seconds that never run backwards; only differences mean anything."""
        ...

    def now(self) -> datetime:
        """The present moment in UTC."""
        ...


class SystemClock:
    """The clock of the machine.

    `monotonic()` is `CLOCK_MONOTONIC`, which all processes of one host share: a frame's age can be taken in
    the server and in the worker alike.
    """

    monotonic = staticmethod(time.monotonic)
    """Not wrapped: it is asked two dozen times for each picture."""

    def now(self) -> datetime:
        return datetime.now(UTC)


class ManualClock:
    """A clock that moves only when told to."""

    def __init__(self, start: float = 1000.0, at: datetime | None = None) -> None:
        self._monotonic = start
        self._origin = start
        self._at = at or datetime(2026, 1, 1, tzinfo=UTC)

    def monotonic(self) -> float:
        return self._monotonic

    def now(self) -> datetime:
        return self._at + timedelta(seconds=self._monotonic - self._origin)

    def advance(self, seconds: float) -> None:
        """Move forward by `seconds` (not negative)."""
        if seconds < 0:
            raise ValueError("a monotonic clock cannot go back")
        self._monotonic += seconds


def pause(seconds: float) -> None:
    """Wait on a thread that may wait, such as one that fetches files; never on the event loop or between pictures."""
    time.sleep(seconds)


def epoch_milliseconds(moment: datetime) -> int:
    """Milliseconds since 1970-01-01 UTC, as the wire's times are."""
    return int(moment.timestamp() * 1000)


__all__ = ["Clock", "ManualClock", "SystemClock", "epoch_milliseconds", "pause"]
