"""Who may do what at MediaMTX: it asks us by HTTP for each publisher and reader, and is answered from memory.

MediaMTX asks from inside the loop that opens its paths, so an answer never waits, and never asks MediaMTX anything.
"""

import asyncio
import hmac
import secrets
import socket
from collections.abc import Awaitable, Callable, Generator, MutableMapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec
import structlog
import uvicorn

from sdstream.media.mediamtx.config import INPUT, LOOPBACK, PATH

OUR_NAME = "sdstream"
MOST_QUESTION = 128 * 1024
START_SECONDS = 5.0

log = structlog.get_logger(__name__)


class StreamDoors(Protocol):
    """What the back end must know of streams; answered from memory, on the event loop."""

    def names_of(self, stream_id: str) -> tuple[str, str]:
        """The stream key and the playback id. Raises `StreamNotFound`."""
        ...

    def may_publish(self, stream_key: str) -> bool:
        """Whether a publisher with this key would be let in now."""
        ...

    async def admit(self, stream_key: str) -> None:
        """Open the stream for a publisher that came without an offer. Raises as `StreamService.publish`."""
        ...


class Question(msgspec.Struct, frozen=True):
    """What MediaMTX asks. `protocol` is empty for its API."""

    action: str
    path: str = ""
    user: str = ""
    password: str = ""
    protocol: str = ""


Answer = Literal["yes", "no", "who"]
"""`who`: the client is to say who it is, which some do only when asked."""


@dataclass(frozen=True, slots=True)
class Rules:
    """The decision. `secret` is what our own connections show, made anew at each start."""

    secret: str
    may_publish: Callable[[str], bool]
    may_watch: Callable[[str], bool]

    def decide(self, question: Question) -> Answer:
        """Keys are the last part of the path; looking one up by its hash takes no time that depends on its letters."""
        if question.user == OUR_NAME:
            return "yes" if hmac.compare_digest(question.password.encode(), self.secret.encode()) else "no"
        named = PATH.fullmatch(question.path)
        if named is None or question.protocol not in ("rtmp", "rtsp", "srt"):
            return "who" if question.protocol == "" and not question.user else "no"
        kind, key = named.groups()
        if question.action == "publish" and kind == INPUT:
            return "yes" if self.may_publish(key) else "no"
        if question.action == "read" and kind != INPUT:
            return "yes" if self.may_watch(key) else "no"
        return "no"


class DoorKeeper:
    """Answers MediaMTX on a port of its own that this machine alone reaches, under a path that nobody can guess.

    `on_admitted` is told the stream key of each publisher that is let in.
    """

    def __init__(self, rules: Rules, on_admitted: Callable[[str], None]) -> None:
        self._rules = rules
        self._on_admitted = on_admitted
        self._path = f"/{secrets.token_urlsafe(24)}"
        self._socket: socket.socket | None = None
        self._server: _Server | None = None
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        assert self._socket is not None
        return f"http://{LOOPBACK}:{self._socket.getsockname()[1]}{self._path}"

    async def start(self) -> None:
        """Listen on a free port."""
        self._socket = socket.create_server((LOOPBACK, 0))
        self._server = _Server(self._application)
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="MediaMTX's questions")
        async with asyncio.timeout(START_SECONDS):
            await self._server.answers.wait()

    async def close(self) -> None:
        """Idempotent."""
        task, self._task = self._task, None
        if task is not None and self._server is not None:
            self._server.should_exit = True
            await asyncio.gather(task, return_exceptions=True)
        if self._socket is not None:
            self._socket.close()

    async def _application(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if message["type"] != "http.request" or not message.get("more_body") or len(body) > MOST_QUESTION:
                break
        status = self._answer(scope["path"], body)
        await send({"type": "http.response.start", "status": status, "headers": [(b"content-length", b"0")]})
        await send({"type": "http.response.body", "body": b""})

    def _answer(self, path: str, body: bytes) -> int:
        if not hmac.compare_digest(path.encode(), self._path.encode()):
            return 404
        with suppress(msgspec.MsgspecError):
            question = msgspec.json.decode(body, type=Question)
            answer = self._rules.decide(question)
            if answer == "yes" and question.action == "publish" and question.user != OUR_NAME:
                self._on_admitted(question.path.partition("/")[2])
            return {"yes": 200, "no": 403, "who": 401}[answer]
        return 400


class _Server(uvicorn.Server):
    """uvicorn without signal handling."""

    def __init__(self, application: Any) -> None:
        super().__init__(
            uvicorn.Config(
                application,
                http="httptools",
                ws="none",
                interface="asgi3",  # a method is taken for an application of the old kind
                lifespan="off",
                proxy_headers=False,
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=1,
            )
        )
        self.answers = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.answers.set()

    @contextmanager
    def capture_signals(self) -> Generator[None]:
        yield


__all__ = ["OUR_NAME", "Answer", "DoorKeeper", "Question", "Rules", "StreamDoors"]
