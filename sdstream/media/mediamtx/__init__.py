"""The MediaMTX back end: its process takes and serves WebRTC, RTMP, RTSP and SRT; ours reads and writes its paths."""

import asyncio
import contextlib
import os
import secrets
import socket
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import structlog

from sdstream.clock import Clock
from sdstream.errors import ConfigurationError, SdstreamError, ShuttingDown, Unavailable, WebRtcOff
from sdstream.frames import PictureSize
from sdstream.logs import FoldedReporter
from sdstream.media.child_program import ChildProgram
from sdstream.media.embedded.addresses import Addressing
from sdstream.media.embedded.encoding import H264Encoder, choose_h264_encoder
from sdstream.media.embedded.outputs.manager import OutputOptions
from sdstream.media.embedded.outputs.recorder import finalise_all, find_unfinished
from sdstream.media.embedded.rates import Bitrates
from sdstream.media.mediamtx.config import LOOPBACK, Ports, configuration
from sdstream.media.mediamtx.control import ControlApi, Party, PathState
from sdstream.media.mediamtx.doors import DoorKeeper, Rules, StreamDoors
from sdstream.media.mediamtx.outputs import StreamOptions
from sdstream.media.mediamtx.process import find_program, make_child, version_problem
from sdstream.media.mediamtx.reach import Reach, choose_reach
from sdstream.media.mediamtx.stream import MediaMtxStream
from sdstream.media.ports import IceServer, MediaListener, MediaStream
from sdstream.media.turn.services import StaticServers
from sdstream.reachability import find_place
from sdstream.settings import Settings

LOOK_SECONDS = 0.25
"""How often MediaMTX is asked who publishes and who watches, for all streams at once."""
FAULT_SECONDS = 10.0
"""The same fault of a look is logged once in this time."""
COUNT_SECONDS = 1.0
"""How often it is asked what WebRTC sessions have received."""

log = structlog.get_logger(__name__)


