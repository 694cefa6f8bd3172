"""The ring: who owns which slot, that the newest picture wins, and that no memory is left behind."""

import errno
import os
import subprocess
import sys
from collections import deque
from pathlib import Path

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sdstream.frames import PictureSize
from sdstream.platform.processes import process_exists
from sdstream.platform.shared_memory import shared_memory_names
from sdstream.worker import ring as ring_module
from sdstream.worker.ring import Arrival, FrameRing, Inbox, SlotLedger, memory_prefix, sweep_own_memory
from tests.worker.pictures import noise

PREFIX = f"{memory_prefix()}test-"


class SlotProtocol(RuleBasedStateMachine):
    """A writer and a reader with messages under way between them, in any order of events.

    Each picture is a number; what a slot holds stands for its memory. The writer is `WorkerLane`'s way with a ledger
    and a stash, the reader is the worker's with an inbox.
    """

    def __init__(self) -> None:
        super().__init__()
        self.ledger = SlotLedger(4)
        self.memory: list[int | None] = [None] * 4
        self.to_reader: deque[tuple[int, int, bool]] = deque()
        self.to_writer: deque[int] = deque()
        self.inbox: Inbox[tuple[int, int]] = Inbox()
        self.working: tuple[int, int] | None = None
        self.stash: int | None = None
        self.numbers = self.done = self.superseded = 0
        self.kept: list[int] = []
        self.finished: list[int] = []

    def write(self, slot: int, number: int, keep: bool) -> None:
        self.memory[slot] = number
        self.to_reader.append((slot, number, keep))

    @rule(keep=st.booleans())
    def submit(self, keep: bool) -> None:
        slot = self.ledger.take()
        if slot is None:
            if keep:
                return  # such a caller waits for a slot
            self.superseded += self.stash is not None
            self.stash = self.numbers
        else:
            self.write(slot, self.numbers, keep)
            if keep:
                self.kept.append(self.numbers)
        self.numbers += 1

    @precondition(lambda self: self.to_reader)
    @rule()
    def reader_receives(self) -> None:
        slot, number, keep = self.to_reader.popleft()
        replaced = self.inbox.put(Arrival((slot, number), keep))
        if replaced is not None:
            assert replaced[1] < number, "an older picture replaced a newer one"
            self.superseded += 1
            self.to_writer.append(replaced[0])

    @precondition(lambda self: self.working is None and len(self.inbox) > 0)
    @rule()
    def reader_begins(self) -> None:
        self.working = self.inbox.take()

    @precondition(lambda self: self.working is not None)
    @rule()
    def reader_finishes(self) -> None:
        assert self.working is not None
        slot, number = self.working
        assert self.memory[slot] == number, "the picture was overwritten while the reader had it"
        self.finished.append(number)
        self.done += 1
        self.working = None
        self.to_writer.append(slot)

    @precondition(lambda self: self.to_writer)
    @rule()
    def writer_receives(self) -> None:
        self.ledger.give_back(self.to_writer.popleft())
        if self.stash is not None:
            slot = self.ledger.take()
            assert slot is not None
            number, self.stash = self.stash, None
            self.write(slot, number, False)

    @invariant()
    def every_slot_is_in_one_place(self) -> None:
        with_reader = [slot for slot, _, _ in self.to_reader] + list(self.to_writer)
        with_reader += [slot for slot, _ in self.inbox]
        with_reader += [] if self.working is None else [self.working[0]]
        assert len(with_reader) == len(set(with_reader))
        assert self.ledger.free + len(with_reader) == 4

    @invariant()
    def counts_add_up(self) -> None:
        waiting = len(self.to_reader) + len(self.inbox) + (self.working is not None) + (self.stash is not None)
        assert self.numbers == self.done + self.superseded + waiting

    @invariant()
    def kept_pictures_are_done_in_order_and_none_is_missing(self) -> None:
        kept_done = [number for number in self.finished if number in self.kept]
        assert kept_done == self.kept[: len(kept_done)]

    def teardown(self) -> None:
        """Let everything run out: the newest picture must have been made at last."""
        while self.to_reader or self.to_writer or len(self.inbox) or self.working:
            if self.to_reader:
                self.reader_receives()
            elif self.working:
                self.reader_finishes()
            elif len(self.inbox):
                self.reader_begins()
            else:
                self.writer_receives()
        if self.numbers:
            assert max(self.finished) == self.numbers - 1, "the newest picture was never made"


SlotProtocol.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSlotProtocol = SlotProtocol.TestCase


