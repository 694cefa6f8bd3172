"""The assembly: settings in, a running server out. The only place that knows every room.

    socket bound -> keys, media, worker, streams, API -> data directory proved -> REST answers -> worker ready

The worker's process is started and not waited for: REST answers while torch is still being imported there.
"""

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Generator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Protocol, cast

import structlog
import uvicorn
from starlette.types import ASGIApp

from sdstream.api import create_app
from sdstream.api.app import Endpoint
from sdstream.api.connections import RequestProtocol, SocketProtocol
from sdstream.api.context import Context
from sdstream.api.health import HealthDoor
from sdstream.api.keys import KeyRing
from sdstream.api.ports import Streams
from sdstream.api.routes.pictures import LARGEST_MESSAGE
from sdstream.clock import Clock, SystemClock
from sdstream.commands.plan import plan_serve
from sdstream.directories import choose_data_directory
from sdstream.errors import ConfigurationError
from sdstream.job_settings import read_key
from sdstream.logs import configure_logging
from sdstream.media.embedded import EmbeddedMedia
from sdstream.media.mediamtx import MediaMtxMedia
from sdstream.params import ModelTable
from sdstream.platform import WINDOWS
from sdstream.reachability import find_place
from sdstream.settings import Settings
from sdstream.streams.service import StreamService
from sdstream.worker.client import WorkerProcess

DRAIN_SECONDS = 10.0
"""How long the streams may take to end in order before the server goes on ending without them."""

LINGER_SECONDS = 3
"""How long open HTTP requests may take to finish after the streams have ended."""

LEAVE_SECONDS = DRAIN_SECONDS + LINGER_SECONDS + 5.0
"""How long the whole end may take. What has not ended by then hangs: a dead disk, a driver; the process goes anyway."""

logger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Rooms:
    """The rooms of one server, put together and not started: `service` starts and closes media and worker."""

    keys: KeyRing
    worker: WorkerProcess
    service: StreamService
    app: ASGIApp


class Service(Protocol):
    """What is started before and closed after HTTP."""

    async def start(self) -> None: ...
    async def close(self) -> None: ...


def assemble(
    settings: Settings,
    clock: Clock,
    data_dir: Path,
    replace: Callable[[Context], Mapping[str, Endpoint]] | None = None,
) -> Rooms:
    """Put the rooms together over the state in `data_dir`, which may not be there yet; `replace` as in `create_app`.

    Makes nothing on the disk. Raises `ConfigurationError` for settings that cannot work here.
    """
    keys = KeyRing.open(data_dir, settings)
    worker = WorkerProcess(settings, clock)
    mediamtx = MediaMtxMedia(settings, clock) if settings.media_backend == "mediamtx" else None
    service = StreamService(
        settings,
        media=mediamtx or EmbeddedMedia(settings, clock),
        worker=worker,
        models=ModelTable.from_settings(settings),
        data_dir=data_dir,
        clock=clock,
    )
    if mediamtx is not None:
        mediamtx.answer_with(service.doors)
    return Rooms(keys, worker, service, create_app(service, settings, keys, clock, replace))


def assemble_gateway(settings: Settings, clock: Clock, data_dir: Path) -> tuple[KeyRing, Service, ASGIApp]:
    """Put a gateway together: keys, the fleet of the endpoint, the API over it.

    Raises `ConfigurationError` when there is no key for RunPod's API.
    """
    from sdstream.gateway.fleet import Fleet
    from sdstream.gateway.routes import GatewayRoutes
    from sdstream.gateway.sockets import GatewaySockets
    from sdstream.gateway.streams import GatewayStreams

    key = find_runpod_key(settings)
    keys = KeyRing.open(data_dir, settings)
    fleet = Fleet(settings, key, clock)
    service = GatewayStreams(fleet)
    app = create_app(
        cast("Streams", service),  # its other half is replaced
        settings,
        keys,
        clock,
        replace=lambda context: GatewayRoutes(context, fleet).endpoints(),
        sockets=lambda _: GatewaySockets(fleet).endpoints(),
    )
    return keys, service, app


