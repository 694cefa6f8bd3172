"""An RTMP publisher over asyncio: handshake, chunks, the few commands of publishing, FLV bodies.

libav's own RTMP output cannot be interrupted by PyAV while a peer takes nothing, nor be told which address a name was
checked to have; here every wait has a limit and the address that was checked is the one that is dialled.
"""

import asyncio
import contextlib
import itertools
import os
import ssl
import struct
from dataclasses import dataclass
from urllib.parse import parse_qsl, urlsplit

from sdstream.frames import PictureSize
from sdstream.media.embedded.outputs import amf
from sdstream.media.embedded.rtp import split_units
from sdstream.params.delivery import HIDDEN, hide_key

CHUNK = 4096
"""Bytes of the chunks that we send; what every encoder in the field uses."""
LONGEST_MESSAGE = 1 << 20
"""Bytes of the longest message of the server that is read."""
MOST_AT_ONCE, REST_SECONDS = 64, 0.02
"""Chunks of the server that are read before it must wait: one may be a single byte, and a server that sends nothing
else would have the event loop for itself. A server that is published to sends a few in a second."""
STEP_SECONDS = 5.0
"""Each step of connecting may take so long, and so may the server to take what it is sent."""
MOST_UNSENT = 512 * 1024
"""Bytes in the socket's queue from which on it is waited for."""
LEAST_SECRET = 3
"""Characters; shorter ones would be found in any word."""
_PORTS = {"rtmp": 1935, "rtmps": 443}
_SET_CHUNK, _ACKNOWLEDGE, _USER, _WINDOW, _AUDIO, _VIDEO, _DATA, _COMMAND = 1, 3, 4, 5, 8, 9, 18, 20
_CONTROL_STREAM, _COMMAND_STREAM, _AUDIO_STREAM, _VIDEO_STREAM = 2, 3, 4, 6


class RtmpError(Exception):
    """The server refused, ended or garbled the connection. The text holds no stream key."""


