"""The gateway's way to a worker by WebSocket, with a worker that does what no real one does when a test wants it."""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

import httpx
import msgspec
import pytest
from starlette.types import Message
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.http11 import Request, Response

from sdstream.api.answers import encode_json, envelope
from sdstream.api.app import create_app
from sdstream.api.keys import KeyRing
from sdstream.clock import SystemClock
from sdstream.errors import NoPictureYet
from sdstream.gateway.answers import LongResponse
from sdstream.gateway.direct import LongAnswer
from sdstream.gateway.fleet import Fleet
from sdstream.gateway.sockets import GatewaySockets
from sdstream.gateway.streams import GatewayStreams
from sdstream.serve import HttpServer, bind, url_of
from sdstream.settings import Settings
from tests.jobs.platform import API_KEY, ENDPOINT, FakePlatform
from tests.jobs.test_parts import entry as entry_of
from tests.support.rest import ERROR_MEMBERS
from tests.support.waiting import eventually

MEGABYTE = 1024 * 1024
MESSAGES = 160
BUFFERED = 60
"""How many messages of a megabyte the sockets of this machine may hold between three programs, with room."""


async def stay(connection: ServerConnection) -> None:
    await connection.wait_closed()


@dataclass
class FakeWorker:
    """A WebSocket server whose connections `behave` is given.

    `refusal` is what it answers in place of a handshake, with `words`; it answers nothing before `hold`.
    """

    behave: Callable[[ServerConnection], Awaitable[None]] = stay
    refusal: tuple[HTTPStatus, dict[str, str]] | None = None
    words: str = "no envelope"
    hold: asyncio.Event | None = None
    connections: list[ServerConnection] = field(default_factory=list[ServerConnection])
    asked: list[Request] = field(default_factory=list[Request])
    url: str = ""

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator["FakeWorker"]:
        async with serve(self._serve, "127.0.0.1", 0, process_request=self._look, max_size=None, max_queue=1) as server:
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            yield self

    async def _look(self, connection: ServerConnection, request: Request) -> Response | None:
        self.asked.append(request)
        if self.hold is not None:
            await self.hold.wait()
        if self.refusal is None:
            return None
        status, headers = self.refusal
        response = connection.respond(status, self.words)
        response.headers.update(headers)
        return response

    async def _serve(self, connection: ServerConnection) -> None:
        self.connections.append(connection)
        await self.behave(connection)


@dataclass
class Gateway:
    """A gateway in this process that knows one session."""

    fleet: Fleet
    url: str
    server: HttpServer
    serving: asyncio.Task[None]

    async def know(self, control_url: str) -> None:
        job_id = await self.fleet.client.submit({"action": "start"})  # that goes on, whatever becomes of the worker
        await self.fleet.directory.claim(
            msgspec.structs.replace(entry_of("one"), job_id=job_id, control_url=control_url)
        )

    async def stop(self) -> None:
        """Idempotent."""
        await self.fleet.close()
        self.server.should_exit = True
        await self.serving

    def open(self, **members: Any) -> connect:
        """To be entered: a viewer's socket."""
        url = self.url.replace("http", "ws") + "/playback/pb/pictures"
        return connect(url, compression=None, proxy=None, max_size=None, max_queue=1, **members)


@pytest.fixture
def silent_platform() -> Iterator[FakePlatform]:
    """A platform that no worker asks for jobs."""
    fake = FakePlatform().start()
    yield fake
    fake.stop()


@pytest.fixture
async def gateway(silent_platform: FakePlatform, tmp_path: Path) -> AsyncIterator[Gateway]:
    settings = Settings(placement="runpod", endpoint=ENDPOINT, runpod_api_url=silent_platform.url)
    fleet = Fleet(settings, API_KEY, SystemClock())
    app = create_app(
        cast("Any", GatewayStreams(fleet)),
        settings,
        KeyRing.open(tmp_path, settings),
        SystemClock(),
        sockets=lambda _: GatewaySockets(fleet).endpoints(),
    )
    listener = bind("127.0.0.1", 0)
    started = asyncio.Event()
    server = HttpServer(app, started.set)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    await started.wait()
    made = Gateway(fleet, url_of(listener), server, serving)
    yield made
    await made.stop()
    listener.close()


