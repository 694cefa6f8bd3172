"""The output's way into MediaMTX: encoded pictures and Opus published by RTSP over one TCP connection on loopback.

Packets are the encoder's own, so nothing is muxed again, and clocks are set as for a WHEP viewer. A connection that is
behind drops pictures up to a keyframe; one that ends is made again.
"""

import asyncio
import base64
import contextlib
import random
import struct
from datetime import UTC, datetime

import structlog

from sdstream.clock import Clock
from sdstream.media.embedded.capture import AUDIO_CLOCK_RATE
from sdstream.media.embedded.counters import StreamCounters
from sdstream.media.embedded.distribution import Distribution
from sdstream.media.embedded.encoding import EncodedPicture
from sdstream.media.embedded.negotiation import VideoCodec
from sdstream.media.embedded.reports import sender_report
from sdstream.media.embedded.rtp import write_packet
from sdstream.media.embedded.sdp import VIDEO_CLOCK_RATE
from sdstream.media.embedded.sound import SoundPacket
from sdstream.media.embedded.viewer import MOST_BACKLOG, SentTrack, ViewerGate
from sdstream.media.mediamtx.config import LOOPBACK
from sdstream.media.mediamtx.doors import OUR_NAME

VIDEO_TYPE, SOUND_TYPE = 96, 97
VIDEO_CHANNEL, SOUND_CHANNEL = 0, 2
"""Interleaved channels of RTP; the next number is that of RTCP."""
CONNECT_SECONDS = 5.0
REPORT_SECONDS = 1.0
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
NTP_ORIGIN = datetime(1900, 1, 1, tzinfo=UTC)
_HEAD = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=sdstream\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
_VIDEO: dict[VideoCodec, str] = {
    "H264": "a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\n",
    "VP8": "a=rtpmap:96 VP8/90000\r\n",
}
_SOUND = "m=audio 0 RTP/AVP 97\r\na=rtpmap:97 opus/48000/2\r\na=fmtp:97 sprop-stereo=1\r\na=control:trackID=1\r\n"
_FRAME = struct.Struct("!cBH")

log = structlog.get_logger(__name__)


def description(codec: VideoCodec) -> str:
    """The SDP that the output is announced with."""
    return f"{_HEAD}m=video 0 RTP/AVP 96\r\n{_VIDEO[codec]}a=control:trackID=0\r\n{_SOUND}"


class RtspRefused(Exception):
    """MediaMTX did not take the connection."""


