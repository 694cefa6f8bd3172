"""Answers of workers that are none: which error whoever asked is told."""

import json
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from starlette.requests import Request

from sdstream.api.context import LOCAL_CALLER
from sdstream.errors import BodyTooLarge, RequestError, StreamNotFound, Unavailable
from sdstream.gateway.routes import GatewayRoutes
from sdstream.job_errors import DirectoryUnavailable, OwnerUnreachable
from sdstream.jobs.calls import OwnerAnswer, OwnerCall
from sdstream.jobs.directory import MemoryDirectory, SessionEntry
from sdstream.settings import Settings
from tests.jobs.test_parts import entry


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (OwnerAnswer(status=413), BodyTooLarge),
        (OwnerAnswer(status=429), Unavailable),
        (OwnerAnswer(status=404), OwnerUnreachable),
        (OwnerAnswer(status=500, body=b"<html>"), OwnerUnreachable),
        (OwnerAnswer(status=502, body=b'["requestId"]'), OwnerUnreachable),
        (OwnerAnswer(status=503, body=b'"requestId"'), OwnerUnreachable),
        (OwnerAnswer(status=200, body=b"<html>"), OwnerUnreachable),
        (OwnerAnswer(status=200, body=b"[]"), OwnerUnreachable),
    ],
)
def test_what_is_no_workers_answer_is_no_defect_of_sdstream(answer: OwnerAnswer, kind: type[RequestError]) -> None:
    with pytest.raises(RequestError) as raised:
        answer.json()
    assert type(raised.value) is kind


@pytest.mark.parametrize("status", [-1, 0, 100, 600, 99_999])
def test_an_answer_of_a_status_that_http_has_not_is_not_understood(status: int) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode({"status": status, "headers": [], "body": ""}), type=OwnerAnswer)


class FleetOfTwo:
    """One worker that is well, and one whose answer is given."""

    def __init__(self, given: OwnerAnswer | RequestError) -> None:
        self.sessions = 0
        self.directory = MemoryDirectory()
        self._given = given

    async def enter(self) -> None:
        for name in ("session-1", "session-2"):
            await self.directory.claim(msgspec.structs.replace(entry("one"), session_id=name))

    async def call(self, entry: SessionEntry, call: OwnerCall) -> OwnerAnswer:
        assert not call.uses, "a list would keep every session from being idle"
        if entry.session_id == "session-1":
            body = {"id": entry.session_id, "params": {}, "created_at": "2026-02-03T10:20:30Z"}
            return OwnerAnswer(status=200, body=json.dumps(body).encode())
        if isinstance(self._given, RequestError):
            raise self._given
        return self._given


async def listed(given: OwnerAnswer | RequestError) -> list[str]:
    async def caller(request: Request) -> Any:
        return LOCAL_CALLER

    fleet = FleetOfTwo(given)
    await fleet.enter()
    context: Any = SimpleNamespace(settings=Settings(), caller=caller)
    gateway: Any = GatewayRoutes(context, fleet)  # pyright: ignore[reportArgumentType]
    answer = await gateway.list(Request({"type": "http", "query_string": b"", "headers": []}))
    return [stream["id"] for stream in json.loads(answer.body)["data"]]


@pytest.mark.parametrize(
    "given",
    [
        OwnerUnreachable("gone"),
        StreamNotFound("gone"),
        OwnerAnswer(status=500, body=b"<html>"),
        OwnerAnswer(status=413),
        OwnerAnswer(status=200, body=b"[]"),
        OwnerAnswer(status=503, body=b'{"error": "x", "code": "OF/TOMORROW", "requestId": "r"}'),
        OwnerAnswer(status=200, body=b"{}"),
        OwnerAnswer(status=200, body=b'{"id": "session-2", "params": {}, "created_at": 1}'),
    ],
)
async def test_a_list_has_all_streams_but_those_whose_worker_is_not_well(given: Any) -> None:
    assert await listed(given) == ["session-1"]


async def test_a_list_without_its_directory_is_none() -> None:
    with pytest.raises(DirectoryUnavailable):
        await listed(DirectoryUnavailable("Redis does not answer"))
