"""The test camera of `sdstream publish`: pictures of a file or of a generated card, encoded and paced."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, Protocol

import av
import av.error
import numpy
from aiortc import MediaStreamTrack, RTCRtpSender
from aiortc.mediastreams import MediaStreamError
from av.video.frame import PictureType
from av.video.reformatter import ColorRange

from sdstream.clock import SystemClock
from sdstream.commands.stamp import write_stamp
from sdstream.errors import CommandFailed
from sdstream.frames import VIDEO_CLOCK, I420Frame, PictureSize, Plane, split_planes
from sdstream.media.files.reader import VideoReader, from_i420

Codec = Literal["h264", "vp8", "jpeg"]
KEYFRAME_SECONDS = 1.0
LATE_SECONDS = 1.0
"""A picture that is later than this is not sent any more: the program was suspended, or the machine cannot keep up."""
SILENCE_SECONDS = 1.0
"""One is sent so often even then: whoever can never keep up shows some pictures, not none."""
_BARS = ((180, 128, 128), (162, 44, 142), (131, 156, 44), (112, 72, 58), (84, 184, 198), (65, 100, 212), (35, 212, 114))
"""Y, U, V of the seven bars at 75 %, limited range BT.601: grey yellow cyan green magenta red blue."""


@dataclass(frozen=True, slots=True)
class TimedPicture:
    """A picture and the second, counted from the first one, at which it is due."""

    picture: Any
    """An `av.VideoFrame`, yuv420p."""
    seconds: float


def is_dropped(due: float, now: float, sent_at: float, *, dropping: bool) -> bool:
    """Whether a picture that was due at `due` is left out; the last one was sent at `sent_at`, and `dropping` says that
    the one before this was left out. All are seconds of one clock. Once pictures are left out, all late ones are:
    those that follow come in their own time and in no burst."""
    return now - due > (0.0 if dropping else LATE_SECONDS) and now - sent_at < SILENCE_SECONDS


class PictureSource(Protocol):
    """Where a camera's pictures come from; read on a thread."""

    @property
    def rate(self) -> float:
        """Pictures a second, for the encoder's rate control."""
        ...

    def pictures(self) -> Iterator[TimedPicture]: ...


class FilePictures:
    """The pictures of a file at its own rate, or at `rate`; again from the start for ever when `loop` is set."""

    def __init__(self, reader: VideoReader, size: PictureSize, rate: float | None, *, loop: bool) -> None:
        self._reader = reader
        self._size = size
        self._fixed_rate = rate
        self._loop = loop
        self._own_rate = float(reader.facts().rate or 25)

    @property
    def rate(self) -> float:
        return self._fixed_rate or self._own_rate

    def pictures(self) -> Iterator[TimedPicture]:
        begin, seconds, number = 0.0, 0.0, 0
        while True:
            origin: Fraction | None = None
            for picture in self._reader.pictures():
                moment = picture.pts * picture.time_base
                origin = moment if origin is None else origin
                seconds = number / self._fixed_rate if self._fixed_rate else begin + float(moment - origin)
                number += 1
                yield TimedPicture(self._scaled(picture), seconds)
            if not self._loop or origin is None:
                return
            begin = seconds + 1 / self.rate
            self._reader.rewind()

    def _scaled(self, picture: I420Frame) -> Any:
        frame = from_i420(picture)
        if picture.size == self._size:
            return frame
        return frame.reformat(width=self._size.width, height=self._size.height)


