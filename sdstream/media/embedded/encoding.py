"""Encoders of the output: H.264 by x264 or NVENC, VP8 by libvpx, each behind `PictureEncoder`."""

from collections.abc import Callable
from fractions import Fraction
from typing import Any, Literal, cast

import av
import msgspec
import structlog
from av.error import FFmpegError
from av.video.codeccontext import VideoCodecContext
from av.video.frame import PictureType, VideoFrame

from sdstream.errors import ConfigurationError
from sdstream.frames import VIDEO_CLOCK, PictureSize
from sdstream.media.embedded.negotiation import VideoCodec
from sdstream.media.embedded.rates import NOMINAL_RATE
from sdstream.media.embedded.rtp import pack_h264, pack_vp8

H264Encoder = Literal["x264", "nvenc"]
BUFFER_SECONDS = 0.2
"""How much of the bitrate one burst may take: a keyframe stays below 40 packets and passes in 200 ms."""
BUFFER_PICTURES = 4
"""The same of few pictures a second, counted in them: a keyframe is three ordinary ones at least."""
KEYFRAME_SECONDS = 1.0
LEAST_KEYFRAME_SECONDS = 0.5

_LEVELS: tuple[tuple[str, int, int], ...] = (
    ("3.1", 3600, 108_000),
    ("3.2", 5120, 216_000),
    ("4.0", 8192, 245_760),
    ("4.2", 8704, 522_240),
    ("5.1", 36_864, 983_040),
    ("5.2", 36_864, 2_073_600),
)
"""H.264 level, and its limits in macroblocks a picture and a second (ITU-T H.264, table A-1)."""

log = structlog.get_logger(__name__)


class EncodedPicture(msgspec.Struct, frozen=True):
    """A picture cut into RTP payloads, and whole as `data` (Annex B for H.264).

    `timestamp` counts 90 kHz ticks and does not wrap. `captured_at` is the monotonic second that it stands for.
    `is_live` says that a camera took it then, which placards and repetitions are not. It was encoded at `encoded_at`.
    """

    payloads: tuple[bytes, ...]
    timestamp: int
    keyframe: bool
    byte_count: int
    data: bytes
    size: PictureSize
    captured_at: float = 0.0
    is_live: bool = False
    encoded_at: float = 0.0


class KeyframePolicy:
    """Decides which pictures are keyframes: one a second, and on demand, but no more than two a second."""

    def __init__(self) -> None:
        self._last: float | None = None
        self._requested = False

    def request(self) -> None:
        """Ask for a keyframe at the next chance."""
        self._requested = True

    def due(self, now: float) -> bool:
        """Whether the picture that is encoded at `now` is to be a keyframe."""
        if self._last is None:
            return True
        age = now - self._last
        return age >= KEYFRAME_SECONDS - 0.004 or (self._requested and age >= LEAST_KEYFRAME_SECONDS)

    def made(self, now: float) -> None:
        """A keyframe was encoded at `now`."""
        self._last = now
        self._requested = False


class PictureEncoder:
    """An encoder of one size. Not safe between threads."""

    def __init__(
        self,
        codec: VideoCodec,
        size: PictureSize,
        bitrate: int,
        h264_encoder: H264Encoder = "x264",
        most_rate: float = NOMINAL_RATE,
        rate: float = NOMINAL_RATE,
    ) -> None:
        """`bitrate` is kept by `rate` pictures a second; `most_rate` of them the level of H.264 must allow.

        What the decoder is told does not depend on `rate`, so a stream goes on unbroken when that changes.
        """
        self.codec: VideoCodec = codec
        self.size = size
        self.bitrate = bitrate
        self.rate = rate
        self._begun = False
        self.picture_id = 0
        """Of the next VP8 picture, 15 bits; an encoder that takes another's place goes on with its number."""
        buffer = round(bitrate * max(BUFFER_SECONDS, BUFFER_PICTURES / rate))
        # The H.264 encoders count pictures of the nominal rate, whatever the time stamps say.
        per_second = round(bitrate * NOMINAL_RATE / rate)
        if codec == "VP8":
            context = _open_vp8(size, bitrate, buffer)
        elif h264_encoder == "nvenc":
            context = _open_nvenc(size, per_second, buffer, most_rate)
        else:
            context = _open_x264(size, per_second, buffer, most_rate)
        self._make: Callable[[VideoFrame], list[Any]] = cast(Any, context).encode
        if codec == "H264" and h264_encoder == "x264":
            self._settle()

    def encode(self, frame: VideoFrame, timestamp: int, *, keyframe: bool) -> EncodedPicture | None:
        """Encode yuv420p, BT.601, limited range, at 90 kHz `timestamp`, 0 or more. None when the encoder skipped it.

        The first picture is a keyframe in any case.

        Raises `av.FFmpegError` when the encoder fails; it must not be used again then.
        """
        packets = self._packets(frame, timestamp, keyframe=keyframe or not self._begun)
        if not packets:
            return None
        self._begun = True
        data, key = bytes(packets[0]), packets[0].is_keyframe
        for packet in packets[1:]:
            data, key = data + bytes(packet), key or packet.is_keyframe
        if self.codec == "H264":
            payloads = pack_h264(data)
        else:
            payloads = pack_vp8(data, self.picture_id)
            self.picture_id = (self.picture_id + 1) & 0x7FFF
        return EncodedPicture(tuple(payloads), timestamp, key, len(data), data, self.size)

    def _packets(self, frame: VideoFrame, timestamp: int, *, keyframe: bool) -> list[Any]:
        frame.pts = timestamp
        frame.time_base = VIDEO_CLOCK
        frame.pict_type = PictureType.I if keyframe else PictureType.NONE
        return self._make(frame)

    def _settle(self) -> None:
        """Have x264 encode a grey picture that nobody gets.

        It codes its very first picture with a quantiser that does not depend on the bitrate: where there are bits for
        more, that one would be coarse among its neighbours.
        """
        grey = VideoFrame(self.size.width, self.size.height, "yuv420p")
        for plane in grey.planes:
            plane.update(bytes((128,)) * plane.buffer_size)
        self._packets(grey, -VIDEO_CLOCK.denominator, keyframe=True)