@contextlib.asynccontextmanager
async def connected(gateway: Gateway, worker: FakeWorker) -> AsyncIterator[tuple[ClientConnection, ServerConnection]]:
    """A client's socket at the gateway, and what the worker has of it."""
    async with worker.run():
        await gateway.know(worker.url)
        async with gateway.open() as client:
            await eventually(lambda: worker.connections, what="the worker's connection")
            yield client, worker.connections[0]


async def closing(socket: ClientConnection | ServerConnection) -> tuple[int | None, str | None]:
    """With which code and reason the other side closes."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await asyncio.wait_for(socket.recv(), 30)
    return socket.close_code, socket.close_reason


async def stalled(count: Callable[[], int]) -> int:
    """What `count` says when it has not changed for half a second."""
    seen, unchanged = -1, 0

    def probe() -> bool:
        nonlocal seen, unchanged
        seen, unchanged = count(), unchanged + 1 if count() == seen else 0
        return unchanged >= 10

    await eventually(probe, what="a standstill")
    return seen


@dataclass
class Sender:
    """Sends messages of a megabyte, each with its number, as fast as they are taken."""

    sent: int = 0

    async def send(self, socket: ClientConnection | ServerConnection) -> None:
        for number in range(MESSAGES):
            await socket.send(number.to_bytes(2) + bytes(MEGABYTE - 2))
            self.sent += 1


async def receive_all(socket: ClientConnection | ServerConnection) -> list[int]:
    return [int.from_bytes((await socket.recv(decode=False))[:2]) for _ in range(MESSAGES)]


async def test_a_worker_that_takes_nothing_holds_the_publisher_up(gateway: Gateway) -> None:
    sender = Sender()
    async with connected(gateway, FakeWorker()) as (client, worker):
        sending = asyncio.create_task(sender.send(client))
        assert await stalled(lambda: sender.sent) < BUFFERED
        assert await receive_all(worker) == list(range(MESSAGES))
        await sending


async def test_a_viewer_that_takes_nothing_holds_the_worker_up(gateway: Gateway) -> None:
    sender = Sender()
    async with connected(gateway, FakeWorker(behave=sender.send)) as (client, _):
        assert await stalled(lambda: sender.sent) < BUFFERED
        assert await receive_all(client) == list(range(MESSAGES))


async def test_texts_stay_texts_and_bytes_stay_bytes(gateway: Gateway) -> None:
    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with connected(gateway, FakeWorker(behave=echo)) as (client, _):
        for message in ("taken", b"\xff\xd8", "", b""):
            await client.send(message)
            assert await client.recv() == message


async def test_what_came_before_the_workers_close_comes_to_the_client_with_its_code_and_reason(
    gateway: Gateway,
) -> None:
    async def say_and_close(connection: ServerConnection) -> None:
        await connection.send("last words")
        await connection.close(4321, "why it is so")

    async with connected(gateway, FakeWorker(behave=say_and_close)) as (client, _):
        assert await client.recv() == "last words"
        assert await closing(client) == (4321, "why it is so")


@pytest.mark.parametrize(("code", "told"), [(4002, 4002), (1000, 1000)])
async def test_the_clients_close_comes_to_the_worker(gateway: Gateway, code: int, told: int) -> None:
    async with connected(gateway, FakeWorker()) as (client, worker):
        await client.close(code, "enough")
        assert await closing(worker) == (told, "enough")


async def test_a_client_that_is_lost_is_gone_at_the_worker_too(gateway: Gateway) -> None:
    async with connected(gateway, FakeWorker()) as (client, worker):
        client.transport.abort()
        assert (await closing(worker))[0] in (1000, 1001)


async def test_a_worker_that_is_lost_is_told_as_a_mistake(gateway: Gateway) -> None:
    async with connected(gateway, FakeWorker()) as (client, worker):
        worker.transport.abort()
        assert await closing(client) == (1011, "the worker broke off")


async def test_a_gateway_that_shuts_down_tells_both_sides(gateway: Gateway) -> None:
    async with connected(gateway, FakeWorker()) as (client, worker):
        closed = asyncio.create_task(closing(worker))
        await gateway.fleet.close()
        assert await closing(client) == (1001, "the gateway shuts down")
        assert await closed == (1001, "the gateway shuts down")


async def test_a_client_that_goes_before_the_worker_has_answered_leaves_nothing_there(gateway: Gateway) -> None:
    worker = FakeWorker(hold=asyncio.Event())
    async with worker.run():
        await gateway.know(worker.url)
        opening = asyncio.ensure_future(gateway.open())
        await eventually(lambda: worker.asked, what="the gateway's request")
        opening.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opening
        assert worker.hold is not None
        worker.hold.set()
        await eventually(lambda: worker.connections, what="the worker's connection")
        await closing(worker.connections[0])


async def test_the_worker_is_given_the_sessions_key_and_nothing_of_the_clients_own(gateway: Gateway) -> None:
    worker = FakeWorker()
    async with worker.run():
        await gateway.know(worker.url)
        given = {"Cookie": "a=b", "Authorization": "Bearer of-the-gateway", "X-Request-Id": "request-0001"}
        async with gateway.open(additional_headers=given):
            pass
    (asked,) = worker.asked
    assert asked.path == "/playback/pb/pictures"
    assert asked.headers["authorization"] == "Bearer sds_secret"
    assert asked.headers["x-request-id"] == "request-0001"
    assert not {"cookie", "origin", "sec-websocket-extensions"} & {name.lower() for name in asked.headers}


async def refusal_of(gateway: Gateway) -> tuple[int, str]:
    """How a socket is refused: status and code of the envelope."""
    with pytest.raises(InvalidStatus) as caught:
        async with gateway.open():
            pass
    response = caught.value.response
    body = httpx.Response(response.status_code, content=bytes(response.body)).json()
    assert set(body) == ERROR_MEMBERS
    return response.status_code, body["code"]


@pytest.mark.parametrize("status", [HTTPStatus.OK, HTTPStatus.NOT_FOUND, HTTPStatus.BAD_GATEWAY])
async def test_what_is_no_worker_is_an_owner_that_cannot_be_reached(gateway: Gateway, status: HTTPStatus) -> None:
    async with FakeWorker(refusal=(status, {})).run() as worker:
        await gateway.know(worker.url)
        assert await refusal_of(gateway) == (504, "SESSION/OWNER_UNREACHABLE")


async def test_a_worker_leads_the_gateway_to_no_other_address(gateway: Gateway) -> None:
    async with FakeWorker().run() as elsewhere:
        moved = {"Location": elsewhere.url.replace("http", "ws") + "/playback/pb/pictures"}
        async with FakeWorker(refusal=(HTTPStatus.TEMPORARY_REDIRECT, moved)).run() as worker:
            await gateway.know(worker.url)
            assert await refusal_of(gateway) == (504, "SESSION/OWNER_UNREACHABLE")
        assert elsewhere.asked == []


async def test_an_address_at_which_nobody_is_is_an_owner_that_cannot_be_reached(gateway: Gateway) -> None:
    await gateway.know("http://127.0.0.1:1")
    assert await refusal_of(gateway) == (504, "SESSION/OWNER_UNREACHABLE")


async def test_a_refused_socket_is_no_error_in_the_log(gateway: Gateway, caplog: pytest.LogCaptureFixture) -> None:
    assert await refusal_of(gateway) == (404, "STREAMS/NOT_FOUND")
    await gateway.stop()  # so that it has said all
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_a_session_whose_job_has_ended_is_not_found(gateway: Gateway) -> None:
    async with FakeWorker(refusal=(HTTPStatus.UNAUTHORIZED, {})).run() as worker:
        await gateway.know(worker.url)
        (entry,) = await gateway.fleet.directory.entries()
        await gateway.fleet.client.cancel(entry.job_id)
        assert await refusal_of(gateway) == (404, "STREAMS/NOT_FOUND")


async def test_a_session_that_has_an_answer_of_its_own_is_not_looked_for_at_the_platform(gateway: Gateway) -> None:
    """Viewers ask for one to which nobody publishes again and again."""
    error = NoPictureYet("nobody publishes")
    words = encode_json(envelope(error, {"headers": []})).decode()
    async with FakeWorker(refusal=(HTTPStatus.NOT_FOUND, {}), words=words).run() as worker:
        await gateway.know(worker.url)
        (entry,) = await gateway.fleet.directory.entries()
        await gateway.fleet.client.cancel(entry.job_id)  # which is not to be seen
        assert await refusal_of(gateway) == (404, "STREAMS/NO_PICTURE_YET")


async def test_a_long_answer_is_ended_when_its_client_went_before_the_first_byte() -> None:
    class Body(httpx.AsyncByteStream):
        closed = False

        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield b"never asked for"

        async def aclose(self) -> None:
            self.closed = True

    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        await asyncio.Event().wait()

    body = Body()
    response = LongResponse(LongAnswer(httpx.Response(200, stream=body), "session-1"), (), live=True)
    await response({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
    assert body.closed