class MediaMtxMedia:
    """Implements `media.ports.MediaBackend`. `answer_with` must be called before `start`.

    Raises `ConfigurationError` when the program is not here or a setting cannot work with it.
    """

    def __init__(self, settings: Settings, clock: Clock) -> None:
        if settings.webrtc_mode not in ("auto", "udp", "off"):
            raise ConfigurationError(
                f"webrtc_mode {settings.webrtc_mode} is for the embedded media back end",
                hint="MediaMTX takes WebRTC over TCP itself: set SDSTREAM_MEDIAMTX_WEBRTC_TCP_PORT.",
            )
        self._settings = settings
        self._clock = clock
        self._reach = choose_reach(settings, find_place(os.environ))
        if self._reach.choice.problem:
            raise ConfigurationError(f"mediamtx_webrtc_tcp_port: {self._reach.choice.problem}")
        self._program = find_program(settings).path
        self._addressing = Addressing.from_settings(settings)
        self._static = StaticServers(settings)
        self._secret = secrets.token_urlsafe(24)
        self._doors: StreamDoors | None = None
        self._h264_encoder: H264Encoder = choose_h264_encoder(settings.video_encoder)
        self._streams: dict[str, MediaMtxStream] = {}
        """By the path of the input."""
        self._admitting: dict[str, int] = {}
        """Inputs whose publishers were let in a moment ago and whose streams are being opened."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._keeper: DoorKeeper | None = None
        self._control: ControlApi | None = None
        self._process: ChildProgram | None = None
        self._ports: Ports | None = None
        self._looking: asyncio.Task[None] | None = None
        self._faults = FoldedReporter(log, clock, FAULT_SECONDS)
        self._seeing = asyncio.Lock()
        self._closed = False

    @property
    def process_id(self) -> int | None:
        """MediaMTX's, None while it does not run."""
        return None if self._process is None else self._process.process_id

    @property
    def ports(self) -> Ports:
        """Where MediaMTX listens, once it was started."""
        assert self._ports is not None
        return self._ports

    @property
    def control(self) -> ControlApi:
        """MediaMTX's API, once it was started."""
        assert self._control is not None
        return self._control

    def answer_with(self, doors: StreamDoors) -> None:
        """Ask `doors` who may publish and watch."""
        self._doors = doors

    async def start(self) -> None:
        """Start MediaMTX. Raises `ConfigurationError` when it cannot be used."""
        settings = self._settings
        ports = self._ports = choose_ports(settings, self._reach)
        self._keeper = DoorKeeper(Rules(self._secret, self._may_publish, self._may_watch), self._on_admitted)
        await self._keeper.start()
        self._control = ControlApi(ports, self._secret)
        hosts = self._reach.hosts or self._addressing.candidates()
        text = configuration(ports, self._keeper.url, hosts, _ice_servers(settings))
        self._process = make_child(self._program, text, self._answers, self._clock)
        await self._process.start()
        said = await self._control.version()
        problem = version_problem(said)
        if problem is not None:
            raise ConfigurationError(
                f"media_backend mediamtx: {problem}", hint="Install another MediaMTX, or name it in MEDIAMTX_BIN."
            )
        self._looking = asyncio.create_task(self._look(), name="look at MediaMTX")
        log.info(
            "MediaMTX is ready",
            version=said,
            encoder=self._h264_encoder,
            rtmp=ports.rtmp,
            rtsp=ports.rtsp if ports.rtsp_is_public else None,
            srt=ports.srt,
            webrtc_udp=ports.webrtc_udp,
            webrtc_tcp=ports.webrtc_tcp,
        )

    async def open_stream(self, stream_id: str, size: PictureSize, listener: MediaListener) -> MediaStream:
        if self._closed or self._control is None or self._ports is None or self._doors is None:
            raise ShuttingDown("the media back end is closed")
        settings = self._settings
        stream_key, playback_id = self._doors.names_of(stream_id)
        options = StreamOptions(
            stream_key=stream_key,
            playback_id=playback_id,
            rtsp_port=self._ports.rtsp,
            secret=self._secret,
            max_viewers=settings.max_viewers,
            bitrates=Bitrates(settings.video_bitrate, settings.video_bitrate_least, settings.video_bitrate_most),
            h264_encoder=self._h264_encoder,
            frame_rate=settings.max_frame_rate,
            outputs=OutputOptions(settings.output_allow_private, settings.recording_least_free),
        )
        stream = MediaMtxStream(stream_id, size, listener, options, self._control, self._clock, self._see)
        stream.webrtc_problem = self._webrtc_problem()
        self._streams[stream.input] = stream
        return stream

    async def finish_recordings(self, folder: Path) -> int:
        found = find_unfinished(folder)  # at once: what is begun later belongs to a stream that records
        return await asyncio.to_thread(finalise_all, found, self._settings.recording_least_free)

    async def ice_servers(self, host: str) -> tuple[IceServer, ...]:
        problem = self._webrtc_problem()
        if problem is not None:
            raise problem
        return await self._static.servers()

    async def close(self) -> None:
        self._closed = True
        looking, self._looking = self._looking, None
        if looking is not None:
            looking.cancel()
            await asyncio.gather(looking, return_exceptions=True)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        streams, self._streams = list(self._streams.values()), {}
        await asyncio.gather(*(stream.close() for stream in streams))
        if self._process is not None:
            await self._process.close()
        if self._keeper is not None:
            await self._keeper.close()
        if self._control is not None:
            await self._control.close()

    def _webrtc_problem(self) -> WebRtcOff | None:
        choice = self._reach.choice
        return WebRtcOff(f"this server takes no WebRTC sessions: {choice.because}") if choice.mode == "off" else None

    # The doors

    def _may_publish(self, stream_key: str) -> bool:
        return not self._closed and self._doors is not None and self._doors.may_publish(stream_key)

    def _may_watch(self, playback_id: str) -> bool:
        for stream in self._streams.values():
            if stream.output.endswith(f"/{playback_id}") and not stream.closed:
                return stream.has_place()
        return False

    def _on_admitted(self, stream_key: str) -> None:
        task = asyncio.ensure_future(self._admit(stream_key))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _admit(self, stream_key: str) -> None:
        assert self._doors is not None
        path = f"in/{stream_key}"
        self._admitting[path] = self._admitting.get(path, 0) + 1
        try:
            await self._doors.admit(stream_key)
        except SdstreamError as error:
            log.info("a publisher is turned away", code=error.code, problem=error.message)
            refused = self._streams.get(path)
            if refused is not None and not refused.closed and not refused.is_published:
                await refused.close()
        finally:
            self._admitting[path] -= 1
            if not self._admitting[path]:
                del self._admitting[path]

    # Looking

    async def _answers(self) -> bool:
        assert self._control is not None
        try:
            await self._control.version()
        except Unavailable:
            return False
        return True

    async def _look(self) -> None:
        assert self._control is not None
        counted_at = self._clock.monotonic()
        while True:
            paths = await self._see()
            if self._clock.monotonic() - counted_at >= COUNT_SECONDS:
                counted_at = self._clock.monotonic()
                await self._count()
            for party in uninvited(paths, self._streams, self._admitting):
                try:
                    await self._control.kick(party)
                except Unavailable:
                    break
            await asyncio.sleep(LOOK_SECONDS)

    async def _count(self) -> None:
        """Tell streams with WebRTC publishers what MediaMTX counted of these."""
        assert self._control is not None
        streams = [stream for stream in self._streams.values() if stream.web_session is not None]
        if streams:
            with contextlib.suppress(Unavailable):
                sessions = await self._control.web_sessions()
                for stream in streams:
                    stream.count(sessions)

    async def _see(self) -> dict[str, PathState]:
        """Show all streams what MediaMTX says now. One after the other: no older word comes after a newer one."""
        assert self._control is not None
        async with self._seeing:
            try:
                paths = await self._control.paths()
            except Unavailable:
                paths = dict[str, PathState]()
            self._streams = {name: stream for name, stream in self._streams.items() if not stream.closed}
            for stream in tuple(self._streams.values()):
                self._show(stream, paths)
        return paths

    def _show(self, stream: MediaMtxStream, paths: Mapping[str, PathState]) -> None:
        try:
            stream.see(paths)
        except Exception as error:  # noqa: BLE001 -- supervisor: one broken stream must not blind the others
            self._faults.report(
                f"look {type(error).__name__}",
                "a stream cannot follow what MediaMTX shows",
                error=type(error).__name__,
                exc_info=error,
            )