class OutputWriter:
    """Publishes `codec` to `path` from `start` to `close`. Implements `PictureSink`, `SoundSink`; for the loop."""

    def __init__(
        self,
        path: str,
        codec: VideoCodec,
        port: int,
        secret: str,
        distribution: Distribution,
        counters: StreamCounters,
        clock: Clock,
    ) -> None:
        self._codec: VideoCodec = codec
        self._url = f"rtsp://{LOOPBACK}:{port}/{path}"
        self._port = port
        self._login = base64.b64encode(f"{OUR_NAME}:{secret}".encode()).decode("ascii")
        self._distribution = distribution
        self._counters = counters
        self._clock = clock
        self._stream: asyncio.StreamWriter | None = None
        self._gate = ViewerGate()
        self._picture = SentTrack(random.getrandbits(32), VIDEO_CLOCK_RATE)
        self._sound = SentTrack(random.getrandbits(32), AUDIO_CLOCK_RATE)
        self._sequence = random.getrandbits(15)
        self._sound_sequence = random.getrandbits(15)
        self._number = 0
        self._task: asyncio.Task[None] | None = None
        self.connected = asyncio.Event()
        """Set while MediaMTX takes what is sent."""

    def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.create_task(self._run(), name="publish to MediaMTX")
        self._distribution.join(self._codec, self, self)

    async def close(self) -> None:
        """Say goodbye. Idempotent."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        unused = self._distribution.leave(self._codec, self, self)
        if unused is not None:
            await unused.close()

    # What the distribution gives

    @property
    def limit(self) -> None:
        """MediaMTX's viewers share one stream, and it passes none of their reports on."""

    def deliver_here(self, picture: EncodedPicture) -> bool:
        """The connection is the loop's."""
        return False

    def deliver(self, picture: EncodedPicture) -> None:
        if self._stream is None:
            return
        dropped = self._gate.dropped
        if not self._gate.admit(keyframe=picture.keyframe, backlog=self._backlog):
            self._counters.drop("viewer_slow", self._gate.dropped - dropped)
            self._distribution.request_keyframe(self._codec)
            return
        track = self._picture
        timestamp, later = track.stamp(picture, self._distribution.presentation(), self._clock.monotonic())
        last = len(picture.payloads) - 1
        for index, payload in enumerate(picture.payloads):
            packet = write_packet(VIDEO_TYPE, index == last, self._sequence, timestamp, track.source, payload)
            self._sequence = (self._sequence + 1) & 0xFFFF
            self._write(VIDEO_CHANNEL, packet)
        track.sent_picture(picture, timestamp, later)

    def deliver_sound(self, packet: SoundPacket) -> None:
        if self._stream is None or self._backlog > MOST_BACKLOG or packet.skipped:
            return
        track = self._sound
        shift = self._distribution.presentation().shift(packet.captured_at)
        timestamp = (track.origin + track.moved(packet.timestamp, shift)) & 0xFFFFFFFF
        data = write_packet(SOUND_TYPE, packet.begins, self._sound_sequence, timestamp, track.source, packet.payload)
        self._sound_sequence = (self._sound_sequence + 1) & 0xFFFF
        self._write(SOUND_CHANNEL, data)
        track.sent(1, len(packet.payload))
        track.place(timestamp, packet.captured_at + shift)

    # The connection

    @property
    def _backlog(self) -> int:
        return 0 if self._stream is None else self._stream.transport.get_write_buffer_size()

    def _write(self, channel: int, data: bytes) -> None:
        if self._stream is not None:
            self._stream.write(_FRAME.pack(b"$", channel, len(data)) + data)

    async def _run(self) -> None:
        pause = FIRST_PAUSE
        while True:
            began = self._clock.monotonic()
            try:
                await self._publish()
            except (OSError, EOFError, TimeoutError, RtspRefused, ValueError) as error:
                log.debug("the connection to MediaMTX ended", error=str(error) or type(error).__name__)
            if self._clock.monotonic() - began > 5.0:
                pause = FIRST_PAUSE
            await asyncio.sleep(pause)
            pause = min(LONGEST_PAUSE, pause * 2)

    async def _publish(self) -> None:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(LOOPBACK, self._port)
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                await self._open(reader, writer)
            self._gate = ViewerGate()
            self._stream = writer
            self.connected.set()
            self._distribution.request_keyframe(self._codec)
            await self._drain(reader)
        finally:
            self._stream = None
            self.connected.clear()
            with contextlib.suppress(OSError, RuntimeError):
                writer.write(self._request("TEARDOWN", self._url, None))
            writer.close()

    async def _open(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        session: str | None = None
        await self._ask(reader, writer, "ANNOUNCE", self._url, session, description(self._codec))
        for track, channel in enumerate((VIDEO_CHANNEL, SOUND_CHANNEL)):
            transport = f"RTP/AVP/TCP;unicast;interleaved={channel}-{channel + 1};mode=record"
            headers = await self._ask(
                reader, writer, "SETUP", f"{self._url}/trackID={track}", session, transport=transport
            )
            session = headers.get("session", "").partition(";")[0]
        await self._ask(reader, writer, "RECORD", self._url, session)

    def _request(
        self, method: str, url: str, session: str | None, body: str = "", transport: str | None = None
    ) -> bytes:
        self._number += 1
        lines = [f"{method} {url} RTSP/1.0", f"CSeq: {self._number}", f"Authorization: Basic {self._login}"]
        if session:
            lines.append(f"Session: {session}")
        if transport:
            lines.append(f"Transport: {transport}")
        if body:
            lines += ["Content-Type: application/sdp", f"Content-Length: {len(body.encode())}"]
        return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()

    async def _ask(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        method: str,
        url: str,
        session: str | None,
        body: str = "",
        transport: str | None = None,
    ) -> dict[str, str]:
        writer.write(self._request(method, url, session, body, transport))
        head = (await reader.readuntil(b"\r\n\r\n")).decode("utf-8", "replace").split("\r\n")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
        length = int(headers.get("content-length") or 0)
        if length:
            await reader.readexactly(length)
        if " 200 " not in f"{head[0]} ":
            raise RtspRefused(f"{method}: {head[0]}")
        return headers

    async def _drain(self, reader: asyncio.StreamReader) -> None:
        """Read what comes until the connection ends, and report the clocks each second meanwhile."""
        reporting = asyncio.create_task(self._report())
        try:
            while await reader.read(65536):
                pass
        finally:
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_SECONDS)
            now = self._clock.monotonic()
            ntp = round((self._clock.now() - NTP_ORIGIN).total_seconds() * (1 << 32))
            for channel, track in ((VIDEO_CHANNEL, self._picture), (SOUND_CHANNEL, self._sound)):
                timestamp = track.reading(now)
                if timestamp is not None:
                    report = sender_report(track.source, "sdstream", ntp, timestamp, track.packets, track.octets)
                    self._write(channel + 1, report)


__all__ = ["OutputWriter"]
