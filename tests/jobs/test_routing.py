"""What a worker does with the calls that come for its sessions."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from sdstream.jobs.calls import OwnerAnswer, OwnerCall
from sdstream.jobs.directory import MemoryDirectory, SessionEntry
from sdstream.jobs.routing import Router
from tests.jobs.test_parts import entry


class OpenSession:
    """A session that says which reason it was ended with."""

    id = "session-1"

    def __init__(self) -> None:
        self.reason: str | None = None
        self.closed = asyncio.Event()
        self.touched = 0

    def touch(self) -> None:
        self.touched += 1

    def end(self, reason: str) -> None:
        self.reason = reason
        self.closed.set()


async def serve(session: OpenSession, call: OwnerCall) -> None:
    """Have a worker that has this one session carry out a call."""

    async def answer(call: OwnerCall) -> OwnerAnswer:
        return OwnerAnswer(status=200)

    host: Any = SimpleNamespace(call=answer)
    table: Any = SimpleNamespace(get={session.id: session}.get)
    await Router(host, table, MemoryDirectory()).serve(call)


@pytest.mark.parametrize(
    ("method", "below", "reason"),
    [
        ("DELETE", "", "stopped"),
        ("DELETE", "/recordings/rec_1.mp4", None),
        ("GET", "", None),
        ("PATCH", "", None),
    ],
)
async def test_a_session_is_stopped_by_its_own_end_and_not_by_that_of_a_recording(
    method: str, below: str, reason: str | None
) -> None:
    session = OpenSession()
    await serve(session, OwnerCall(method=method, path=f"/v1/streams/{session.id}{below}", author="a"))
    assert session.reason == reason


@pytest.mark.parametrize("uses", [True, False])
async def test_a_look_at_all_sessions_keeps_none_from_being_idle(uses: bool) -> None:
    session = OpenSession()
    await serve(session, OwnerCall(method="GET", path=f"/v1/streams/{session.id}", author="a", uses=uses))
    assert session.touched == uses


def router_of(sessions: dict[str, OpenSession], directory: MemoryDirectory) -> Router:
    host: Any = SimpleNamespace(mailbox="one")
    table: Any = SimpleNamespace(get=sessions.get)
    return Router(host, table, directory)


async def test_a_session_that_another_worker_has_by_now_ends_here() -> None:
    """This worker was stopped for longer than its lease, and the session was started again elsewhere."""
    session, directory = OpenSession(), MemoryDirectory()
    router = router_of({session.id: session}, directory)
    await router._renew(entry("one"))
    assert session.reason is None
    await directory.release(entry("one"))
    await directory.claim(entry("two"))
    await router._renew(entry("one"))
    assert session.reason == "taken_over"
    assert await directory.find(session.id) == entry("two")


@pytest.mark.parametrize("when", ["before", "meanwhile"])
async def test_the_lease_of_a_session_that_has_ended_is_not_renewed(when: str) -> None:
    session = OpenSession()
    sessions = {session.id: session}

    class SlowDirectory(MemoryDirectory):
        async def claim(self, entry: SessionEntry) -> SessionEntry | None:
            sessions.clear()  # and its release is faster
            return await super().claim(entry)

    directory = SlowDirectory()
    if when == "before":
        sessions.clear()
    await router_of(sessions, directory)._renew(entry("one"))
    assert list(await directory.entries()) == []