def h264_level(size: PictureSize, rate: float = NOMINAL_RATE) -> str:
    """The lowest level, 3.1 or more, that carries `size` at `rate` pictures a second."""
    blocks = ((size.width + 15) // 16) * ((size.height + 15) // 16)
    for level, per_picture, per_second in _LEVELS:
        if blocks <= per_picture and blocks * rate <= per_second:
            return level
    return _LEVELS[-1][0]


def choose_h264_encoder(wanted: Literal["auto", "x264", "nvenc"]) -> H264Encoder:
    """Probe NVENC unless x264 is asked for. Takes up to a second on a machine with a GPU.

    Raises `ConfigurationError` when NVENC is asked for and cannot be used here.
    """
    if wanted == "x264":
        return "x264"
    problem = _probe_nvenc()
    if problem is None:
        return "nvenc"
    if wanted == "nvenc":
        raise ConfigurationError(
            f"video_encoder is nvenc, but it cannot be used here: {problem}",
            hint="Set SDSTREAM_VIDEO_ENCODER=auto; many data-centre GPUs have no encoder.",
        )
    log.debug("NVENC is not used", reason=problem)
    return "x264"


def _probe_nvenc() -> str | None:
    size = PictureSize(256, 256)
    try:
        encoder = PictureEncoder("H264", size, 500_000, "nvenc")
        for index in range(3):
            made = encoder.encode(VideoFrame(size.width, size.height, "yuv420p"), index * 3000, keyframe=index == 0)
            if made is not None:
                return None
    except (FFmpegError, OSError, ValueError) as error:
        return str(error)
    return "it delays its output"


def _open(name: str, size: PictureSize, bitrate: int, options: dict[str, str]) -> VideoCodecContext:
    context = cast(Any, av.CodecContext.create(name, "w"))
    context.width, context.height = size.width, size.height
    context.pix_fmt = "yuv420p"
    context.framerate = Fraction(NOMINAL_RATE, 1)
    context.time_base = VIDEO_CLOCK
    context.bit_rate = bitrate
    context.max_b_frames = 0
    context.color_range = 1  # limited
    context.colorspace = 6  # BT.601, 525 lines: what a decoder assumes of small pictures anyway
    context.color_primaries = 6
    context.color_trc = 6
    context.thread_count = 1
    context.options = options
    return cast(VideoCodecContext, context)


def _open_x264(size: PictureSize, bitrate: int, buffer: int, rate: float) -> VideoCodecContext:
    options = {
        "preset": "ultrafast",
        "tune": "zerolatency",
        "profile": "baseline",
        "level": h264_level(size, rate),
        "forced-idr": "1",
        "g": "600",  # keyframes are made by the clock; this is only the far end
        "maxrate": str(bitrate),
        "bufsize": str(buffer),
        # A scene cut would make x264 insert an I picture that nobody asked for.
        "sc_threshold": "0",
    }
    return _open("libx264", size, bitrate, options)


def _open_nvenc(size: PictureSize, bitrate: int, buffer: int, rate: float) -> VideoCodecContext:
    options = {
        "preset": "p2",
        "tune": "ull",
        "zerolatency": "1",
        "delay": "0",
        "rc": "cbr",
        "profile": "baseline",
        "level": h264_level(size, rate),
        "forced-idr": "1",
        "g": "600",
        "maxrate": str(bitrate),
        "bufsize": str(buffer),
    }
    return _open("h264_nvenc", size, bitrate, options)


def _open_vp8(size: PictureSize, bitrate: int, buffer: int) -> VideoCodecContext:
    options = {
        "deadline": "realtime",
        "cpu-used": "-8",
        "lag-in-frames": "0",
        "minrate": str(bitrate),
        "maxrate": str(bitrate),
        "bufsize": str(buffer),
        "error-resilient": "0",
        "static-thresh": "1",
        "g": "600",
    }
    return _open("libvpx", size, bitrate, options)


__all__ = [
    "EncodedPicture",
    "H264Encoder",
    "KeyframePolicy",
    "PictureEncoder",
    "choose_h264_encoder",
    "h264_level",
]
