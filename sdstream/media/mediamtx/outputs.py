"""The outputs of one stream at MediaMTX, a path for each codec, and the WHEP sessions that are relayed to them."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from sdstream.clock import Clock
from sdstream.errors import Unavailable
from sdstream.media.embedded.counters import StreamCounters
from sdstream.media.embedded.distribution import Distribution
from sdstream.media.embedded.encoding import H264Encoder
from sdstream.media.embedded.negotiation import VideoCodec
from sdstream.media.embedded.outputs.manager import OutputOptions
from sdstream.media.embedded.rates import Bitrates
from sdstream.media.mediamtx.config import output_path
from sdstream.media.mediamtx.control import ControlApi, PathState
from sdstream.media.mediamtx.offers import codec_for
from sdstream.media.mediamtx.writer import OutputWriter
from sdstream.media.ports import SessionAnswer

WRITER_SECONDS = 5.0
WATCH_TRIES, WATCH_PAUSE = 10, 0.2
"""MediaMTX answers viewers once the output's first packets have come, a moment after it has taken the connection."""
LEAVE_TRIES, LEAVE_PAUSE = 6, 0.05
"""MediaMTX lets go of a viewer a moment after it has said so."""
IDLE_SECONDS = 10.0
"""VP8 that nobody has watched for so long is encoded no more."""


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """What a stream needs of the back end. `rtsp_port` and `secret` are the way of our own connections."""

    stream_key: str
    playback_id: str
    rtsp_port: int
    secret: str
    max_viewers: int
    bitrates: Bitrates
    h264_encoder: H264Encoder = "x264"
    frame_rate: float = 30.0
    outputs: OutputOptions = field(default_factory=OutputOptions)


class OutputPaths:
    """H.264 is there from the start; VP8 only while WebRTC viewers that take nothing else watch.

    `look` has `see` called with what MediaMTX says from then on. All methods are for the event loop.
    """

    def __init__(
        self,
        options: StreamOptions,
        distribution: Distribution,
        counters: StreamCounters,
        control: ControlApi,
        clock: Clock,
        look: Callable[[], Awaitable[object]],
    ) -> None:
        self._options = options
        self._distribution = distribution
        self._counters = counters
        self._control = control
        self._clock = clock
        self._look = look
        self._writers: dict[VideoCodec, OutputWriter] = {}
        self._sessions: dict[str, str] = {}
        """Where MediaMTX knows each WHEP session, by our id; the oldest are forgotten."""
        self._bytes_sent: dict[VideoCodec, int] = {}
        self._vp8_used_at = 0.0
        self.opening = 0
        """Viewers whose offers are being answered."""
        self.readers = 0
        """Viewers that MediaMTX last said to have."""
        self._writer("H264")

    def is_taken(self) -> bool:
        """Whether MediaMTX takes the H.264 output now."""
        return self._writer("H264").connected.is_set()

    async def watch(self, offer: str) -> SessionAnswer:
        """Have MediaMTX answer a viewer. Raises `InvalidSdp` and `Unavailable`."""
        codec = codec_for(offer)
        self.opening += 1
        try:
            url, sdp = await self._answer(codec, offer)
        finally:
            self.opening -= 1
            self._vp8_used_at = self._clock.monotonic()
        session_id = secrets.token_urlsafe(18)
        self._sessions[session_id] = url
        while len(self._sessions) > 4 * self._options.max_viewers:
            del self._sessions[next(iter(self._sessions))]
        return SessionAnswer(session_id, sdp)

    def url_of(self, session_id: str) -> str | None:
        """Where MediaMTX knows a viewer's session."""
        return self._sessions.get(session_id)

    async def end(self, session_id: str) -> bool:
        """End a viewer's session, whose place is free afterwards; False when it is gone."""
        url = self._sessions.pop(session_id, None)
        if url is None:
            return False
        before = self.readers
        ended = await self._control.end_session(url)
        for _ in range(LEAVE_TRIES if ended and before else 0):
            await self._look()
            if self.readers < before:
                break
            await asyncio.sleep(LEAVE_PAUSE)
        return ended

    def see(self, paths: Mapping[str, PathState]) -> OutputWriter | None:
        """Take what MediaMTX says of its paths now. Returns a writer that nobody needs any more, for its closing."""
        self.readers = 0
        idle: VideoCodec | None = None
        for codec in self._writers:
            path = paths.get(output_path(self._options.playback_id, codec))
            count = 0 if path is None else len(path.readers)
            self.readers += count
            self._note_sent(codec, 0 if path is None else path.bytes_sent)
            if codec == "VP8" and (count or self.opening):
                self._vp8_used_at = self._clock.monotonic()
            elif codec == "VP8" and self._clock.monotonic() - self._vp8_used_at > IDLE_SECONDS:
                idle = codec
        return None if idle is None else self._writers.pop(idle)

    def request_keyframes(self) -> None:
        """Have the next pictures be keyframes: MediaMTX passes no viewer's wish for one on."""
        for codec in self._writers:
            self._distribution.request_keyframe(codec)

    async def close(self) -> None:
        """End all outputs, and MediaMTX their viewers. Idempotent."""
        self.readers = 0
        await asyncio.gather(*(writer.close() for writer in self._writers.values()))

    def _writer(self, codec: VideoCodec) -> OutputWriter:
        writer = self._writers.get(codec)
        if writer is None:
            options = self._options
            path = output_path(options.playback_id, codec)
            writer = self._writers[codec] = OutputWriter(
                path, codec, options.rtsp_port, options.secret, self._distribution, self._counters, self._clock
            )
            writer.start()
        return writer

    async def _answer(self, codec: VideoCodec, offer: str) -> tuple[str, str]:
        writer = self._writer(codec)
        try:
            async with asyncio.timeout(WRITER_SECONDS):
                await writer.connected.wait()
        except TimeoutError:
            raise Unavailable("MediaMTX does not take the output") from None
        path = output_path(self._options.playback_id, codec)
        for _ in range(WATCH_TRIES):
            try:
                session = await self._control.open_session(path, "whep", offer)
            except LookupError:
                await asyncio.sleep(WATCH_PAUSE)
            else:
                return session.url, session.sdp
        raise Unavailable("MediaMTX does not have the output yet")

    def _note_sent(self, codec: VideoCodec, total: int) -> None:
        """Count what the path's readers were sent; MediaMTX begins at 0 with each path."""
        before = self._bytes_sent.get(codec, 0)
        if total > before:
            self._counters.sent(total - before)
        self._bytes_sent[codec] = total


__all__ = ["OutputPaths", "StreamOptions"]
