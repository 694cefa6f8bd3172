"""A file on its way: reading and writing side by side, and nothing closed under a thread that is still at it."""

import asyncio
import threading
from collections.abc import Iterator
from fractions import Fraction
from typing import Any

import numpy
import pytest

from sdstream.errors import CommandFailed
from sdstream.frames import I420Frame
from sdstream.jobs.passage import pass_all
from sdstream.jobs.side_by_side import SideBySide

SECONDS = 20.0
"""How long a thread waits for what must come, before the test fails."""


class Reader:
    """A file of so many packets of one picture each; `stream` is that of the pictures. `meetings` are kept there by the
    thread that decodes the picture of that number."""

    def __init__(self, pictures: int, *, broken: bool = False) -> None:
        self.stream = object()
        self.asked = 0
        self.meetings: dict[int, threading.Barrier] = {}
        self.decoding = threading.Event()
        self.go_on = threading.Event()
        self.go_on.set()
        self._pictures = pictures
        self._broken = broken

    def packets(self) -> Iterator[Any]:
        for number in range(self._pictures):
            self.asked = number + 1
            yield type("Packet", (), {"stream": self.stream, "number": number})
        if self._broken:
            raise CommandFailed("the file is damaged")

    def decode(self, packet: Any) -> list[I420Frame]:
        self.decoding.set()
        assert self.go_on.wait(SECONDS)
        if packet.number in self.meetings:
            self.meetings[packet.number].wait(SECONDS)
        luma, chroma = numpy.full((2, 2), packet.number, numpy.uint8), numpy.full((1, 1), 128, numpy.uint8)
        frame = I420Frame(luma, chroma, chroma, received_at=0.0, sequence=packet.number)
        return [frame.at(packet.number, Fraction(1, 25))]


class Writer:
    """Notes what is written. `meetings` as the reader's."""

    def __init__(self) -> None:
        self.written: list[int] = []
        self.meetings: dict[int, threading.Barrier] = {}

    def write_picture(self, picture: I420Frame) -> None:
        if picture.pts in self.meetings:
            self.meetings[picture.pts].wait(SECONDS)
        self.written.append(picture.pts)


class Echo:
    """A lane that gives each picture back."""

    async def process(self, frame: I420Frame) -> I420Frame:
        return frame

    async def close(self) -> None: ...


def lanes() -> SideBySide:
    return SideBySide([Echo()], 0)  # pyright: ignore[reportArgumentType]


async def passed(reader: Reader, writer: Writer) -> int:
    return await pass_all(reader, writer, lanes(), lambda count: None)  # pyright: ignore[reportArgumentType]


async def test_a_picture_is_read_while_another_is_written() -> None:
    reader, writer, meeting = Reader(20), Writer(), threading.Barrier(2)
    reader.meetings[lanes().room + 1] = writer.meetings[1] = meeting  # once the room is full, the only one
    assert await passed(reader, writer) == 20
    assert writer.written == list(range(20))


async def test_no_more_is_read_than_has_room() -> None:
    reader, room = Reader(100), lanes().room
    writer = Writer()
    read: list[int] = []
    write = writer.write_picture

    def note(picture: I420Frame) -> None:
        write(picture)
        read.append(reader.asked)

    writer.write_picture = note
    await passed(reader, writer)
    # Of those that are read some are written; the next packet waits for room.
    assert all(asked <= written + room + 1 for written, asked in enumerate(read, 1))


async def test_a_file_that_turns_out_damaged_is_written_so_far_and_told() -> None:
    reader = Reader(5, broken=True)
    writer = Writer()
    with pytest.raises(CommandFailed, match="damaged"):
        await passed(reader, writer)
    assert writer.written == list(range(5))


async def test_who_gives_up_waits_for_the_thread_that_reads() -> None:
    reader = Reader(5)
    reader.go_on.clear()
    passing = asyncio.ensure_future(passed(reader, Writer()))
    assert await asyncio.to_thread(reader.decoding.wait, SECONDS)
    passing.cancel()
    ended, _ = await asyncio.wait((passing,), timeout=0.05)
    assert not ended, "it ended while a thread was still reading"
    reader.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await passing