def uninvited(
    paths: Mapping[str, PathState], streams: Collection[str], admitting: Collection[str]
) -> tuple[Party, ...]:
    """The publishers whose stream is not open, and is not being opened: it was deleted, or refused them."""
    return tuple(
        path.publisher
        for name, path in paths.items()
        if path.publisher is not None and name.startswith("in/") and name not in streams and name not in admitting
    )


def choose_ports(settings: Settings, reach: Reach) -> Ports:
    """The ports of the settings and of `reach`, and free ones for what is between MediaMTX and us."""
    api, whip, rtsp = _free_ports(3)
    return Ports(
        api=api,
        whip=whip,
        rtsp=settings.mediamtx_rtsp_port or rtsp,
        rtsp_is_public=settings.mediamtx_rtsp_port is not None,
        rtmp=settings.mediamtx_rtmp_port,
        srt=settings.mediamtx_srt_port,
        webrtc_udp=reach.udp,
        webrtc_tcp=reach.tcp,
    )


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    try:
        return [opened.getsockname()[1] for opened in sockets]
    finally:
        for opened in sockets:
            opened.close()


def _ice_servers(settings: Settings) -> list[dict[str, str]]:
    """What MediaMTX's own agent uses; clients are told by our answers."""
    credential = settings.turn_credential
    found: list[dict[str, str]] = []
    for url in settings.webrtc_ice_servers:
        server = {"url": url}
        if url.startswith(("turn:", "turns:")):
            server["username"] = settings.turn_username or ""
            server["password"] = credential.get_secret_value() if credential else ""
        found.append(server)
    return found


__all__ = ["MediaMtxMedia", "choose_ports", "uninvited"]
