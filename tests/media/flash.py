"""A camera that flashes and beeps at the same moments, and a viewer that says when it saw and heard that.

Both are the server's own sessions turned round, so their sender reports are exact, as a browser's are.
"""

import asyncio
import functools
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import av
import numpy
import structlog
from msgspec.structs import replace

from sdstream.clock import SystemClock
from sdstream.frames import VIDEO_CLOCK, I420Frame, PictureSize
from sdstream.logs import FoldedReporter
from sdstream.media.embedded.addresses import Addressing
from sdstream.media.embedded.counters import StreamCounters
from sdstream.media.embedded.encoding import EncodedPicture, PictureEncoder
from sdstream.media.embedded.negotiation import Negotiation, VideoChoice
from sdstream.media.embedded.publisher import PublisherSession
from sdstream.media.embedded.sdp import MediaSection, Transport, parse_offer
from sdstream.media.embedded.sound import ReceivedSound, SoundPacket
from sdstream.media.embedded.viewer import ViewerSession
from sdstream.media.ports import MediaHop, MediaStream, OutputStatistics, PublisherState
from tests.media.clients import make_settings

RATE = 25
SIZE = PictureSize(384, 384)
PERIOD = 0.6
"""Seconds from one flash to the next."""
LENGTH = 0.12
"""Seconds of a flash, and of its beep."""
LOUD = 0.1
STEADY = 1.5 / RATE
"""Seconds between pictures up to which none is missing: where one is, a flash may have begun in it."""
VIDEO = VideoChoice("H264", 96, 97, ("nack", "nack pli"))
SOUND_TYPE = 111
clock = SystemClock()


