"""Calls at a worker's control URL: what the caller may know of one that failed, and how soon."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import httpx
import msgspec
import pytest
import uvicorn

from sdstream.clock import SystemClock
from sdstream.gateway import fleet as fleet_module
from sdstream.gateway.direct import call_owner
from sdstream.gateway.fleet import KEPT_SECONDS, Fleet
from sdstream.gateway.patience import BRIEF_SECONDS, CALL_SECONDS, OPEN_SECONDS
from sdstream.job_errors import OwnerAsleep, OwnerSilent, OwnerUnreachable
from sdstream.jobs.calls import OwnerCall
from sdstream.jobs.directory import SessionEntry
from sdstream.jobs.waiting import TAKE_SECONDS
from sdstream.settings import Settings
from tests.jobs.platform import API_KEY, ENDPOINT, FakePlatform
from tests.jobs.test_parts import entry as entry_of

READ = OwnerCall(method="GET", path="/v1/streams/session-1", author="a")
CHANGE = OwnerCall(method="PATCH", path="/v1/streams/session-1", author="a", body=b"{}")


@contextlib.asynccontextmanager
async def worker(behave: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]) -> AsyncIterator[str]:
    """The URL of a server that reads a request's head and then does as it likes."""
    held: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held.append(writer)
        await reader.readuntil(b"\r\n\r\n")
        await behave(reader, writer)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        server.close()
        for writer in held:
            writer.close()


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    pass


async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()


def at(url: str, **changes: Any) -> SessionEntry:
    return msgspec.structs.replace(entry_of("one"), control_url=url, **changes)


@pytest.fixture
def silent_platform() -> Iterator[FakePlatform]:
    """A platform that no worker asks for jobs."""
    fake = FakePlatform().start()
    yield fake
    fake.stop()


@pytest.fixture
async def fleet(silent_platform: FakePlatform) -> AsyncIterator[Fleet]:
    made = Fleet(
        Settings(placement="runpod", endpoint=ENDPOINT, runpod_api_url=silent_platform.url), API_KEY, SystemClock()
    )
    yield made
    await made.close()


@pytest.mark.parametrize(("call", "repeatable"), [(READ, True), (CHANGE, False)])
@pytest.mark.parametrize("behave", [say_nothing, break_off])
async def test_a_worker_that_was_asked_and_does_not_answer_may_have_done_it(
    behave: Callable[..., Awaitable[None]], call: OwnerCall, repeatable: bool
) -> None:
    async with worker(behave) as url, httpx.AsyncClient(trust_env=False) as http:
        with pytest.raises(OwnerSilent) as caught:
            await call_owner(http, at(url), call, 1.0)  # half of it is for connecting
    assert caught.value.retryable is repeatable


async def test_a_worker_to_which_nothing_leads_has_done_nothing() -> None:
    async with httpx.AsyncClient(trust_env=False) as http:
        with pytest.raises(OwnerUnreachable) as caught:
            await call_owner(http, at("http://127.0.0.1:1"), CHANGE, 15)
    assert not isinstance(caught.value, OwnerSilent)
    assert caught.value.retryable


async def test_connecting_has_less_time_than_answering() -> None:
    limits: list[dict[str, float]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        limits.append(request.extensions["timeout"])
        return httpx.Response(200, json={})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        await call_owner(http, at("http://worker"), READ, CALL_SECONDS)
        await call_owner(http, at("http://worker"), READ, BRIEF_SECONDS)
    assert [(limit["connect"], limit["read"]) for limit in limits] == [(TAKE_SECONDS, CALL_SECONDS), (1.0, 2.0)]


async def test_a_connection_is_given_up_before_the_worker_does(fleet: Fleet) -> None:
    """A call on one that the worker is just closing would fail without having been looked at."""
    pool: Any = fleet._http._transport
    assert pool._pool._keepalive_expiry == KEPT_SECONDS < uvicorn.Config("").timeout_keep_alive


async def test_a_long_answer_of_a_worker_that_is_stopped_is_not_waited_for(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_module, "OPEN_SECONDS", 0.2)
    job_id = await fleet.client.submit({"action": "start"})
    async with worker(say_nothing) as url, asyncio.timeout(2 * OPEN_SECONDS):
        with pytest.raises(OwnerAsleep):
            await fleet.follow(at(url, job_id=job_id), "/v1/streams/session-1/events", {})
        with pytest.raises(OwnerAsleep):
            await fleet.connect(at(url, job_id=job_id), "/playback/pb/pictures", {})
