"""Whose turn it is at the card: frames of running streams, or slices of trials that a preparation makes beside them.

Slices are for the time between two frames, when nothing of the working thread is under way on the device: they are
timed undisturbed, and a frame waits for one of them at most. While trials go on frames keep most of the card.
"""

import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

from sdstream.clock import Clock, SystemClock

SHARE = 0.25
"""Of the time that slices may take while frames are made: frames have three times as long after each."""
PATIENCE = 0.1
"""Seconds that the working thread waits for a slice to begin; who asked for it may be at something else already."""
WORD_SECONDS = 1.0
"""How often a slice that waits says so."""


def may_slice(now: float, ended: float, took: float) -> bool:
    """Whether the next slice may begin, after one that took so many seconds and ended then."""
    return now >= ended + took * (1 - SHARE) / SHARE


class CardTurns:
    """`take`, `give_way` and `rest` are for the thread that makes pictures; `slice` for those that prepare."""

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._condition = threading.Condition()
        self._framing = False
        """The working thread has the card."""
        self._slicing = False
        self._waiting = 0
        self._slices = 0
        self._ended = self._took = 0.0

    @property
    def are_wanted(self) -> bool:
        """Whether a slice waits and may begin now."""
        return self._waiting > 0 and may_slice(self._clock.monotonic(), self._ended, self._took)

    def take(self) -> None:
        """Have the card for frames from now on; waits for a slice under way."""
        if self._framing:
            return
        with self._condition:
            while self._slicing:
                self._condition.wait()
            self._framing = True

    def rest(self) -> None:
        """There is nothing to be made: whoever wants the card has it."""
        if self._framing:
            with self._condition:
                self._framing = False
                self._condition.notify_all()

    def give_way(self) -> None:
        """Let one slice have the card, if one waits. Nothing of frames is under way."""
        with self._condition:
            before = self._slices
            self._framing = False
            self._condition.notify_all()
            self._condition.wait_for(lambda: self._slices > before or self._slicing or not self._waiting, PATIENCE)
            while self._slicing:
                self._condition.wait()
            self._framing = True

    @contextmanager
    def slice(self, while_waiting: Callable[[], object] = lambda: None) -> Generator[None]:
        """Have the card for some milliseconds. `while_waiting` is called now and then until it is there."""
        while not self._begin():
            while_waiting()
        began = self._clock.monotonic()
        try:
            yield
        finally:
            with self._condition:
                self._ended = self._clock.monotonic()
                self._took = self._ended - began
                self._slicing = False
                self._slices += 1
                self._condition.notify_all()

    def _begin(self) -> bool:
        with self._condition:
            self._waiting += 1
            try:
                free = self._condition.wait_for(lambda: not self._framing and not self._slicing, WORD_SECONDS)
                self._slicing = free
                return free
            finally:
                self._waiting -= 1


turns = CardTurns()
"""Those of this process."""

__all__ = ["CardTurns", "may_slice", "turns"]
