"""The whole server inside a process that does jobs.

A session is an ordinary stream of the ordinary server: REST, WHIP, WHEP, media and the worker process are those of
`sdstream serve`. Only the state is in a folder of this process, since a network volume is shared by all workers.
"""

import asyncio
import contextlib
import secrets
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn

import httpx
import structlog
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from sdstream.api.addresses import BASE
from sdstream.api.context import CALLER, Caller
from sdstream.api.keys import KeyRing
from sdstream.clock import Clock, SystemClock
from sdstream.errors import ConfigurationError, Forbidden, InternalError
from sdstream.jobs.calls import OwnerAnswer, OwnerCall
from sdstream.jobs.use import notice_use
from sdstream.params import ModelTable
from sdstream.reachability import find_place
from sdstream.serve import HttpServer, Rooms, assemble, bind, url_of
from sdstream.settings import Settings, is_loopback
from sdstream.streams.service import StreamService
from sdstream.worker.ports import WorkerClient

START_SECONDS = 30.0
_HOP_HEADERS = frozenset({"connection", "transfer-encoding", "content-length"})

logger = structlog.get_logger(__name__)


class EmbeddedServer:
    """The server inside this process; implements `sdstream.jobs.ports.Host`.

    `start` binds it to the running loop; it is closed when that loop ends, or by `close`.
    """

    def __init__(self, settings: Settings, environment: Mapping[str, str], clock: Clock | None = None) -> None:
        self.settings = settings
        self.clock = clock or SystemClock()
        self.models = ModelTable.from_settings(settings)
        self.worker_id = environment.get("RUNPOD_POD_ID") or "local"
        self.mailbox = f"{self.worker_id}-{secrets.token_hex(6)}"
        self.on_use: Callable[[str], None] = lambda stream_id: None
        self._environment = environment
        self._rooms: Rooms | None = None
        self._url = ""
        self._life: asyncio.Task[None] | None = None
        self._up: asyncio.Future[None] | None = None

    @property
    def _running(self) -> Rooms:
        if self._rooms is None:
            raise RuntimeError("the embedded server was not started")
        return self._rooms

    @property
    def streams(self) -> StreamService:
        return self._running.service

    @property
    def worker(self) -> WorkerClient:
        return self._running.worker

    @property
    def keys(self) -> KeyRing:
        return self._running.keys

    @property
    def control_url(self) -> str:
        place = find_place(self._environment)
        return self.settings.public_url or (place and place.public_base(self.settings.port)) or self._url

    @property
    def notes(self) -> tuple[str, ...]:
        place = find_place(self._environment)
        known = self.settings.public_url or (place and place.public_base(self.settings.port))
        if place is None or known or is_loopback(self.settings.host):
            return ()
        return (f"RunPod maps no TCP port to {self.settings.port}: nobody outside reaches the URLs of this session",)

    async def start(self) -> None:
        if self._up is None:
            self._up = asyncio.get_running_loop().create_future()
            self._life = asyncio.create_task(self._live(self._up), name="embedded-server")
        await asyncio.shield(self._up)

    async def close(self) -> None:
        """End the server. Idempotent."""
        if self._life is not None:
            self._life.cancel()
            await asyncio.gather(self._life, return_exceptions=True)

    async def call(self, call: OwnerCall) -> OwnerAnswer:
        # In a task of its own, whose context takes the log's `request_id` away with it.
        return await asyncio.create_task(self._call(call))

    async def _call(self, call: OwnerCall) -> OwnerAnswer:
        caller = Caller(call.author, call.key_id, call.operator)
        transport = httpx.ASGITransport(_known(self._running.app, caller, call.base), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=call.base or self.control_url) as http:
            response = await http.request(
                call.method, call.path, params=call.query or None, headers=call.headers, content=call.body
            )
        headers = [(name, value) for name, value in response.headers.multi_items() if name not in _HOP_HEADERS]
        return OwnerAnswer(status=response.status_code, headers=headers, body=response.content)

    def lend_key(self, name: str, author: str) -> str:
        return self.keys.lend(name, author)

    def take_back_key(self, key: str) -> None:
        self.keys.take_back(key)

    async def _live(self, up: asyncio.Future[None]) -> None:
        """Everything from the first socket to the last; cancelled to end it."""
        try:
            with contextlib.ExitStack() as stack:
                state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sdstream-worker-")))
                listener = stack.enter_context(contextlib.closing(bind(self.settings.host, self.settings.port)))
                self._url = url_of(listener)
                rooms = assemble(self.settings, self.clock, state, lambda context: {"create_stream": _refuse_create})
                http = HttpServer(notice_use(rooms.app, lambda stream_id: self.on_use(stream_id)), lambda: None)
                await rooms.service.start()
                self._rooms = rooms
                serving = asyncio.create_task(http.serve(sockets=[listener]), name="embedded-http")
                try:
                    async with asyncio.timeout(START_SECONDS):
                        while not http.started:
                            if serving.done():
                                raise ConfigurationError("the HTTP server could not start; the log has the reason")
                            await asyncio.sleep(0.01)
                    up.set_result(None)
                    logger.info("worker listens", url=self._url, control_url=self.control_url)
                    await asyncio.wait((serving,))  # not awaited itself, or being cancelled would cut its end short
                finally:
                    http.should_exit = True
                    await asyncio.gather(serving, return_exceptions=True)
                    await rooms.service.close()
        except BaseException as error:
            if not up.done():
                up.set_exception(error if isinstance(error, Exception) else InternalError("the start was cancelled"))
                up.exception()  # looked at: nobody may be waiting
            raise


async def _refuse_create(request: Request) -> NoReturn:
    # It would live without a job: nothing would keep the worker for it, and no limit of sessions would count it.
    raise Forbidden("a serverless worker's streams are started by jobs", hint="Submit a `start` job.")


def _known(app: ASGIApp, caller: Caller, base: str | None) -> ASGIApp:
    """`app` for a request whose sender is known, and under which URL he sees this server."""

    async def call(scope: Scope, receive: Receive, send: Send) -> None:
        await app({**scope, CALLER: caller, BASE: base}, receive, send)

    return call


__all__ = ["EmbeddedServer"]
