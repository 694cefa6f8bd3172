"""Memory that streams and models leave behind in the C library's heaps goes back to the system."""

import threading
from collections.abc import Callable

from sdstream.platform.memory import release_free_memory

TIDY_SECONDS = 4.0
"""From the first request to the trim, which serves all in between: what was let go takes a moment to be freed."""


class HeapTidier:
    """Calls `trim` on a thread of its own some seconds after `request`, once for many requests.

    The worker's process keeps what it frees for the next picture (`child.KEEP_MEMORY`), which a model that left, or a
    batch that has become smaller, does not need again.
    """

    def __init__(self, trim: Callable[[], object] = release_free_memory, seconds: float = TIDY_SECONDS) -> None:
        self._trim = trim
        self._seconds = seconds
        self._pending = threading.Event()

    def request(self) -> None:
        """Something large was let go. From any thread."""
        if self._pending.is_set():
            return
        self._pending.set()
        timer = threading.Timer(self._seconds, self._begin)
        timer.name, timer.daemon = "tidying", True
        timer.start()

    def _begin(self) -> None:
        self._pending.clear()
        self._trim()


__all__ = ["TIDY_SECONDS", "HeapTidier"]
