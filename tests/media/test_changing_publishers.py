"""What a publisher may change in the middle of a session: its source and its clock. Made-up packets, a real decoder."""

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
from sdstream.media.embedded.negotiation import Negotiation, VideoChoice
from sdstream.media.embedded.publisher import SOURCE_SILENCE, PublisherSession
from sdstream.media.embedded.rtp import write_packet
from sdstream.media.embedded.sdp import MediaSection
from tests.media.clients import make_settings
from tests.support.waiting import eventually

SIZE = PictureSize(64, 64)
VIDEO = VideoChoice("H264", 96, 97, ("nack", "nack pli"))
PICTURE_TICKS = 3000


@dataclass
class Camera:
    """Hands pictures of grey to a session, packet by packet. `seen` is what the decoder made of them."""

    session: PublisherSession
    clock: ManualClock
    counters: StreamCounters
    seen: list[int] = field(default_factory=list[int])
    sequence: int = 65_530
    timestamp: int = 1_000_000_000
    source: int = 7
    encoder: PictureEncoder = field(default_factory=lambda: PictureEncoder("H264", SIZE, 500_000))

    def send(self, grey: int, *, keyframe: bool = True) -> None:
        """Send the packets of the next picture."""
        self.clock.advance(1 / 30)
        frame = av.VideoFrame.from_ndarray(
            numpy.full((SIZE.height * 3 // 2, SIZE.width), grey, numpy.uint8), format="yuv420p"
        )
        made = self.encoder.encode(frame, self.timestamp, keyframe=keyframe)
        assert made is not None
        for number, payload in enumerate(made.payloads, 1):
            last = number == len(made.payloads)
            sequence, timestamp = self.sequence & 0xFFFF, self.timestamp & 0xFFFFFFFF
            self.session.on_rtp(write_packet(VIDEO.payload_type, last, sequence, timestamp, self.source, payload))
            self.sequence += 1
        self.timestamp += PICTURE_TICKS

    async def show(self, grey: int, *, keyframe: bool = True) -> None:
        """Send a picture and wait for it, or for its loss."""
        before = len(self.seen) + sum(self.counters.drops.values())
        self.send(grey, keyframe=keyframe)
        await eventually(lambda: len(self.seen) + sum(self.counters.drops.values()) > before)


@pytest.fixture
async def camera() -> AsyncIterator[Camera]:
    clock, counters = ManualClock(), StreamCounters()

    def deliver(session: PublisherSession, frame: I420Frame) -> None:
        made.seen.append(round(float(frame.y.mean()) / 10) * 10)

    session = PublisherSession(
        "camera",
        Negotiation(VIDEO, {}, cast(MediaSection, None)),
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
    requests: list[bytes] = []
    cast(Any, session.peer).send_rtcp = requests.append
    session.on_connected()
    yield made
    await session.close()


@pytest.mark.parametrize("ticks", [-500_000_000, 500_000_000])
async def test_another_source_is_followed_once_the_old_one_is_silent(camera: Camera, ticks: int) -> None:
    await camera.show(50)
    camera.source, camera.sequence, camera.timestamp = 8, 100, camera.timestamp + ticks
    camera.send(100)
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
