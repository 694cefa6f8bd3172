"""What a publisher may change in the middle of a session: its codec, its source, its clock. Made-up packets, a real
decoder."""

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, cast

import av
import numpy
import pytest
import structlog

from sdstream.clock import ManualClock
from sdstream.frames import I420Frame, PictureSize
from sdstream.logs import FoldedReporter
from sdstream.media.embedded.addresses import Addressing
from sdstream.media.embedded.counters import StreamCounters
from sdstream.media.embedded.encoding import PictureEncoder
from sdstream.media.embedded.negotiation import Negotiation, VideoChoice, VideoCodec
from sdstream.media.embedded.publisher import SOURCE_SILENCE, PublisherSession
from sdstream.media.embedded.rtp import write_packet
from sdstream.media.embedded.sdp import MediaSection
from sdstream.media.embedded.stream import EmbeddedStream
from tests.media.clients import DirectPublisher, make_settings
from tests.media.conftest import Echo
from tests.support.waiting import eventually

SIZE = PictureSize(64, 64)
TYPES: dict[VideoCodec, int] = {"H264": 96, "VP8": 98}
FEEDBACK = ("nack", "nack pli")
PICTURE_TICKS = 3000


@dataclass
class Camera:
    """Hands pictures of grey to a session, packet by packet. `seen` is what the decoder made of them."""

    session: PublisherSession
    clock: ManualClock
    counters: StreamCounters
    seen: list[int] = field(default_factory=list[int])
    requests: list[bytes] = field(default_factory=list[bytes])
    sequence: int = 65_530
    timestamp: int = 1_000_000_000
    source: int = 7
    encoders: dict[VideoCodec, PictureEncoder] = field(default_factory=dict[VideoCodec, PictureEncoder])

    def packets(self, grey: int, codec: VideoCodec, *, keyframe: bool = True) -> list[bytes]:
        """The packets of the next picture."""
        encoder = self.encoders.setdefault(codec, PictureEncoder(codec, SIZE, 500_000))
        frame = av.VideoFrame.from_ndarray(
            numpy.full((SIZE.height * 3 // 2, SIZE.width), grey, numpy.uint8), format="yuv420p"
        )
        made = encoder.encode(frame, self.timestamp, keyframe=keyframe)
        assert made is not None
        packets: list[bytes] = []
        for number, payload in enumerate(made.payloads, 1):
            last = number == len(made.payloads)
            sequence, timestamp = self.sequence & 0xFFFF, self.timestamp & 0xFFFFFFFF
            packets.append(write_packet(TYPES[codec], last, sequence, timestamp, self.source, payload))
            self.sequence += 1
        self.timestamp += PICTURE_TICKS
        return packets

    def send(self, *packets: bytes) -> None:
        self.clock.advance(1 / 30)
        for packet in packets:
            self.session.on_rtp(packet)

    async def show(self, grey: int, codec: VideoCodec = "H264", *, keyframe: bool = True) -> None:
        """Send a picture and wait for it, or for its loss."""
        before = len(self.seen) + sum(self.counters.drops.values())
        self.send(*self.packets(grey, codec, keyframe=keyframe))
        await eventually(lambda: len(self.seen) + sum(self.counters.drops.values()) > before)


@pytest.fixture
async def camera() -> AsyncIterator[Camera]:
    clock, counters = ManualClock(), StreamCounters()
    choices = tuple(VideoChoice(codec, number, number + 1, FEEDBACK) for codec, number in TYPES.items())

    def deliver(session: PublisherSession, frame: I420Frame) -> None:
        made.seen.append(round(float(frame.y.mean()) / 10) * 10)

    session = PublisherSession(
        "camera",
        Negotiation(choices, {}, cast(MediaSection, None)),
        Addressing.from_settings(make_settings()),
        counters,
        clock,
        deliver=deliver,
        on_connected=lambda session: None,
        on_closed=lambda session, reason: None,
        faults=FoldedReporter(structlog.get_logger(__name__), clock),
        fast=True,
    )
    made = Camera(session, clock, counters)
    cast(Any, session.peer).send_rtcp = made.requests.append
    session.on_connected()
    yield made
    await session.close()


def codecs_of(camera: Camera) -> list[str]:
    return [track.codec for track in camera.session.statistics()]


async def test_another_codec_of_the_answer_is_followed_at_once(camera: Camera) -> None:
    await camera.show(50)
    await camera.show(100, "VP8")
    await camera.show(150, "VP8", keyframe=False)
    assert codecs_of(camera) == ["VP8"]
    await camera.show(200)
    assert codecs_of(camera) == ["H264"]
    assert camera.seen == [50, 100, 150, 200]
    assert not camera.counters.decode_errors
    assert not camera.counters.drops


async def test_packets_that_were_overtaken_by_another_codecs_are_no_change(camera: Camera) -> None:
    await camera.show(50)
    late = camera.packets(60, "H264", keyframe=False)
    await camera.show(100, "VP8")
    camera.send(*late)
    await camera.show(150, "VP8", keyframe=False)
    assert camera.seen == [50, 100, 150]
    assert codecs_of(camera) == ["VP8"]


async def test_codecs_that_change_with_each_packet_make_no_storm_of_requests(camera: Camera) -> None:
    await camera.show(50)
    camera.requests.clear()
    for number in range(100):
        camera.session.on_rtp(
            write_packet((96, 98)[number % 2], False, camera.sequence & 0xFFFF, 5, 7, b"\x90\x00\x00")
        )
        camera.sequence += 1
    assert len(camera.requests) <= 1


async def test_a_lost_packet_of_another_codec_is_no_sound(camera: Camera) -> None:
    await camera.show(50)
    camera.send(write_packet(TYPES["VP8"] + 1, True, 1, 5, 99, b"\x00\x01\x90\x00"))
    assert [track.kind for track in camera.session.statistics()] == ["video"]


@pytest.mark.parametrize("ticks", [-500_000_000, 500_000_000])
async def test_another_source_is_followed_once_the_old_one_is_silent(camera: Camera, ticks: int) -> None:
    await camera.show(50)
    camera.source, camera.sequence, camera.timestamp = 8, 100, camera.timestamp + ticks
    camera.send(*camera.packets(100, "H264"))
    camera.clock.advance(SOURCE_SILENCE)
    await camera.show(150)
    await camera.show(200, keyframe=False)
    assert camera.seen == [50, 150, 200]
    assert not camera.counters.drops


async def test_a_clock_that_is_set_back_is_followed(camera: Camera) -> None:
    await camera.show(50)
    camera.timestamp -= 90_000 * 60
    await camera.show(100)
    await camera.show(150, keyframe=False)
    assert camera.seen == [50, 100, 150]
    assert not camera.counters.drops


async def test_a_picture_that_is_a_little_older_than_the_last_is_dropped(camera: Camera) -> None:
    await camera.show(50)
    camera.timestamp -= PICTURE_TICKS * 3
    await camera.show(100, keyframe=False)
    assert camera.seen == [50]
    assert camera.counters.drops == {"out_of_order": 1}


async def test_a_publisher_that_offers_both_codecs_may_send_the_second(stream: EmbeddedStream, echo: Echo) -> None:
    """As Pion sends what its track is of, whatever comes first in the answer."""
    async with DirectPublisher(stream, codec="VP8", offered=("VP8", "H264"), fps=30) as publisher:
        answered = re.findall(r"^a=rtpmap:\d+ (?!rtx)(\w+)/", publisher.answer, re.MULTILINE)
        assert answered == ["H264", "VP8"]
        await eventually(lambda: echo.count >= 10)
        (video,) = (track for track in stream.statistics().tracks if track.kind == "video")
        assert video.codec == "VP8"
        assert stream.statistics().decode_errors == 0
