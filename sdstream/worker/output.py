"""Where a lane's results lie: the worker's own ring of slots, and who owns which."""

import threading
from collections.abc import Callable, Iterable
from typing import NamedTuple

from sdstream.frames import PictureSize, Plane
from sdstream.worker.messages import UseRing
from sdstream.worker.ring import FrameRing, SlotLedger


class OutputSlot(NamedTuple):
    """A slot that a result is to be written into: its ring, its number, and its memory, uint8."""

    ring: int
    number: int
    memory: Plane


class OutputRing:
    """Makes a ring when there is none, or only a smaller one, and keeps count of its slots. For two threads."""

    def __init__(
        self,
        lane: int,
        memory_prefix: str,
        tell: Callable[[UseRing], None],
        set_room: Callable[[bool], None],
    ) -> None:
        """`tell` sends the server what ring there is now; `set_room` is told whether a slot is free."""
        self._lane = lane
        self._memory_prefix = memory_prefix
        self._tell = tell
        self._set_room = set_room
        self._lock = threading.Lock()
        self._ring: FrameRing | None = None
        self._ledger = SlotLedger(0)

    def take(self, size: PictureSize) -> OutputSlot:
        """A slot for a picture of `size`. Must not be asked for one when there is no room."""
        with self._lock:
            ring = self._ring
            if ring is None or not ring.fits(size):
                number = 1 if ring is None else ring.number + 1
                ring = self._ring = FrameRing.create(self._memory_prefix, number, size.byte_count)
                self._ledger = SlotLedger(ring.slots)
                self._tell(UseRing(self._lane, ring.number, ring.name, ring.slot_bytes, ring.slots))
            slot = self._ledger.take()
            assert slot is not None, "the scheduler gave a turn to a lane without room"
            self._set_room(self._ledger.free > 0)
            return OutputSlot(ring.number, slot, ring.slot(slot))

    def give_back(self, ring: int, slots: Iterable[int]) -> None:
        """The slots are free again; of an earlier, smaller ring they are of no use."""
        with self._lock:
            if self._ring is None or self._ring.number != ring:
                return
            for slot in slots:
                self._ledger.give_back(slot)
            self._set_room(self._ledger.free > 0)


__all__ = ["OutputRing", "OutputSlot"]
