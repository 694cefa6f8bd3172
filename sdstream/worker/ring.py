"""Pictures in shared memory: a ring of slots with one writer and one reader, and the rules of who owns which slot.

A slot belongs to exactly one side at any time, and it changes hands only by a message (`PictureIn`, `PictureOut`,
`SlotsReturned`): the message's way through the kernel orders the memory accesses on every processor, which flags in
the memory itself would not without atomic instructions. So nothing can be torn, and a side that dies in the middle
of a write leaves no lock behind: the ring is simply dropped.

The writer keeps a `SlotLedger`; the reader keeps an `Inbox`, in which the newest picture replaces one that was not
taken yet. A ring never changes its size: when a larger picture comes, the writer makes a new ring and the old one goes
away with its last picture.
"""

import itertools
import os
import secrets
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy

from sdstream.frames import I420Frame, PictureSize, Plane, split_planes
from sdstream.platform.processes import process_exists
from sdstream.platform.shared_memory import (
    create_shared_memory,
    open_shared_memory,
    shared_memory_modified_at,
    shared_memory_names,
    unlink_shared_memory,
)

SLOTS = 4
"""Slots of a ring: one being worked on, one waiting, one being replaced, one being written."""
STALE_AFTER = 60.0
"""Seconds after which memory of a server that no longer exists is swept. A name lives some milliseconds in normal use;
the margin is for process ids that only look dead because they are of another container with the same `/dev/shm`."""
FAMILY = "sdstream-"

_numbers = itertools.count()


def memory_prefix(process_id: int | None = None) -> str:
    """How all names of shared memory of one server begin; its process id says whether it still lives."""
    return f"{FAMILY}{os.getpid() if process_id is None else process_id}-"


def sweep_stale_memory(now: float) -> list[str]:
    """Unlink memory that servers left which were killed; returns the names. `now` is seconds since 1970."""
    swept: list[str] = []
    for name in shared_memory_names(FAMILY):
        process_id = name.removeprefix(FAMILY).partition("-")[0]
        modified_at = shared_memory_modified_at(name)
        if not process_id.isdigit() or modified_at is None or now - modified_at < STALE_AFTER:
            continue
        if process_exists(int(process_id)):
            continue
        try:
            unlink_shared_memory(name)
        except PermissionError:  # another user's
            continue
        swept.append(name)
    return swept


def sweep_own_memory(prefix: str) -> None:
    """Unlink every name with `prefix`; mapped memory stays usable. For the names a killed worker left behind."""
    for name in shared_memory_names(prefix):
        unlink_shared_memory(name)


class FrameRing:
    """`slots` places of `slot_bytes` in memory that two processes map. Knows nothing of ownership.

    The memory is given back when the last view of it is gone, so a picture that is still in use outlives its ring.
    """

    def __init__(self, name: str, number: int, slot_bytes: int, slots: int, memory: Plane) -> None:
        self.name = name
        self.number = number
        self.slot_bytes = slot_bytes
        self.slots = slots
        self._memory = memory
        self._views: dict[tuple[int, int, int], tuple[Plane, Plane, Plane]] = {}
        """Of the newest pictures: their size is nearly always the one before."""

    @classmethod
    def create(cls, prefix: str, number: int, slot_bytes: int, slots: int = SLOTS) -> "FrameRing":
        """Make new memory. Raises `MemoryError` when there is no room for it."""
        name = f"{prefix}{next(_numbers)}-{secrets.token_hex(4)}"
        rounded = -(-slot_bytes // 4096) * 4096
        memory = numpy.frombuffer(create_shared_memory(name, rounded * slots), numpy.uint8)
        return cls(name, number, rounded, slots, memory)

    @classmethod
    def open(cls, name: str, number: int, slot_bytes: int, slots: int) -> "FrameRing":
        """Map memory that the other side made. Raises `FileNotFoundError` when its name is gone."""
        memory = numpy.frombuffer(open_shared_memory(name, slot_bytes * slots), numpy.uint8)
        return cls(name, number, slot_bytes, slots, memory)

    def unlink(self) -> None:
        """Take the name away; both sides do, as soon as both have the memory mapped. Idempotent."""
        unlink_shared_memory(self.name)

    def fits(self, size: PictureSize) -> bool:
        return size.byte_count <= self.slot_bytes

    def slot(self, index: int) -> Plane:
        """The bytes of one slot, uint8 [slot_bytes]."""
        if not 0 <= index < self.slots:
            raise IndexError(f"slot {index} of {self.slots}")
        start = index * self.slot_bytes
        return self._memory[start : start + self.slot_bytes]

    def write(self, index: int, frame: I420Frame) -> None:
        """Copy the planes of `frame` into a slot."""
        y, u, v = self.planes(index, frame.size)
        y[...] = frame.y
        u[...] = frame.u
        v[...] = frame.v

    def planes(self, index: int, size: PictureSize) -> tuple[Plane, Plane, Plane]:
        """Views of the Y, U and V planes of the picture of `size` in a slot."""
        key = index, size.width, size.height
        views = self._views.get(key)
        if views is None:
            if len(self._views) >= self.slots:
                self._views.clear()
            views = self._views[key] = split_planes(self.slot(index), size)
        return views


class SlotLedger:
    """The writer's book of which slots it may fill. Not safe between threads."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._free = deque(range(slots))

    @property
    def free(self) -> int:
        """How many slots may be filled."""
        return len(self._free)

    def take(self) -> int | None:
        """A slot to fill and hand over; None when the reader has them all."""
        return self._free.popleft() if self._free else None

    def give_back(self, slot: int) -> None:
        """The reader is done with `slot`. Raises `ValueError` when the reader did not have it."""
        if not 0 <= slot < self.slots or slot in self._free:
            raise ValueError(f"slot {slot} was not handed over")
        self._free.append(slot)


Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Arrival(Generic[Item]):
    """Something in a slot: `keep` says that no newer one may replace it."""

    item: Item
    keep: bool = False


class Inbox(Generic[Item]):
    """The reader's waiting room: the newest item, and before it every item that must be kept, in order.

    Not safe between threads.
    """

    def __init__(self) -> None:
        self._kept: deque[Item] = deque()
        self._newest: Item | None = None

    def put(self, arrival: Arrival[Item]) -> Item | None:
        """Store an arrival; returns the item it replaces, whose slot is to be given back."""
        if arrival.keep:
            self._kept.append(arrival.item)
            return None
        replaced, self._newest = self._newest, arrival.item
        return replaced

    def take(self) -> Item | None:
        """The item to work on next; None when there is nothing."""
        if self._kept:
            return self._kept.popleft()
        item, self._newest = self._newest, None
        return item

    def clear(self) -> list[Item]:
        """Empty it; returns what was in it."""
        items = list(self)
        self._kept.clear()
        self._newest = None
        return items

    def __iter__(self) -> Iterator[Item]:
        """What waits, in the order of `take`."""
        yield from self._kept
        if self._newest is not None:
            yield self._newest

    def __len__(self) -> int:
        return len(self._kept) + (self._newest is not None)


__all__ = [
    "SLOTS",
    "Arrival",
    "FrameRing",
    "Inbox",
    "SlotLedger",
    "memory_prefix",
    "sweep_own_memory",
    "sweep_stale_memory",
]
