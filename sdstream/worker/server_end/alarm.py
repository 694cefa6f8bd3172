"""Calls back at a moment that may be set anew, from any thread, and is kept on the event loop."""

import asyncio
import contextlib
from collections.abc import Callable

from sdstream.clock import Clock

LATE = 0.01
"""Seconds after the moment: loops may call a trifle early, and who is called then would find nothing due."""


class Alarm:
    """One call at a time, on `loop`. Made, and not more, on any thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, clock: Clock, call: Callable[[], None]) -> None:
        self._loop = loop
        self._clock = clock
        self._call = call
        self._at: float | None = None
        self._handle: asyncio.TimerHandle | None = None

    def set(self, at: float | None) -> None:
        """Call at `at`, monotonic seconds, and not at what was set before; None for not at all. From any thread, one at
        a time."""
        if at != self._at:
            self._at = at
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be called
                self._loop.call_soon_threadsafe(self._wind)

    def _wind(self) -> None:
        handle, self._handle = self._handle, None
        if handle is not None:
            handle.cancel()
        if self._at is not None:
            delay = max(0.0, self._at - self._clock.monotonic()) + LATE
            self._handle = self._loop.call_later(delay, self._call)


__all__ = ["Alarm"]
