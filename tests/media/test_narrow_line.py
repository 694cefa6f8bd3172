"""A viewer behind a line that is too narrow: the encoder follows it, unless somebody else keeps the pictures."""

import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, cast

import av
import numpy
import pytest

from sdstream.clock import SystemClock
from sdstream.media.embedded.broadcast import Broadcast
from sdstream.media.embedded.counters import StreamCounters
from sdstream.media.embedded.lines import UNLIMITED
from sdstream.media.embedded.outgoing import COARSER
from sdstream.media.embedded.outputs.feed import OutputFeed
from sdstream.media.embedded.rates import Bitrates
from sdstream.media.embedded.stream import EmbeddedStream
from sdstream.media.embedded.viewer import ViewerSession
from tests.media.clients import DirectPublisher, DirectViewer
from tests.media.conftest import Echo
from tests.media.test_threads import Watcher, picture, reporter
from tests.support.peers import CardTrack
from tests.support.pictures import TestCard
from tests.support.waiting import eventually

BITRATES = Bitrates(8_000_000, 50_000)
FULL = BITRATES.of(picture().size)
NARROW = 300_000
"""Bits a second."""
ROOM = 20_000
"""Bytes that may wait before the line."""


def limited(limit: float) -> Watcher:
    """A viewer whose line carries so much."""
    return Watcher(limit=limit)


Open = Callable[..., Broadcast]


@pytest.fixture
async def opened() -> AsyncIterator[Open]:
    made: list[Broadcast] = []

    def open_broadcast(*sinks: Any, bitrates: Bitrates = BITRATES) -> Broadcast:
        broadcast = Broadcast("H264", bitrates, "x264", StreamCounters(), SystemClock(), reporter())
        broadcast.sinks.update(cast(ViewerSession, sink) for sink in sinks)
        broadcast.follow_lines()
        made.append(broadcast)
        return broadcast

    yield open_broadcast
    for broadcast in made:
        await broadcast.close()


async def settled(broadcast: Broadcast, bitrate: int) -> None:
    """Pictures flow until the encoder is set to that."""

    def is_set() -> bool:
        broadcast.put(picture)
        return broadcast.bitrate == bitrate

    await eventually(is_set, what=lambda: f"{broadcast.bitrate} in place of {bitrate}")


async def test_the_encoder_follows_a_line_down_and_up_again(opened: Open) -> None:
    sink = limited(60_000)
    broadcast = opened(sink)
    await settled(broadcast, 60_000)
    assert broadcast.is_limited
    sink.limit = 2.0 * FULL
    broadcast.follow_lines()
    await settled(broadcast, FULL)
    assert not broadcast.is_limited
    sink.limit = 1000.0
    broadcast.follow_lines()
    await settled(broadcast, BITRATES.least)


async def test_one_of_two_viewers_does_not_make_the_others_picture_coarse(opened: Open) -> None:
    broadcast = opened(limited(60_000), limited(UNLIMITED))
    await settled(broadcast, FULL)


async def test_what_is_recorded_is_not_made_coarse(opened: Open) -> None:
    feed = OutputFeed(reporter(), on_keyframe_wanted=lambda: None)
    broadcast = opened(limited(60_000), feed)
    await settled(broadcast, FULL)
    broadcast.sinks.discard(feed)
    broadcast.follow_lines()
    await settled(broadcast, 60_000)
    await feed.close()


async def test_by_the_switch_nothing_is_made_coarse(opened: Open) -> None:
    broadcast = opened(limited(60_000), bitrates=Bitrates(8_000_000, 50_000, follows=False))
    await settled(broadcast, FULL)


class NarrowLine:
    """Takes packets of a session's peer at `NARROW` bits a second, and loses what there is no room for."""

    def __init__(self) -> None:
        self._waits = 0.0
        self._at = time.monotonic()
        self.lost = self.in_a_row = 0

    def carries(self, packet: bytes) -> bool:
        """Whether the packet arrives."""
        now = time.monotonic()
        self._waits, self._at = max(0.0, self._waits - (now - self._at) * NARROW / 8), now
        if self._waits + len(packet) > ROOM:
            self.lost, self.in_a_row = self.lost + 1, 0
            return False
        self._waits += len(packet)
        self.in_a_row += 1
        return True

    def behind(self, send: Callable[[Sequence[bytes]], None]) -> Callable[[Sequence[bytes]], None]:
        """`send` over this line."""
        return lambda packets: send([packet for packet in packets if self.carries(packet)])

    def put_before(self, session: ViewerSession) -> None:
        peer: Any = session.peer
        one = peer.send_rtp
        peer.send_rtp = lambda packet: one(packet) if self.carries(packet) else None
        peer.send_rtp_burst = self.behind(peer.send_rtp_burst)
        peer.send_rtp_burst_here = self.behind(peer.send_rtp_burst_here)


def noisy_card() -> Callable[[int], av.VideoFrame]:
    """Draws test cards that take an encoder's whole bitrate."""
    draw, rng = TestCard().draw, numpy.random.default_rng(5)
    noises = rng.integers(-12, 13, (8, 576, 384), dtype=numpy.int16)

    def noisy(number: int) -> av.VideoFrame:
        planes = draw(number).to_ndarray() + noises[number % len(noises)]
        return av.VideoFrame.from_ndarray(planes.clip(16, 235).astype(numpy.uint8), format="yuv420p")

    return noisy


@pytest.mark.alone
async def test_a_narrow_line_loses_nothing_once_the_encoder_follows_it(stream: EmbeddedStream, echo: Echo) -> None:
    track = CardTrack(noisy_card(), fps=30)
    async with DirectPublisher(stream, track=track), DirectViewer(stream) as viewer:
        await viewer.wait_kind("card")
        (session,) = stream._sessions.viewers.values()
        line = NarrowLine()
        line.put_before(session)
        await eventually(lambda: line.lost > 20, seconds=30, what="that the line is too narrow")
        await eventually(lambda: (stream.statistics().video_bitrate or NARROW) < NARROW, seconds=30)
        await eventually(lambda: COARSER in stream.statistics().warnings)
        await eventually(lambda: line.in_a_row > 100, seconds=30, what="a while without a loss")
