"""Which requests by HTTP keep a session from being idle."""

from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import Response

from sdstream.clock import ManualClock, SystemClock
from sdstream.gateway.fleet import Fleet
from sdstream.jobs.calls import OwnerCall
from sdstream.jobs.directory import MemoryDirectory
from sdstream.jobs.sessions import Limits, Session, SessionTable
from sdstream.jobs.use import LOOK, notice_use
from sdstream.settings import Settings
from tests.jobs.test_parts import entry


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "expected"),
    [
        ("PATCH", "/v1/streams/str_1", {}, 200, ["str_1"]),
        ("GET", "/v1/streams/str_1/status", {}, 200, ["str_1"]),
        ("GET", "/below/v1/streams/str_1", {}, 200, ["str_1"]),
        ("PATCH", "/v1/streams/str_1", {}, 401, []),
        ("OPTIONS", "/v1/streams/str_1", {}, 204, []),
        ("GET", "/v1/streams/str_1", {LOOK: "1"}, 200, []),
        ("GET", "/v1/streams", {}, 200, []),
        ("GET", "/v1/capacity", {}, 200, []),
    ],
)
async def test_who_steers_or_looks_at_a_session_and_may_uses_it(
    method: str, path: str, headers: dict[str, str], status: int, expected: list[str]
) -> None:
    async def answer(scope: Any, receive: Any, send: Any) -> None:
        await Response(str(Request(scope).url), status)(scope, receive, send)

    used: list[str] = []
    transport = httpx.ASGITransport(notice_use(answer, used.append))
    async with httpx.AsyncClient(transport=transport, base_url="http://worker") as http:
        assert (await http.request(method, path, headers=headers)).status_code == status
    assert used == expected


async def test_a_use_by_http_is_one_of_the_session() -> None:
    clock = ManualClock()
    host: Any = SimpleNamespace(clock=clock)
    table = SessionTable(host, MemoryDirectory(), 1)
    session = Session(host, "str_1", "job", Limits(100, 10, 5), "one")
    table._sessions["str_1"] = session
    clock.advance(7)
    table.touch("str_1")
    table.touch("another")
    assert session._used_at == clock.monotonic()


@pytest.mark.parametrize("uses", [True, False])
async def test_a_gateways_look_at_all_streams_says_that_it_is_one(uses: bool) -> None:
    fleet = Fleet(Settings(placement="runpod", endpoint="e"), "key", SystemClock())
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={})

    await fleet._http.aclose()
    fleet._http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    one = msgspec.structs.replace(entry("one"), control_url="http://worker")
    await fleet.call(one, OwnerCall(method="GET", path="/v1/streams/one", author="a", uses=uses))
    assert (LOOK in seen[0].headers) == (not uses)
    await fleet.close()
