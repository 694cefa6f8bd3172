"""A lane's pictures as they cross to the worker and back: in which memory, in which of its slots.

Nothing here is safe between threads: the lane's lock guards it.
"""

import asyncio

from sdstream.frames import I420Frame, PictureSize
from sdstream.worker.channel import Channel
from sdstream.worker.messages import UseRing
from sdstream.worker.ring import FrameRing, SlotLedger
from sdstream.worker.server_end.submission import Submission

RETURN_AT = 2
"""So many output slots are returned by a message of their own; fewer wait for the next picture to carry them."""


class Outbound:
    """Pictures for the worker, and what is remembered of each while the worker has it. `lane` is its number."""

    def __init__(self, lane: int) -> None:
        self._lane = lane
        self._ring: FrameRing | None = None
        self._ledger = SlotLedger(0)
        self._rings = 0
        self._under_way: dict[tuple[int, int], Submission] = {}

    def take(self, channel: Channel, memory_prefix: str, size: PictureSize) -> int | None:
        """A slot for a picture of `size`, in new memory where the present one is too small; None while the worker has
        every slot. Raises `MemoryError` when there is no room for new memory."""
        if self._ring is None or not self._ring.fits(size):
            self._rings += 1
            ring = FrameRing.create(memory_prefix, self._rings, size.byte_count)
            self._ring = ring
            self._ledger = SlotLedger(ring.slots)
            channel.send(UseRing(self._lane, ring.number, ring.name, ring.slot_bytes, ring.slots))
        return self._ledger.take()

    def put(self, slot: int, frame: I420Frame, result: "asyncio.Future[I420Frame] | None") -> int:
        """Copy a picture into a slot that was taken; returns the number of the slot's ring."""
        ring = self._ring
        assert ring is not None
        ring.write(slot, frame)
        self._under_way[ring.number, slot] = Submission(
            frame.pts, frame.time_base, frame.received_at, frame.sequence, ring, result
        )
        return ring.number

    def recall(self, ring: int, slot: int) -> Submission | None:
        """What is remembered of the picture there, once; None when the worker had none there."""
        return self._under_way.pop((ring, slot), None)

    def give_back(self, ring: int, slot: int) -> bool:
        """The worker has read a slot; whether it may be filled again, which those of an earlier ring are not."""
        if self._ring is None or self._ring.number != ring:
            return False
        self._ledger.give_back(slot)
        return True

    def drop(self) -> list[Submission]:
        """Let go of the memory; returns what is remembered of the pictures that the worker had."""
        lost = list(self._under_way.values())
        self._under_way.clear()
        self._ring = None
        return lost


class Inbound:
    """The worker's results."""

    def __init__(self) -> None:
        self.ring: FrameRing | None = None
        self._returned: list[int] = []

    @property
    def number(self) -> int:
        """The ring's number; 0 before there is one."""
        return 0 if self.ring is None else self.ring.number

    def use(self, message: UseRing) -> None:
        """The worker made memory."""
        self.ring = FrameRing.open(message.name, message.ring, message.slot_bytes, message.slots)
        self.ring.unlink()
        self._returned.clear()

    def give_back(self, ring: FrameRing, slot: int) -> list[int]:
        """A slot was read; returns the slots that a message is to return now."""
        if self.ring is not ring:
            return []
        self._returned.append(slot)
        return self.returned() if len(self._returned) >= RETURN_AT else []

    def returned(self) -> list[int]:
        """The slots that were read and not returned yet, once."""
        returned, self._returned = self._returned, []
        return returned

    def drop(self) -> None:
        """Let go of the memory."""
        self.ring = None
        self._returned.clear()


__all__ = ["Inbound", "Outbound"]