def find_runpod_key(settings: Settings) -> str:
    """The key for RunPod's API: the setting, else RunPod's own variable. Raises `ConfigurationError` without either."""
    key = settings.runpod_api_key
    found = key.get_secret_value() if key else os.environ.get("RUNPOD_API_KEY", "")
    if not found:
        raise ConfigurationError(
            "placement runpod needs a key for RunPod's API", hint="Set SDSTREAM_RUNPOD_API_KEY or RUNPOD_API_KEY."
        )
    try:
        return read_key(found)
    except ValueError as error:
        raise ConfigurationError(f"RUNPOD_API_KEY: {error}") from None


class Server:
    """One server process: `run()` blocks until a signal and returns the exit code.

    The first signal drains; the second ends the process at once, and the worker notices that its parent is gone. From
    the first on the process has `LEAVE_SECONDS`, those after `run` included: the interpreter waits for threads too.
    """

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._signals = 0
        self._leaving = threading.Timer(LEAVE_SECONDS, _leave)
        self._leaving.daemon = True

    def run(self) -> int:
        """Serve until a signal. Raises `ConfigurationError` when the port or the data directory cannot be used."""
        configure_logging(self._settings)
        logging.getLogger("uvicorn").setLevel(logging.WARNING)  # it would tell of every start and stop a second time
        with contextlib.ExitStack() as stack:
            listeners = [stack.enter_context(contextlib.closing(bind(self._settings.host, self._settings.port)))]
            health_port = self._settings.health_port
            if health_port is not None and health_port != listeners[0].getsockname()[1]:
                door = bind(self._settings.host, health_port, setting="health_port")
                listeners.append(stack.enter_context(contextlib.closing(door)))
            with asyncio.Runner(loop_factory=_event_loop_factory()) as runner:
                runner.run(self._serve(listeners))
        return 0

    async def _serve(self, listeners: list[socket.socket]) -> None:
        settings = self._settings
        data = choose_data_directory(settings)
        if settings.placement == "runpod":
            keys, service, app = assemble_gateway(settings, self._clock, data.absolute_path)
        else:
            rooms = assemble(settings, self._clock, data.absolute_path)
            keys, service, app = rooms.keys, rooms.service, rooms.app
        data.prepare()  # only now, so that settings that are refused leave nothing behind
        url = url_of(listeners[0])
        if len(listeners) > 1:
            app = HealthDoor(app, listeners[1].getsockname()[1])
        http = HttpServer(app, lambda: self._announce(url, keys))
        with self._stop_event() as stop:
            await service.start()
            try:
                await _serve_until(http, listeners, stop, lambda: self._end(service))
            finally:
                await self._end(service)

    async def _end(self, service: Service) -> None:
        """Close the streams; from the first call on the process has `LEAVE_SECONDS`, whatever hangs and wherever."""
        if self._leaving.ident is None:
            self._leaving.start()
        await service.close()

    def _announce(self, url: str, keys: KeyRing) -> None:
        """Say where the server is; the first key is made only now, when the line that shows it is sure to come."""
        place = find_place(os.environ)
        page = self._settings.public_url or (place and place.public_base(self._settings.port)) or url
        print(f"sdstream is listening on {url}", flush=True)
        if not self._settings.authentication:
            print(f"Open {page}/")
        elif keys.is_empty():
            print(f"Open {page}/#key={keys.create('first start')}")
        else:
            print(f"Open {page}/ and sign in with a key; `sdstream key` makes one more")
        for line in plan_serve(self._settings):
            print(line.text)
        sys.stdout.flush()

    @contextlib.contextmanager
    def _stop_event(self) -> Generator[asyncio.Event]:
        """An event that the first signal sets; handlers are put back on leaving."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def handle(number: int, _: FrameType | None) -> None:
            self._signals += 1
            if self._signals > 1:
                os.write(2, b"sdstream: forced to end at once\n")
                os._exit(128 + number)
            loop.call_soon_threadsafe(stop.set)

        names = ("SIGINT", "SIGTERM", "SIGBREAK")  # the last one is Windows' Ctrl-Break
        numbers = [signal.Signals[name] for name in names if name in signal.Signals.__members__]
        before = {number: signal.signal(number, handle) for number in numbers}
        try:
            yield stop
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class HttpServer(uvicorn.Server):
    """uvicorn without its own signal handling, telling when it answers."""

    def __init__(self, application: object, on_started: Callable[[], None]) -> None:
        super().__init__(
            uvicorn.Config(
                application,  # pyright: ignore[reportArgumentType]
                http=RequestProtocol,
                ws=SocketProtocol,
                ws_max_size=LARGEST_MESSAGE,
                ws_per_message_deflate=False,  # pictures are compressed already
                log_config=None,
                access_log=False,
                proxy_headers=False,  # the API reads them itself, and only where the settings trust the proxy
                server_header=False,
                timeout_graceful_shutdown=LINGER_SECONDS,
            )
        )
        self._on_started = on_started

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_started()


async def _serve_until(
    http: HttpServer, listeners: list[socket.socket], stop: asyncio.Event, drain: Callable[[], Awaitable[None]]
) -> None:
    """Answer HTTP until `stop`, then drain while still answering, then end the open requests."""
    serving = asyncio.ensure_future(http.serve(sockets=listeners))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not serving.done():
        logger.info("draining", hint="a second signal ends at once")
        try:
            async with asyncio.timeout(DRAIN_SECONDS):
                await drain()
        except TimeoutError:
            logger.warning("streams did not end in time", seconds=DRAIN_SECONDS)
        http.should_exit = True
    await serving
    if not http.started:
        raise ConfigurationError("the HTTP server could not start; the log has the reason")


def _leave() -> None:
    # Nothing softer helps here: asyncio and the interpreter both wait for threads that may never return.
    os.write(2, f"sdstream: not ended after {LEAVE_SECONDS:g} s, leaving what hangs behind\n".encode())
    os._exit(1)


def bind(host: str, port: int, setting: str = "port") -> socket.socket:
    """A socket bound to `host` and `port` (0: a free one), not listening yet.

    Raises `ConfigurationError` for a name that does not resolve, an address that is not of this machine, a port that
    is in use or not allowed; it names `setting`.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:  # the latter for a part that no name can have
        reason = getattr(error, "strerror", None) or "no name is like this"
        raise ConfigurationError(f"host: {host} is not an address of this machine ({reason})") from None
    family, kind, protocol, _, address = sorted(found, key=lambda entry: entry[0] != socket.AF_INET)[0]
    listener = socket.socket(family, kind, protocol)
    if not WINDOWS:  # there the option would let two servers share a port
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(1)  # Linux reports a port in use only here when the other one listens with the same option
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            _why_not_bound(error, host, port, setting),
            hint="`--port 0` takes a free port; `sdstream doctor` checks the rest.",
        ) from None
    return listener


def _why_not_bound(error: OSError, host: str, port: int, setting: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{setting}: {port} on {host} is in use by another program"
    if error.errno == errno.EACCES:
        return f"{setting}: this user may not listen on {port}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"host: {host} is not an address of this machine"
    return f"cannot listen on {host} port {port}: {error.strerror}"


def url_of(listener: socket.socket) -> str:
    """The URL at which a person on this machine opens the server."""
    host, port = listener.getsockname()[:2]
    if host == "0.0.0.0":
        host = "127.0.0.1"
    elif host == "::":
        host = "::1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _event_loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop where it is installed, else asyncio's own loop."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


__all__ = [
    "DRAIN_SECONDS",
    "LEAVE_SECONDS",
    "HttpServer",
    "Rooms",
    "Server",
    "assemble",
    "assemble_gateway",
    "bind",
    "find_runpod_key",
    "url_of",
]