@functools.cache
def film(period: float = PERIOD) -> tuple[EncodedPicture, ...]:
    """One period of pictures, the first of which is a keyframe."""
    encoder = PictureEncoder("H264", SIZE, 500_000)
    pictures: list[EncodedPicture] = []
    for number in range(round(period * RATE)):
        light = number / RATE < LENGTH
        frame = av.VideoFrame.from_ndarray(
            numpy.full((SIZE.height * 3 // 2, SIZE.width), 220 if light else 30, numpy.uint8), format="yuv420p"
        )
        made = encoder.encode(frame, number * 3600, keyframe=number == 0)
        assert made is not None
        pictures.append(made)
    return tuple(pictures)


@functools.cache
def beeps(period: float = PERIOD) -> tuple[bytes, ...]:
    """One period of Opus packets of 20 ms; each is coded so that it can be repeated for ever."""
    encoder: Any = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.format, encoder.layout, encoder.bit_rate = 48_000, "flt", "stereo", 64_000
    encoder.options = {"application": "lowdelay", "frame_duration": "20"}
    packets: list[bytes] = []
    for number in range(2 * round(period * 50) + 5):
        at = numpy.arange(960) / 48_000 + number / 50
        wave = (0.5 * numpy.sin(2 * numpy.pi * 1000 * at) * (at % period < LENGTH)).astype(numpy.float32)
        frame = av.AudioFrame.from_ndarray(numpy.repeat(wave, 2).reshape(1, -1), format="flt", layout="stereo")
        frame.sample_rate, frame.pts = 48_000, number * 960
        packets += [bytes(packet) for packet in encoder.encode(frame)]
    count = round(period * 50)
    return tuple(packets[count : 2 * count])


class FlashingCamera:
    """Publishes `film` and `beeps` of `period`. `drift` is how much faster (1.001) the clock of its sound card runs."""

    def __init__(self, stream: MediaStream, *, sound: bool = True, drift: float = 1.0, period: float = PERIOD) -> None:
        self._stream = stream
        self._period = period
        self._drift = drift
        self._sound = sound
        self._connected = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        sources = (random.getrandbits(32), random.getrandbits(32), random.getrandbits(32))
        self._session = ViewerSession(
            "camera",
            VIDEO,
            sources,
            "flash",
            Addressing.from_settings(make_settings()),
            StreamCounters(),
            clock,
            on_connected=lambda session: self._connected.set(),
            on_closed=lambda session, reason: None,
            on_keyframe_request=lambda session: None,
            fast=True,
            sound_type=SOUND_TYPE if sound else None,
        )
        self.muted: Callable[[int], bool] = lambda number: False
        """Whether the packet of that number is lost on its way."""

    async def __aenter__(self) -> "FlashingCamera":
        transport = await self._session.peer.gather("actpass")
        answer = await self._stream.publish(_offer(transport, "sendonly", sound=self._sound))
        self._session.peer.connect(parse_offer(answer.sdp).sections[0])
        async with asyncio.timeout(30):
            await self._connected.wait()
        start = clock.monotonic() + 0.1
        self._tasks = [asyncio.create_task(self._show(start))]
        if self._sound:
            self._tasks.append(asyncio.create_task(self._speak(start)))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    async def _show(self, start: float) -> None:
        pictures = film(self._period)
        index = 0
        while True:
            due = start + index / RATE
            await asyncio.sleep(max(0.0, due - clock.monotonic()))
            made = pictures[index % len(pictures)]
            self._session.deliver(replace(made, timestamp=index * 90_000 // RATE, captured_at=due, is_live=True))
            index += 1

    async def _speak(self, start: float) -> None:
        packets = beeps(self._period)
        index = 0
        while True:
            due = start + index / 50 / self._drift
            await asyncio.sleep(max(0.0, due + 0.02 - clock.monotonic()))
            if not self.muted(index):
                packet = SoundPacket(index, index * 960, due, index == 0, packets[index % len(packets)])
                self._session.deliver_sound(packet)
            index += 1


@dataclass
class Onset:
    """The beginning of a flash or beep: when it arrived, and when it was captured by the sender reports."""

    arrived_at: float
    captured_at: float


@dataclass
class FlashViewer:
    """Watches a stream. `flashes` and `beeps` are the beginnings seen so far."""

    stream: MediaStream
    flashes: list[Onset] = field(default_factory=list[Onset])
    beeps: list[Onset] = field(default_factory=list[Onset])
    packets: list[ReceivedSound] = field(default_factory=list[ReceivedSound])
    mute: list[float] = field(default_factory=list[float])
    """When, by the sender reports, sound goes on after some was left out in which a beep began."""

    async def __aenter__(self) -> "FlashViewer":
        self._heard = -1
        self._light = self._loud = False
        self._pts = 0
        self._opus: Any = av.CodecContext.create("libopus", "r")
        connected = asyncio.Event()
        self._session = PublisherSession(
            "viewer",
            Negotiation(VIDEO, {}, _NOWHERE, sound_type=SOUND_TYPE),
            Addressing.from_settings(make_settings()),
            StreamCounters(),
            clock,
            deliver=self._see,
            on_connected=lambda session: connected.set(),
            on_closed=lambda session, reason: None,
            faults=FoldedReporter(structlog.get_logger(__name__), clock),
            fast=True,
            on_sound=self._hear,
        )
        transport = await self._session.peer.gather("actpass")
        self.answer = await self.stream.watch(_offer(transport, "recvonly", sound=True))
        self._session.peer.connect(parse_offer(self.answer.sdp).sections[0])
        async with asyncio.timeout(30):
            await connected.wait()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    def _see(self, session: PublisherSession, frame: I420Frame) -> None:
        light = bool(frame.y[::8, ::8].mean() > 120)
        steady = frame.pts - self._pts < STEADY * 90_000
        self._pts = frame.pts
        if light and not self._light and steady:
            self.flashes.append(Onset(clock.monotonic(), session.captured_at(frame.pts) or 0.0))
        self._light = light

    def _hear(self, session: PublisherSession, packet: ReceivedSound) -> None:
        self.packets.append(packet)
        number = beeps().index(packet.payload)
        joins_on = self._heard < 0 or number == (self._heard + 1) % len(beeps())
        if not joins_on and number <= self._heard:
            self.mute.append(packet.captured_at)
        self._heard = number
        for frame in self._opus.decode(av.Packet(packet.payload)):
            loud = bool(numpy.abs(cast(Any, frame).to_ndarray()).max() > LOUD)
            if loud and not self._loud and joins_on:
                self.beeps.append(Onset(clock.monotonic(), packet.captured_at))
            self._loud = loud


class DelayedEcho:
    """A pipeline that sends each picture back after `delay` seconds, which may be changed at any time."""

    def __init__(self, delay: float) -> None:
        self.delay = delay
        self.stream: MediaStream | None = None
        self.hops: dict[str, list[float]] = {}
        self.outputs: list[OutputStatistics] = []
        self.recordings: list[tuple[str, str | None]] = []
        self._loop = asyncio.get_running_loop()
        self._due = 0.0

    def on_video(self, frame: I420Frame) -> None:
        self._loop.call_soon_threadsafe(self._later, frame.copy())

    def on_publisher(self, state: PublisherState) -> None:
        """Nothing depends on it."""

    def on_viewers(self, count: int) -> None:
        """Nothing depends on it."""

    def on_hop(self, hop: MediaHop, seconds: float) -> None:
        self.hops.setdefault(hop, []).append(seconds)

    def on_output(self, output: OutputStatistics) -> None:
        self.outputs.append(output)

    def on_recording(self, name: str, problem: str | None) -> None:
        self.recordings.append((name, problem))

    def _later(self, frame: I420Frame) -> None:
        assert self.stream is not None
        # In order, as a worker is: a shorter delay lets no picture overtake those under way, and of two timers of the
        # same moment either may go first.
        self._due = max(self._loop.time() + self.delay, self._due + 1e-6)
        self._loop.call_at(self._due, self.stream.send, frame)


def onsets_of(file: str | Path) -> tuple[list[float], list[float]]:
    """When flashes and beeps begin in a file, in its own seconds.

    Of flashes those whose first picture follows another without a gap: where pictures were dropped (those overtaken
    when the latency falls), nobody can see when one began.
    """
    flashes: list[float] = []
    sounds: list[float] = []
    light = loud = False
    before = 0.0
    with av.open(str(file)) as container:
        for frame in container.decode():
            if isinstance(frame, av.VideoFrame):
                bright = bool(frame.to_ndarray(format="gray")[::8, ::8].mean() > 120)
                moment = float(frame.time or 0)
                if bright and not light and moment - before < STEADY:
                    flashes.append(moment)
                light, before = bright, moment
            else:
                sound: Any = frame
                wave = numpy.abs(sound.to_ndarray()).max(axis=0) > LOUD
                if wave.any() and not loud:
                    sounds.append(float(sound.time + wave.argmax() / sound.sample_rate))
                loud = bool(wave.any())
    return flashes, sounds


def nearest(onsets: list[Onset], onset: Onset) -> Onset:
    """The one that belongs to `onset`, by when it was captured."""
    return min(onsets, key=lambda other: abs(other.captured_at - onset.captured_at))


def _offer(transport: Transport, direction: str, *, sound: bool) -> str:
    common = [
        f"a={direction}",
        "a=rtcp-mux",
        f"a=ice-ufrag:{transport.ice_username}",
        f"a=ice-pwd:{transport.ice_password}",
        *(f"a=fingerprint:{algorithm} {digest}" for algorithm, digest in transport.fingerprints),
        "a=setup:actpass",
        *(f"a=candidate:{candidate}" for candidate in transport.candidates),
    ]
    lines = ["v=0", "o=- 1 1 IN IP4 127.0.0.1", "s=-", "t=0 0", f"a=group:BUNDLE 0{' 1' if sound else ''}"]
    lines += ["m=video 9 UDP/TLS/RTP/SAVPF 96 97", "c=IN IP4 0.0.0.0", "a=mid:0", *common]
    lines += ["a=rtpmap:96 H264/90000", "a=rtcp-fb:96 nack", "a=rtcp-fb:96 nack pli"]
    lines += ["a=fmtp:96 packetization-mode=1;profile-level-id=42e01f", "a=rtpmap:97 rtx/90000", "a=fmtp:97 apt=96"]
    if sound:
        lines += ["m=audio 9 UDP/TLS/RTP/SAVPF 111", "c=IN IP4 0.0.0.0", "a=mid:1", *common]
        lines += ["a=rtpmap:111 opus/48000/2"]
    return "\r\n".join(lines) + "\r\n"


_NOWHERE = MediaSection("video", 9, "", (), None, "sendonly", (), "", "", (), "actpass", (), {})

__all__ = [
    "PERIOD",
    "VIDEO_CLOCK",
    "DelayedEcho",
    "FlashViewer",
    "FlashingCamera",
    "Onset",
    "nearest",
    "onsets_of",
]
