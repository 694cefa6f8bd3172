"""What a worker does with the calls that come for its sessions."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from sdstream.jobs.calls import OwnerAnswer, OwnerCall
from sdstream.jobs.directory import MemoryDirectory
from sdstream.jobs.routing import Router


class OpenSession:
    """A session that says which reason it was ended with."""

    id = "session-1"

    def __init__(self) -> None:
        self.reason: str | None = None
        self.closed = asyncio.Event()

    def touch(self) -> None:
        """Nothing is idle here."""

    def end(self, reason: str) -> None:
        self.reason = reason
        self.closed.set()


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

    async def answer(call: OwnerCall) -> OwnerAnswer:
        return OwnerAnswer(status=200)

    host: Any = SimpleNamespace(call=answer)
    table: Any = SimpleNamespace(get={session.id: session}.get)
    call = OwnerCall(method=method, path=f"/v1/streams/{session.id}{below}", author="a")
    await Router(host, table, MemoryDirectory()).serve(call)
    assert session.reason == reason
