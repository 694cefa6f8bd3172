"""Memory that sessions leave behind is given back to the system.

Pictures and codecs live in the C library's heaps, one for each of a few threads. What a session frees there stays with
the process as long as anything lies behind it, so a server with comings and goings grows although nothing is lost.
"""

import asyncio
from collections.abc import Callable

TRIM_SECONDS = 4.0
"""From the first going to the trim, which serves all in between: sessions take a moment to be taken down."""


class MemoryTrimmer:
    """Calls `trim` on a thread some seconds after `request`, for many requests once. For the event loop."""

    def __init__(self, trim: Callable[[], object], seconds: float = TRIM_SECONDS) -> None:
        self._trim = trim
        self._seconds = seconds
        self._timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[object] | None = None
        self._closed = False

    def request(self) -> None:
        """Something large was freed, or is about to be."""
        if self._timer is None and not self._closed:
            self._timer = asyncio.get_running_loop().call_later(self._seconds, self._begin)

    async def close(self) -> None:
        """Trim no more, and wait for a trim under way. Idempotent."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._task is not None:
            await self._task

    def _begin(self) -> None:
        self._timer = None
        if self._task is None or self._task.done():
            self._task = asyncio.ensure_future(asyncio.to_thread(self._trim))


__all__ = ["TRIM_SECONDS", "MemoryTrimmer"]