class TestCard:
    """Colour bars, a ramp and a white bar that moves one step a picture."""

    __test__ = False

    def __init__(self, size: PictureSize, rate: float) -> None:
        self.rate = rate
        self._size = size
        self._background = _draw_bars(size)

    def pictures(self) -> Iterator[TimedPicture]:
        width, height = self._size.width, self._size.height
        number = 0
        while True:
            packed = self._background.copy()
            y, u, v = split_planes(packed, self._size)
            left = number * 4 % max(1, width - 16) & ~1
            rows = slice(height * 7 // 8 & ~1, height)
            y[rows, left : left + 16] = 235
            yield TimedPicture(from_i420(I420Frame(y, u, v)), number / self.rate)
            number += 1


class CameraTrack(MediaStreamTrack):
    """Encodes a source's pictures and hands them to aiortc when they are due; ends after `duration` seconds.

    aiortc only cuts the packets: encoding here keeps the rate, the size and the keyframes ours. `numbered` draws each
    picture's number into it (see `stamp`).
    """

    kind = "video"

    def __init__(
        self,
        source: PictureSource,
        codec: Codec,
        bitrate: int,
        *,
        duration: float | None = None,
        numbered: bool = False,
        now: Callable[[], float] = SystemClock().monotonic,
    ) -> None:
        super().__init__()
        self.sent = 0
        self.keyframes = 0
        self.late = 0
        """Pictures that were ready more than a picture's time after they were due, and were sent."""
        self.dropped = 0
        """Pictures that were left out, because they were too late."""
        self.finished = asyncio.Event()
        self.failure: Exception | None = None
        """What ended the track before its time; to be looked at once `finished`."""
        self._source = source
        self._pictures = source.pictures()
        self._codec: Codec = codec
        self._bitrate = bitrate
        self._duration = duration
        self._numbered = numbered
        self._encoder: Any = None
        self._made = 0
        self._wants_keyframe = False
        self._last_keyframe = 0.0
        self._now = now
        self._started: float | None = None
        self._sent_at = 0.0
        self._dropping = False
        self._ahead: asyncio.Task[tuple[Any, float] | None] | None = None

    def obey(self, sender: RTCRtpSender) -> None:
        """Make a keyframe when the server asks `sender` for one; aiortc asks nobody when it only cuts packets."""

        def wanted() -> None:
            self._wants_keyframe = True

        sender._send_keyframe = wanted  # pyright: ignore[reportAttributeAccessIssue, reportPrivateUsage]

    async def recv(self) -> Any:
        ahead = self._ahead or asyncio.ensure_future(asyncio.to_thread(self._next_packet))
        try:
            made = await ahead
        except Exception as error:  # noqa: BLE001 -- supervisor: aiortc would log it and leave the session standing
            self.failure, made = error, None
        if made is None or self.readyState != "live":
            self.finished.set()
            self.stop()
            raise MediaStreamError
        packet, seconds = made
        now = self._now()
        if self._started is None:
            self._started = now - seconds
        self._sent_at = max(now, self._started + seconds)
        self._ahead = asyncio.ensure_future(asyncio.to_thread(self._next_packet))
        wait = self._started + seconds - now
        if wait > 0:
            await asyncio.sleep(wait)
        elif wait < -1 / self._source.rate:
            self.late += 1
        self.sent += 1
        return packet

    async def close(self) -> None:
        """End the track and wait for the picture that is being made."""
        self.stop()
        if self._ahead is not None:
            await asyncio.wait([self._ahead])

    def _next_packet(self) -> tuple[Any, float] | None:
        """Make the next packet; pictures that are too late or that the encoder swallows are passed over. None at the
        end."""
        for timed in self._pictures:
            if self._duration is not None and timed.seconds >= self._duration:
                return None
            number, self._made = self._made, self._made + 1
            if self._started is not None:
                due = self._started + timed.seconds
                self._dropping = is_dropped(due, self._now(), self._sent_at, dropping=self._dropping)
                if self._dropping:
                    self.dropped += 1
                    continue
            if self._numbered:
                _stamp(timed.picture, number)
            data = self._encode(timed)
            if data:
                packet = av.Packet(data)
                packet.pts = round(timed.seconds / VIDEO_CLOCK)
                packet.time_base = VIDEO_CLOCK
                return packet, timed.seconds
        return None

    def _encode(self, timed: TimedPicture) -> bytes:
        frame = timed.picture
        due = self.keyframes == 0 or timed.seconds - self._last_keyframe >= KEYFRAME_SECONDS
        frame.pts = round(timed.seconds / VIDEO_CLOCK)
        frame.time_base = VIDEO_CLOCK
        frame.pict_type = PictureType.NONE
        if due or self._wants_keyframe:
            self._wants_keyframe = False
            frame.pict_type = PictureType.I
        packets = self._packets(frame)
        if any(packet.is_keyframe for packet in packets):
            self.keyframes += 1
            self._last_keyframe = timed.seconds
        return b"".join(bytes(packet) for packet in packets)

    def _packets(self, frame: Any) -> list[Any]:
        try:
            if self._encoder is None:
                self._encoder = _open_encoder(self._codec, frame.width, frame.height, self._source.rate, self._bitrate)
            if self._codec == "jpeg":
                frame = frame.reformat(
                    format="yuvj420p", src_color_range=ColorRange.MPEG, dst_color_range=ColorRange.JPEG
                )
            return list(self._encoder.encode(frame))
        except (av.error.FFmpegError, ValueError, OverflowError) as error:
            raise CommandFailed(
                f"{frame.width}x{frame.height} at {self._source.rate:g} pictures and {self._bitrate} bits a second "
                f"cannot be encoded as {self._codec}: {getattr(error, 'strerror', None) or error}"
            ) from None


def _open_encoder(codec: Codec, width: int, height: int, rate: float, bitrate: int) -> Any:
    encoder: Any = av.CodecContext.create({"h264": "libx264", "vp8": "libvpx", "jpeg": "mjpeg"}[codec], "w")
    if codec == "h264":
        encoder.profile = "Baseline"
        encoder.options = {"preset": "veryfast", "tune": "zerolatency", "forced-idr": "1"}
    elif codec == "vp8":
        encoder.options = {"deadline": "realtime", "cpu-used": "6", "lag-in-frames": "0", "error-resilient": "1"}
    encoder.width, encoder.height = width, height
    encoder.pix_fmt = "yuvj420p" if codec == "jpeg" else "yuv420p"
    encoder.bit_rate = bitrate
    if codec != "h264":
        # libvpx's threads wait for each other without sleeping: beside other work they slow each other down. Those for
        # JPEG give a picture away only when the next ones have come.
        encoder.thread_count = 1
    encoder.framerate = Fraction(rate).limit_denominator(1001)
    encoder.time_base = VIDEO_CLOCK
    return encoder


def _draw_bars(size: PictureSize) -> Plane:
    packed = numpy.empty(size.byte_count, numpy.uint8)
    y, u, v = split_planes(packed, size)
    for index, (luma, blue, red) in enumerate(_BARS):
        left, right = (index * size.width // 7) & ~1, ((index + 1) * size.width // 7) & ~1
        right = size.width if index == len(_BARS) - 1 else right
        y[:, left:right] = luma
        u[:, left // 2 : right // 2] = blue
        v[:, left // 2 : right // 2] = red
    ramp, bottom = size.height * 3 // 4 & ~1, size.height * 7 // 8 & ~1
    y[ramp:bottom] = numpy.linspace(16, 235, size.width).astype(numpy.uint8)
    y[bottom:] = 16
    u[ramp // 2 :] = 128
    v[ramp // 2 :] = 128
    return packed


def _stamp(frame: Any, number: int) -> None:
    planes = [
        numpy.frombuffer(plane, numpy.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
        for plane in frame.planes
    ]
    write_stamp(planes[0], planes[1], planes[2], number)


__all__ = ["CameraTrack", "Codec", "FilePictures", "PictureSource", "TestCard", "TimedPicture", "is_dropped"]
