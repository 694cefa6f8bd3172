"""Sessions that are opened and ended while something goes wrong: none is left behind, and nobody waits for ever."""

import asyncio
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from sdstream.clock import ManualClock
from sdstream.errors import CapacityReached, InvalidParams, StreamNotFound, Unavailable
from sdstream.jobs.directory import MemoryDirectory, SessionEntry
from sdstream.jobs.routing import Router
from sdstream.jobs.sessions import Limits, Session, SessionTable
from sdstream.media.ports import MediaStatistics

LIMITS = Limits(100, 100, 5)


class Streams:
    """Streams that are ids. `opened` holds up what follows their making, as a slow disk does."""

    def __init__(self) -> None:
        self.ids: set[str] = set()
        self.opened = asyncio.Event()
        self.opened.set()
        self.refusal: Exception | None = None

    async def create(
        self, body: object, author: str, *, stream_id: str = "", dry_run: bool = False, **others: Any
    ) -> Any:
        if body:
            raise InvalidParams("a stream of these tests has no members")
        if dry_run:
            return None
        self.ids.add(stream_id)
        await self.opened.wait()
        record = SimpleNamespace(stream_key="stk", output_playback_id="pb", created_at=datetime(2026, 1, 1, tzinfo=UTC))
        return SimpleNamespace(record=record, warnings=())

    async def delete(self, stream_id: str) -> None:
        if self.refusal is not None:
            raise self.refusal
        if stream_id not in self.ids:
            raise StreamNotFound("There is no such stream.")
        self.ids.remove(stream_id)

    def status(self, stream_id: str) -> Any:
        if stream_id not in self.ids:
            raise StreamNotFound("There is no such stream.")
        return SimpleNamespace(media=MediaStatistics(), revision=1, restart_count=0, last_error=None)


@pytest.fixture
def host() -> Any:
    return SimpleNamespace(
        clock=ManualClock(),
        streams=Streams(),
        mailbox="box",
        worker_id="worker",
        control_url="http://worker",
        lend_key=lambda name, author: "key",
        take_back_key=lambda key: None,
    )


def make(host: Any, session_id: str = "str_0001") -> Session:
    return Session(host, session_id, "job", LIMITS, "author")


async def test_a_start_that_is_cancelled_leaves_no_stream(host: Any) -> None:
    table = SessionTable(host, MemoryDirectory(), 2)
    host.streams.opened.clear()
    opening = asyncio.create_task(table.open(make(host), {}))
    await asyncio.sleep(0)
    assert host.streams.ids
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert host.streams.ids == set()
    host.streams.opened.set()
    session, repeated = await table.open(make(host), {})
    assert not repeated
    await table.end_all("worker_shutdown")
    assert session.closed.is_set()


async def test_a_full_worker_says_of_wrong_params_that_they_are_wrong(host: Any) -> None:
    table = SessionTable(host, MemoryDirectory(), 1)
    await table.open(make(host), {})
    with pytest.raises(InvalidParams):
        await table.open(make(host, "str_0002"), {"params": {"width": 500}})
    with pytest.raises(CapacityReached):
        await table.open(make(host, "str_0002"), {})
    assert host.streams.ids == {"str_0001"}
    await table.end_all("worker_shutdown")


async def test_a_disk_that_does_not_forget_the_stream_holds_up_no_end(host: Any) -> None:
    table = SessionTable(host, MemoryDirectory(), 1)
    session, _ = await table.open(make(host), {})
    host.streams.refusal = Unavailable("The stream cannot be stored.")
    async with asyncio.timeout(5):
        await table.end_all("worker_shutdown")
    assert session.summary_members()["reason"] == "worker_shutdown"
    assert table.get(session.id) is None


async def test_a_session_that_is_being_opened_when_the_worker_drains_ends_too(host: Any) -> None:
    table = SessionTable(host, MemoryDirectory(), 1)
    host.streams.opened.clear()
    opening = asyncio.create_task(table.open(make(host), {}))
    await asyncio.sleep(0)
    ending = asyncio.create_task(table.end_all("worker_shutdown"))
    await asyncio.sleep(0)
    host.streams.opened.set()
    session, _ = await opening
    async with asyncio.timeout(5):
        await ending
    assert session.reason == "worker_shutdown"
    assert session.closed.is_set()
    assert host.streams.ids == set()


class SlowDirectory(MemoryDirectory):
    """Enters a session when it is let."""

    def __init__(self) -> None:
        super().__init__()
        self.let = asyncio.Event()

    async def claim(self, entry: SessionEntry) -> SessionEntry | None:
        await self.let.wait()
        return await super().claim(entry)


async def test_a_session_that_ends_while_it_is_entered_does_not_stay_in_the_directory(host: Any) -> None:
    directory = SlowDirectory()
    table = SessionTable(host, directory, 1)
    session, _ = await table.open(make(host), {})
    assert session.entry is not None
    entering = asyncio.create_task(Router(host, table, directory).enter(session.entry))
    await asyncio.sleep(0)
    await table.end_all("worker_shutdown")
    directory.let.set()
    assert await entering is None
    assert await directory.entries() == ()