def test_a_slot_that_was_not_handed_over_cannot_be_given_back() -> None:
    ledger = SlotLedger(2)
    slot = ledger.take()
    assert slot is not None
    ledger.give_back(slot)
    for wrong in (slot, 1 - slot, 2, -1):
        with pytest.raises(ValueError, match="not handed over"):
            ledger.give_back(wrong)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 3), st.integers(0, 2**16))
def test_both_sides_see_the_same_picture(half_width: int, half_height: int, slot: int, seed: int) -> None:
    size = PictureSize(half_width * 2, half_height * 2)
    picture = noise(size, seed)
    ring = FrameRing.create(PREFIX, 1, size.byte_count)
    try:
        other = FrameRing.open(ring.name, 1, ring.slot_bytes, ring.slots)
    finally:
        ring.unlink()
    ring.write(slot, picture)
    for plane, expected in zip(other.planes(slot, size), picture.planes, strict=True):
        assert numpy.array_equal(plane, expected)


def test_slots_do_not_overlap() -> None:
    size = PictureSize(64, 48)
    ring = FrameRing.create(PREFIX, 1, size.byte_count)
    ring.unlink()
    pictures = [noise(size, seed) for seed in range(ring.slots)]
    for slot, picture in enumerate(pictures):
        ring.write(slot, picture)
    for slot, picture in enumerate(pictures):
        assert numpy.array_equal(ring.planes(slot, size)[0], picture.y)
        assert numpy.array_equal(ring.planes(slot, size)[2], picture.v)


def test_padded_planes_are_packed() -> None:
    size = PictureSize(32, 16)
    picture = noise(size)
    wide = [numpy.zeros((plane.shape[0], plane.shape[1] + 13), numpy.uint8) for plane in picture.planes]
    for padded, plane in zip(wide, picture.planes, strict=True):
        padded[:, : plane.shape[1]] = plane
    y, u, v = (padded[:, : plane.shape[1]] for padded, plane in zip(wide, picture.planes, strict=True))
    ring = FrameRing.create(PREFIX, 1, size.byte_count)
    ring.unlink()
    ring.write(2, picture.with_planes(y, u, v))
    assert numpy.array_equal(ring.planes(2, size)[1], picture.u)


def test_memory_outlives_its_name_and_the_ring() -> None:
    ring = FrameRing.create(PREFIX, 1, 4096)
    name = ring.name
    view = ring.slot(3)
    view[:] = 7
    ring.unlink()
    del ring
    assert name not in shared_memory_names(PREFIX)
    assert (view == 7).all()


def test_a_slot_beyond_the_ring_is_an_error() -> None:
    ring = FrameRing.create(PREFIX, 1, 4096)
    ring.unlink()
    with pytest.raises(IndexError):
        ring.slot(4)


def test_a_full_memory_is_told_when_the_ring_is_made_and_leaves_no_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, offset: int, size: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(MemoryError, match="no room"):
        FrameRing.create(PREFIX, 1, 4096)
    assert not shared_memory_names(PREFIX)


@pytest.mark.skipif(sys.platform == "win32", reason="names end with their processes there")
def test_only_old_memory_of_servers_that_are_gone_is_swept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("sdstream.platform.shared_memory.shared_memory_directory", lambda: tmp_path)
    monkeypatch.setattr("sdstream.worker.ring.process_exists", lambda process_id: process_id == 11)
    for name, modified in {
        "sdstream-10-1-old": 1000,
        "sdstream-10-2-new": 1990,
        "sdstream-11-1-alive": 1000,
        "sdstream-notes": 1000,
        "psm_other": 1000,
    }.items():
        (tmp_path / name).write_bytes(b"")
        os.utime(tmp_path / name, (modified, modified))
    assert ring_module.sweep_stale_memory(2000.0) == ["sdstream-10-1-old"]
    assert "sdstream-10-1-old" not in {path.name for path in tmp_path.iterdir()}
    assert len(list(tmp_path.iterdir())) == 4


def test_a_process_that_ended_does_not_exist() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert process_exists(os.getpid())
    assert not process_exists(process.pid)


def test_own_memory_is_swept_by_prefix() -> None:
    prefix = f"{PREFIX}sweep-"
    FrameRing.create(prefix, 1, 4096)
    other = FrameRing.create(PREFIX, 1, 4096)
    sweep_own_memory(prefix)
    assert shared_memory_names(PREFIX) == [other.name]
    other.unlink()
