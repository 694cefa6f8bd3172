"""The input's way out of MediaMTX: what a publisher sends is read by RTSP over TCP, with libav, on a thread of its own.

The thread only takes packets off the connection and places them in time; pictures are decoded on another, behind a
queue that drops up to a keyframe. So MediaMTX, which throws packets away for a slow reader, never waits for a decoder.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import av
from av.audio.resampler import AudioResampler
from av.error import FFmpegError
from av.packet import Packet

from sdstream.clock import Clock
from sdstream.frames import VIDEO_CLOCK, I420Frame
from sdstream.logs import FoldedReporter
from sdstream.media.embedded.assembly import Picture
from sdstream.media.embedded.capture import AUDIO_CLOCK_RATE, CaptureClock
from sdstream.media.embedded.counters import StreamCounters
from sdstream.media.embedded.decoding import DecoderThread, open_decoder
from sdstream.media.embedded.reports import Reception
from sdstream.media.embedded.sound import ReceivedSound
from sdstream.media.embedded.threads import LoopThread
from sdstream.media.mediamtx.config import LOOPBACK
from sdstream.media.mediamtx.control import RtpCounts
from sdstream.media.mediamtx.doors import OUR_NAME
from sdstream.media.ports import TrackStatistics

OPEN_SECONDS = 6.0
"""A publisher whose first keyframe comes later than this is tried again; MediaMTX asks WHIP's for one each 2 s."""
SILENT_SECONDS = 10.0
PAUSE_SECONDS = 0.3
JOIN_SECONDS = 2.0
OPUS_SAMPLES = 960
OPUS_BITRATE = 96_000
LARGEST_DRIFT = 4800
"""Samples by which sound that is encoded again may lie beside its clock before it is placed anew: 0.1 s."""
OPTIONS = {
    "rtsp_transport": "tcp",
    "fflags": "nobuffer",
    "max_delay": "0",
    "reorder_queue_size": "0",
    "analyzeduration": "500000",
    "fpsprobesize": "0",
    "probesize": "500000",
    "allowed_media_types": "video+audio",
}
_LIBRARIES = {"vp8": "libvpx", "vp9": "libvpx-vp9"}


