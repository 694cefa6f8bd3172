"""What outputs are fed with: encoded pictures and AAC on one clock, and the queue in which they wait."""

import threading
from collections import deque
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from sdstream.frames import PictureSize

SOUND_RATE = 48_000
TICKS_PER_SAMPLE = 90_000 / SOUND_RATE


@dataclass(frozen=True, slots=True)
class PictureUnit:
    """One H.264 picture in Annex B; a keyframe carries its parameter sets. `time` counts 90 kHz ticks."""

    data: bytes
    time: int
    keyframe: bool
    size: PictureSize


@dataclass(frozen=True, slots=True)
class SoundUnit:
    """One AAC-LC packet of 1024 samples without ADTS header. `time` counts samples at 48 kHz on the pictures' clock."""

    data: bytes
    time: int

    @property
    def ticks(self) -> int:
        """`time` in the pictures' ticks."""
        return round(self.time * TICKS_PER_SAMPLE)


Unit = PictureUnit | SoundUnit


class UnitSink(Protocol):
    """Takes units on the feed's thread; must not wait."""

    def take(self, unit: Unit) -> None: ...


Item = TypeVar("Item")


class DropToKeyframeQueue(Generic[Item]):
    """A bounded queue that drops everything from an overflow to the next keyframe for which there is room again.

    One thread puts, one takes; safe between them. `put` never waits.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._items: deque[Item] = deque()
        self._condition = threading.Condition()
        self._skipping = False
        self._closed = False
        self.dropped = 0
        """Items dropped so far."""

    def put(self, item: Item, *, keyframe: bool) -> bool:
        """Append `item` unless it must be dropped; whether it was kept."""
        with self._condition:
            if self._closed:
                return False
            if self._skipping and keyframe and len(self._items) <= self._most // 2:
                self._skipping = False
            if self._skipping or len(self._items) >= self._most:
                self._skipping = True
                self.dropped += 1
                return False
            self._items.append(item)
            self._condition.notify()
            return True

    def take(self, timeout: float | None = None) -> Item | None:
        """The oldest item, waiting up to `timeout` seconds; None after the time or once closed."""
        with self._condition:
            self._condition.wait_for(lambda: bool(self._items) or self._closed, timeout)
            return self._items.popleft() if self._items and not self._closed else None

    def clear(self) -> None:
        """Drop what waits; what follows starts at a keyframe."""
        with self._condition:
            self.dropped += len(self._items)
            self._items.clear()
            self._skipping = True

    def close(self) -> None:
        with self._condition:
            self._closed = True
            self._items.clear()
            self._condition.notify_all()

    @property
    def closed(self) -> bool:
        return self._closed


__all__ = ["SOUND_RATE", "DropToKeyframeQueue", "PictureUnit", "SoundUnit", "Unit", "UnitSink"]