@dataclass(frozen=True, slots=True)
class RtmpTarget:
    """Where to publish. `key` is the secret part of the path; `label` is what may be shown."""

    url: str

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        parts = urlsplit(self.url)
        return parts.port or _PORTS[parts.scheme.lower()]

    @property
    def secure(self) -> bool:
        return urlsplit(self.url).scheme.lower() == "rtmps"

    @property
    def application(self) -> str:
        return self._path()[0]

    @property
    def key(self) -> str:
        return self._path()[1]

    @property
    def connect_url(self) -> str:
        """What the protocol calls tcUrl."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/{self.application}"

    @property
    def label(self) -> str:
        """The target without its key."""
        return hide_key(self.url)

    @property
    def secrets(self) -> tuple[str, ...]:
        """What no message may tell, though a server tells it: all that `label` leaves out, the longest first."""
        parts = urlsplit(self.url)
        # Where there is no key, what is called the application may well be one.
        path = parts.path.strip("/")
        values = (value for _, value in parse_qsl(parts.query))
        told = {
            self.key,
            path,
            path.rpartition("/")[2],
            parts.query,
            *values,
            parts.username or "",
            parts.password or "",
        }
        return tuple(sorted((secret for secret in told if len(secret) >= LEAST_SECRET), key=len, reverse=True))

    def _path(self) -> tuple[str, str]:
        parts = urlsplit(self.url)
        path = parts.path.strip("/")
        # The last part is the key, the rest the application: some services have applications with slashes.
        application, _, key = path.rpartition("/") if "/" in path else (path, "", "")
        key += f"?{parts.query}" if parts.query else ""
        return application, key + (f"#{parts.fragment}" if parts.fragment else "")  # RTMP has no fragments


class RtmpPublisher:
    """One connection. `open`, then pictures and sound with milliseconds that do not fall, then `close`."""

    def __init__(self, target: RtmpTarget, address: str) -> None:
        self._target = target
        self._address = address
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._results: dict[float, asyncio.Future[list[amf.Value]]] = {}
        self._started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._failure: RtmpError | None = None
        self._stream = 0
        self._their_chunk = 128
        self._window = 2_500_000
        self._received = 0
        self._acknowledged = 0
        self.bytes_sent = 0

    async def open(self) -> None:
        """Connect and begin to publish. Raises `RtmpError`, `OSError` or `TimeoutError`."""
        target = self._target
        # On a thread: it reads the system's certificates from disk.
        context = await asyncio.to_thread(ssl.create_default_context) if target.secure else None
        async with asyncio.timeout(STEP_SECONDS):
            self._reader, self._writer = await asyncio.open_connection(
                self._address, target.port, ssl=context, server_hostname=target.host if context else None
            )
        self._writer.transport.set_write_buffer_limits(MOST_UNSENT)
        async with asyncio.timeout(STEP_SECONDS):
            await self._shake_hands()
        self._reading = asyncio.create_task(self._read())
        self._send(_CONTROL_STREAM, _SET_CHUNK, struct.pack("!I", CHUNK))
        facts = {
            "app": target.application,
            "type": "nonprivate",
            "flashVer": "FMLE/3.0 (compatible; sdstream)",
            "tcUrl": target.connect_url,
        }
        await self._call(1, amf.encode("connect", 1, facts))
        self._command(amf.encode("releaseStream", 2, None, target.key))
        self._command(amf.encode("FCPublish", 3, None, target.key))
        answer = await self._call(4, amf.encode("createStream", 4, None))
        self._stream = _stream_number(answer[3] if len(answer) > 3 else None)
        self._command(amf.encode("publish", 5, None, target.key, "live"), self._stream)
        async with asyncio.timeout(STEP_SECONDS):
            await self._wait(self._started)

    def check(self) -> None:
        """Raise `RtmpError` when the connection is gone."""
        if self._failure is not None:
            raise self._failure
        if self._writer is None or self._reading is None or self._reading.done():
            raise RtmpError("the server closed the connection")

    def describe(
        self, size: PictureSize, rate: float | None, configuration: bytes, keyframe: bytes, milliseconds: int
    ) -> None:
        """Tell what comes: size, pictures a second where known, the headers of H.264 (of a `keyframe`) and AAC."""
        facts: dict[str, float | bool | str] = {
            "width": size.width,
            "height": size.height,
            **({} if rate is None else {"framerate": rate}),
            "videocodecid": 7,
            "audiocodecid": 10,
            "audiosamplerate": 48000,
            "audiosamplesize": 16,
            "stereo": True,
            "encoder": "sdstream",
        }
        self._send(_AUDIO_STREAM, _DATA, amf.encode("@setDataFrame", "onMetaData", facts), self._stream, milliseconds)
        self._send(_VIDEO_STREAM, _VIDEO, avc_header(keyframe), self._stream, milliseconds)
        self._send(_AUDIO_STREAM, _AUDIO, b"\xaf\x00" + configuration, self._stream, milliseconds)

    async def send_picture(self, data: bytes, milliseconds: int, *, keyframe: bool) -> None:
        """Send one Annex B picture. Waits while the server takes nothing; raises as `open` does."""
        body = bytes((0x17 if keyframe else 0x27, 1, 0, 0, 0)) + avc_units(data)
        self._send(_VIDEO_STREAM, _VIDEO, body, self._stream, milliseconds)
        await self._drain()

    async def send_sound(self, data: bytes, milliseconds: int) -> None:
        """Send one packet of AAC."""
        self._send(_AUDIO_STREAM, _AUDIO, b"\xaf\x01" + data, self._stream, milliseconds)
        await self._drain()

    async def close(self, *, politely: bool = True) -> None:
        """End the connection. Idempotent; never waits for the server for long."""
        writer, self._writer = self._writer, None
        reading, self._reading = self._reading, None
        try:
            if writer is not None:
                await self._take_leave(writer, politely=politely)
        finally:  # also where somebody does not wait for it: a server takes a key once at a time
            if writer is not None:
                writer.transport.abort()
            if reading is not None:
                reading.cancel()
            for waiting in (*self._results.values(), self._started):
                waiting.cancel()
        if reading is not None:
            await asyncio.gather(reading, return_exceptions=True)

    async def _take_leave(self, writer: asyncio.StreamWriter, *, politely: bool) -> None:
        if politely and self._failure is None and self._stream:
            self._writer = writer
            self._command(amf.encode("FCUnpublish", 6, None, self._target.key))
            self._command(amf.encode("deleteStream", 7, None, self._stream))
            self._writer = None
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(0.5):
                    await writer.drain()
        writer.transport.abort() if not politely or self._failure else writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(0.5):
                await writer.wait_closed()

    async def _shake_hands(self) -> None:
        assert self._writer is not None
        self._writer.write(b"\x03" + bytes(8) + os.urandom(1528))
        first = await self._exactly(1537)
        if first[0] != 3:
            raise RtmpError("the server speaks no RTMP")
        self._writer.write(first[1:])
        await self._exactly(1536)

    async def _exactly(self, count: int) -> bytes:
        assert self._reader is not None
        try:
            return await self._reader.readexactly(count)
        except asyncio.IncompleteReadError:
            raise RtmpError("the server closed the connection") from None

    # Out

    def _command(self, body: bytes, stream: int = 0) -> None:
        self._send(_COMMAND_STREAM, _COMMAND, body, stream)

    async def _call(self, number: float, body: bytes) -> list[amf.Value]:
        future = self._results[number] = asyncio.get_running_loop().create_future()
        self._command(body)
        async with asyncio.timeout(STEP_SECONDS):
            await self._wait(future)
        return future.result()

    async def _wait(self, future: "asyncio.Future[list[amf.Value]] | asyncio.Future[None]") -> None:
        assert self._reading is not None
        await asyncio.wait({future, self._reading}, return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            raise self._failure or RtmpError("the server closed the connection")
        future.result()

    def _send(self, channel: int, kind: int, body: bytes, stream: int = 0, milliseconds: int = 0) -> None:
        if self._writer is None:
            return
        milliseconds &= 0xFFFFFFFF
        late = milliseconds >= 0xFFFFFF
        extended = struct.pack("!I", milliseconds) if late else b""
        head = struct.pack("!I", min(milliseconds, 0xFFFFFF))[1:] + struct.pack("!I", len(body))[1:]
        parts = [bytes((channel,)), head, bytes((kind,)), struct.pack("<I", stream), extended, body[:CHUNK]]
        for position in range(CHUNK, len(body), CHUNK):
            parts += (bytes((0xC0 | channel,)), extended, body[position : position + CHUNK])
        data = b"".join(parts)
        self.bytes_sent += len(data)
        self._writer.write(data)

    async def _drain(self) -> None:
        self.check()
        assert self._writer is not None
        async with asyncio.timeout(STEP_SECONDS):
            await self._writer.drain()

    # In

    async def _read(self) -> None:
        try:
            await self._read_chunks()
        except RtmpError as error:
            self._failure = error
        except (OSError, ValueError, struct.error) as error:
            self._failure = RtmpError(self._hide(str(error)) or "the connection was lost")

    async def _read_chunks(self) -> None:
        heads: dict[int, tuple[int, int, bool]] = {}
        bodies: dict[int, bytearray] = {}
        for count in itertools.count(1):
            if count % MOST_AT_ONCE == 0:
                await asyncio.sleep(REST_SECONDS)
            first = (await self._exactly(1))[0]
            form, channel = first >> 6, first & 63
            if channel < 2:
                more = await self._exactly(channel + 1)
                channel = 64 + more[0] + (more[1] << 8 if channel else 0)
            taken = 1
            size, kind, late = heads.get(channel, (0, 0, False))
            if form < 3:
                head = await self._exactly((11, 7, 3)[form])
                taken += len(head)
                late = head[:3] == b"\xff\xff\xff"
                if form < 2:
                    size, kind = int.from_bytes(head[3:6], "big"), head[6]
                heads[channel] = size, kind, late
            if late:
                await self._exactly(4)
                taken += 4
            if size > LONGEST_MESSAGE or len(bodies) > 64:
                raise RtmpError("the server sends messages that no RTMP server sends")
            body = bodies.setdefault(channel, bytearray())
            part = await self._exactly(min(self._their_chunk, size - len(body)))
            body += part
            self._count(taken + len(part))
            if len(body) >= size:
                del bodies[channel]
                self._take(kind, bytes(body))

    def _count(self, count: int) -> None:
        self._received += count
        if self._received - self._acknowledged >= self._window:
            self._acknowledged = self._received
            self._send(_CONTROL_STREAM, _ACKNOWLEDGE, struct.pack("!I", self._received & 0xFFFFFFFF))

    def _take(self, kind: int, body: bytes) -> None:
        if kind == _SET_CHUNK:
            self._their_chunk = max(1, struct.unpack("!I", body[:4])[0] & 0x7FFFFFFF)
        elif kind == _WINDOW:
            self._window = max(1, struct.unpack("!I", body[:4])[0] // 2)
        elif kind == _USER and body[:2] == b"\x00\x06":  # a ping, to be sent back
            # As much of it as a ping has: what a server that takes nothing is owed lies in memory.
            self._send(_CONTROL_STREAM, _USER, b"\x00\x07" + body[2:6])
        elif kind == _COMMAND:
            self._obey(amf.decode(body))

    def _obey(self, values: list[amf.Value]) -> None:
        name = values[0] if values else None
        number = values[1] if len(values) > 1 else None
        if name in ("_result", "_error") and isinstance(number, float):
            waiting = self._results.pop(number, None)
            if name == "_error" and int(number) in (1, 4):
                raise RtmpError(self._reason(values))
            if waiting is not None and not waiting.done():
                waiting.set_result(values)
        elif name == "onStatus":
            facts = values[3] if len(values) > 3 else None
            code = facts.get("code") if isinstance(facts, dict) else None
            level = facts.get("level") if isinstance(facts, dict) else None
            if code == "NetStream.Publish.Start":
                if not self._started.done():
                    self._started.set_result(None)
            elif level == "error" or code in ("NetStream.Unpublish.Success", "NetStream.Publish.BadName"):
                raise RtmpError(self._reason(values))
        elif name == "close":
            raise RtmpError("the server ended the connection")

    def _reason(self, values: list[amf.Value]) -> str:
        nothing: dict[str, amf.Value] = {}
        facts = next((value for value in reversed(values) if isinstance(value, dict)), nothing)
        told = " ".join(str(facts[name]) for name in ("code", "description") if facts.get(name))
        return self._hide(f"the server refused: {told[:200] or 'without a reason'}")

    def _hide(self, text: str) -> str:
        for secret in self._target.secrets:
            text = text.replace(secret, HIDDEN)
        return text


def _stream_number(told: amf.Value) -> int:
    """The number of the stream that the server has made; 1, which all give, when it says none. Raises `RtmpError`."""
    if not isinstance(told, float):
        return 1
    if not 0 <= told <= 0xFFFFFFFF:
        raise RtmpError("the server numbers its streams as no RTMP server does")
    return int(told)


def avc_header(keyframe: bytes) -> bytes:
    """The video tag with the decoder's configuration, out of the parameter sets of an Annex B keyframe."""
    units = split_units(keyframe)
    sequence = next(unit for unit in units if unit[0] & 31 == 7)
    picture = next(unit for unit in units if unit[0] & 31 == 8)
    record = b"\x01" + sequence[1:4] + b"\xff\xe1" + struct.pack("!H", len(sequence)) + sequence
    return b"\x17\x00\x00\x00\x00" + record + b"\x01" + struct.pack("!H", len(picture)) + picture


def avc_units(data: bytes) -> bytes:
    """An Annex B picture with lengths in front of its units, parameter sets and delimiters left out."""
    return b"".join(struct.pack("!I", len(unit)) + unit for unit in split_units(data) if unit[0] & 31 not in (7, 8, 9))


__all__ = ["RtmpError", "RtmpPublisher", "RtmpTarget", "avc_header", "avc_units"]