class OpusLine:
    """Opus of 20 ms from another codec's packets. Raises `av.FFmpegError` for what cannot be decoded."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self._resampler = AudioResampler(format="s16", layout="stereo", rate=AUDIO_CLOCK_RATE, frame_size=OPUS_SAMPLES)
        self._encoder = _open_opus()
        self._next: int | None = None

    def put(self, packet: "Packet[Any]", time: int) -> Iterator[tuple[int, bytes]]:
        """Samples of 48 kHz at which each packet begins, and the packet. `time` is where `packet` begins."""
        for frame in self._decoder.decode(packet):
            if self._next is None or abs(time - self._next) > LARGEST_DRIFT:
                self._next = time
            for piece in self._resampler.resample(frame):
                if piece.samples != OPUS_SAMPLES:
                    continue
                piece.pts = None
                for made in self._encoder.encode(piece):
                    yield self._next, bytes(made)
                    self._next += OPUS_SAMPLES


class InputReader:
    """Reads `path` from its making to `stop`, and again when the connection ends. Made on the event loop.

    `deliver` is called for pictures on the decoder's thread, `on_sound` on the loop.
    """

    def __init__(
        self,
        path: str,
        port: int,
        secret: str,
        deliver: Callable[["InputReader", I420Frame], None],
        on_sound: Callable[["InputReader", ReceivedSound], None],
        counters: StreamCounters,
        clock: Clock,
        faults: FoldedReporter,
    ) -> None:
        self._url = f"rtsp://{OUR_NAME}:{secret}@{LOOPBACK}:{port}/{path}"
        self._on_sound = on_sound
        self._counters = counters
        self._clock = clock
        self._faults = faults
        self._capture = CaptureClock()
        self._stopped = False
        self._pause = threading.Event()
        self._parameters: tuple[str, bytes, bool] = ("h264", b"", True)
        self._begun = False
        self._sequence = 0
        self._receptions: dict[str, Reception] = {}
        """What was read of each kind of track, sound or pictures, since this publisher came."""
        self._decoder = DecoderThread(
            "input",
            lambda frame: deliver(self, frame),
            lambda: None,  # nobody can be asked for a keyframe: MediaMTX asks WHIP publishers by itself
            self.stop,
            counters,
            clock,
            faults,
            make_context=self._open_decoder,
        )
        try:
            self._thread = LoopThread("read-mediamtx", self._run)
        except BaseException:
            self._decoder.stop()
            raise

    def stop(self) -> None:
        """Deliver nothing more; the threads end by themselves."""
        self._stopped = True
        self._pause.set()
        self._decoder.stop()

    async def ended(self) -> bool:
        """Wait a moment for the threads after `stop`; whether they have ended."""
        return await self._decoder.ended() and await self._thread.ended(JOIN_SECONDS)

    def statistics(self, carried: RtpCounts | None) -> tuple[TrackStatistics, ...]:
        """What came of each track; `carried` is what MediaMTX counted of a WebRTC publisher."""
        return track_statistics(tuple(self._receptions.values()), carried)  # at once: the thread may add one

    def captured_at(self, timestamp: int) -> float | None:
        """The monotonic second at which the picture of that time (90 kHz) was captured, or came. From any thread."""
        return self._capture.captured_at(self._capture.video, timestamp)

    def _run(self) -> None:
        """The supervisor of the connection: whatever fails, it is opened again until `stop`."""
        while not self._stopped:
            try:
                self._read()
            except (FFmpegError, OSError):
                pass  # the publisher went, or has not sent a keyframe yet
            except Exception as error:  # noqa: BLE001 -- supervisor: without its thread no picture comes
                self._faults.report(
                    f"reader {type(error).__name__}", "the reader failed", error=type(error).__name__, exc_info=error
                )
            if not self._stopped:
                self._pause.wait(PAUSE_SECONDS)

    def _read(self) -> None:
        container = av.open(self._url, options=OPTIONS, timeout=(OPEN_SECONDS, SILENT_SECONDS))
        with container:
            if not container.streams.video:
                return
            video = container.streams.video[0]
            audio = container.streams.audio[0] if container.streams.audio else None
            context = cast(Any, video.codec_context)
            self._parameters = (
                _LIBRARIES.get(str(context.name), str(context.name)),
                bytes(context.extradata or b""),
                not context.has_b_frames,
            )
            for stream, rate in ((video, VIDEO_CLOCK.denominator), (audio, AUDIO_CLOCK_RATE)):
                if stream is not None:
                    name = stream.codec_context.codec.canonical_name.upper()
                    self._receptions.setdefault(stream.type, Reception(rate, stream.type, name))
            self._begun = False
            line = None
            if audio is not None and audio.codec_context.name != "opus":
                line = OpusLine(audio.codec_context)
            streams = [video] if audio is None else [video, audio]
            for packet in container.demux(*streams):
                if self._stopped:
                    return
                if packet.pts is None or not packet.size:
                    continue
                self._counters.bytes_received += packet.size
                if packet.stream is video:
                    self._take_picture(packet)
                else:
                    self._take_sound(packet, line)

    def _take_picture(self, packet: "Packet[Any]") -> None:
        timestamp = _ticks(packet, VIDEO_CLOCK.denominator)
        now = self._clock.monotonic()
        self._capture.video.arrived(timestamp & 0xFFFFFFFF, now)
        self._count("video", timestamp, now)
        self._begun = self._begun or packet.is_keyframe or self._parameters[0] not in _LIBRARIES.values()
        if not self._begun:
            return  # libvpx would call it damaged; other decoders say nothing of what comes before their first keyframe
        self._decoder.put(Picture(bytes(packet), timestamp, packet.is_keyframe))

    def _count(self, kind: str, timestamp: int, now: float) -> None:
        reception = self._receptions[kind]
        reception.packet(reception.packets & 0xFFFF, timestamp, now)

    def _take_sound(self, packet: "Packet[Any]", line: OpusLine | None) -> None:
        time = _ticks(packet, AUDIO_CLOCK_RATE)
        clock = self._capture
        now = self._clock.monotonic()
        clock.audio.arrived(time & 0xFFFFFFFF, now)
        self._count("audio", time, now)
        made = [(time, bytes(packet))] if line is None else self._encode(packet, time, line)
        for begin, payload in made:
            captured_at = clock.captured_at(clock.audio, begin & 0xFFFFFFFF)
            if captured_at is not None:
                sound = ReceivedSound(self._sequence & 0xFFFF, begin & 0xFFFFFFFF, captured_at, payload)
                self._sequence += 1
                self._call(sound)

    def _encode(self, packet: "Packet[Any]", time: int, line: OpusLine) -> list[tuple[int, bytes]]:
        try:
            return list(line.put(packet, time))
        except FFmpegError:
            self._counters.decode_error()
            return []

    def _call(self, sound: ReceivedSound) -> None:
        self._thread.call(lambda: None if self._stopped else self._on_sound(self, sound))

    def _open_decoder(self) -> Any:
        library, extradata, low_delay = self._parameters
        return open_decoder(library, extradata, low_delay=low_delay)


def track_statistics(receptions: Sequence[Reception], carried: RtpCounts | None) -> tuple[TrackStatistics, ...]:
    """Packets of sound, and pictures, in place of which stand the packets that MediaMTX counted where it told.

    Its losses, of both tracks together, are told of the pictures' track.
    """
    sound = sum(reception.packets for reception in receptions if reception.kind == "audio")
    found: list[TrackStatistics] = []
    for reception in receptions:
        received, lost = reception.packets, 0
        if carried is not None and reception.kind == "video":
            received, lost = max(received, carried.received - sound), carried.lost
        found.append(TrackStatistics(reception.kind, reception.codec, received, lost, reception.jitter))
    return tuple(found)


def _ticks(packet: Any, rate: int) -> int:
    return round(packet.pts * packet.time_base * rate)


def _open_opus() -> Any:
    encoder = cast(Any, av.CodecContext.create("libopus", "w"))
    encoder.sample_rate = AUDIO_CLOCK_RATE
    encoder.layout = "stereo"
    encoder.format = "s16"
    encoder.bit_rate = OPUS_BITRATE
    encoder.options = {"application": "lowdelay", "frame_duration": "20"}
    return encoder


__all__ = ["InputReader", "OpusLine", "track_statistics"]
