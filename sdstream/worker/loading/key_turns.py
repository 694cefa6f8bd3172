"""One at a time for each key, and nobody waits for other keys: for what threads fetch by name. No torch here."""

import threading
from collections.abc import Callable, Generator, Hashable
from contextlib import contextmanager
from weakref import WeakValueDictionary

WAIT_SECONDS = 0.25
"""How often who waits says so, and may be told to give up."""


class _Turn:
    """The right to work on one key; forgotten when nobody has it or waits for it."""

    __slots__ = ("__weakref__", "lock")

    def __init__(self) -> None:
        self.lock = threading.Lock()


class KeyTurns:
    """Hands out turns by key. Threads may call at any time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._turns: WeakValueDictionary[Hashable, _Turn] = WeakValueDictionary()

    @contextmanager
    def turn(self, key: Hashable, what: str, progress: Callable[[str, float | None], None]) -> Generator[None]:
        """Within, nobody else has a turn of `key`. While another has it, `progress` is told so and may raise to give
        up. Whoever had it before may have failed or given up, so what it was to make is to be looked for first."""
        with self._lock:
            turn = self._turns.setdefault(key, _Turn())
        if not turn.lock.acquire(blocking=False):
            progress(f"waiting for another stream that loads {what}", None)
            while not turn.lock.acquire(timeout=WAIT_SECONDS):
                progress(f"waiting for another stream that loads {what}", None)
        try:
            yield
        finally:
            turn.lock.release()


__all__ = ["KeyTurns"]
