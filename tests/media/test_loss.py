"""Lost packets on real connections: asked for again, sent again, and the picture stays whole."""

import random
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from sdstream.media.embedded.stream import EmbeddedStream
from sdstream.media.ports import TrackStatistics
from tests.media.clients import DirectPublisher, DirectViewer
from tests.media.conftest import Echo
from tests.support.waiting import eventually

LOSS = 0.08


def lose_on_the_way_in(publisher: DirectPublisher, rng: random.Random) -> None:
    """Drop media packets of an aiortc publisher, retransmissions too."""
    transport: Any = publisher.connection.getTransceivers()[0].sender.transport
    send = transport._send_rtp

    async def sometimes(data: bytes) -> None:
        if len(data) < 200 or rng.random() >= LOSS:
            await send(data)

    transport._send_rtp = sometimes


async def test_packets_lost_on_the_way_in_are_repaired(stream: EmbeddedStream, echo: Echo) -> None:
    async with DirectPublisher(stream, fps=30) as publisher:
        await eventually(lambda: echo.count >= 5)
        lose_on_the_way_in(publisher, random.Random(4))
        start = publisher.track.sent
        await eventually(lambda: publisher.track.sent >= start + 90, seconds=30)

        def video() -> TrackStatistics:
            return next(track for track in stream.statistics().tracks if track.kind == "video")

        await eventually(lambda: video().packets_lost > 0, what="a loss that was noticed")
        # Each report tells it anew: one of them comes while this machine is not held up.
        await eventually(lambda: (took := video().round_trip) is not None and 0 <= took < 0.5, seconds=30, what=video)
        await eventually(lambda: echo.count >= publisher.track.sent - 20)
        assert stream.statistics().decode_errors == 0


@pytest.mark.alone
@pytest.mark.parametrize("codec", ["H264", "VP8"])
async def test_packets_lost_on_the_way_out_are_sent_again(stream: EmbeddedStream, echo: Echo, codec: Any) -> None:
    async with DirectPublisher(stream, fps=30) as publisher, DirectViewer(stream, codecs=(codec,)) as viewer:
        await viewer.wait_kind("card")
        rng = random.Random(5)
        (session,) = stream._sessions.viewers.values()
        dropped = 0
        sent: set[int] = set()

        def losing(send: Callable[[Sequence[bytes]], None]) -> Callable[[Sequence[bytes]], None]:
            def sometimes(packets: Sequence[bytes]) -> None:
                nonlocal dropped
                sent.update(int.from_bytes(packet[4:8], "big") for packet in packets)  # the time stamp of a picture
                kept = [packet for packet in packets if rng.random() >= LOSS]
                dropped += len(packets) - len(kept)
                send(kept)

            return sometimes

        session.peer.send_rtp_burst = losing(session.peer.send_rtp_burst)  # type: ignore[method-assign]
        session.peer.send_rtp_burst_here = losing(session.peer.send_rtp_burst_here)  # type: ignore[method-assign]
        numbers: list[int | None] = []
        viewer.on_picture = lambda picture: numbers.append(picture.number())
        await eventually(lambda: len(numbers) >= 90, seconds=30)
        publisher.track.paused = True
        # Each picture that was sent is seen; the viewer shows the last one when another follows.
        await eventually(lambda: len(numbers) >= len(sent) - 2, what=lambda: f"{len(sent)} pictures in {len(numbers)}")
        assert dropped > 3
        assert None not in numbers
