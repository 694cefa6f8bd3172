"""Publishers and viewers of whole pictures beside those of WebRTC, under the embedded back end."""

import asyncio
import struct
import zlib

import pytest

from sdstream.errors import CapacityReached, SessionNotFound, ShuttingDown
from sdstream.media.embedded.stream import EmbeddedStream
from sdstream.media.embedded.whole_pictures.publisher import MOST_UNREADABLE
from sdstream.media.ports import PictureViewer, Placard, PublisherState, SessionEnd
from sdstream.params.pictures import MOST_SCANS
from tests.media.clients import DirectPublisher, DirectViewer, browser_offer
from tests.media.conftest import SIZE, Echo
from tests.support.endless import jpeg_of_scans
from tests.support.picture_sockets import decoded, encoded
from tests.support.pictures import Picture
from tests.support.waiting import eventually


async def next_picture(viewer: PictureViewer) -> Picture:
    """The next picture of a viewer, which says that it came."""
    data = await asyncio.wait_for(viewer.next(), 30)
    assert data is not None
    viewer.taken()
    return decoded(data)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
async def test_pictures_of_each_format_come_out_with_their_colours(stream: EmbeddedStream, form: str) -> None:
    publisher, viewer = await stream.publish_pictures(), await stream.watch_pictures()
    await publisher.put(encoded(7, form=form))
    picture = await next_picture(viewer)
    assert picture.number() == 7
    assert picture.corner_error() < 12


async def test_a_viewer_by_webrtc_sees_whole_pictures(stream: EmbeddedStream) -> None:
    publisher = await stream.publish_pictures()
    async with DirectViewer(stream) as viewer:
        await viewer.wait_connected()
        await publisher.put(encoded(9))
        await viewer.wait(lambda picture: picture.number() == 9, what="the picture")


async def test_a_viewer_of_whole_pictures_sees_a_camera_by_webrtc(stream: EmbeddedStream) -> None:
    viewer = await stream.watch_pictures()
    async with DirectPublisher(stream, fps=30):
        numbers: list[int] = []
        while len(numbers) < 15:
            number = (await next_picture(viewer)).number()
            if number is not None:
                numbers.append(number)
    assert numbers == sorted(set(numbers))


async def test_of_pictures_that_came_meanwhile_the_newest_is_sent(stream: EmbeddedStream) -> None:
    publisher, viewer = await stream.publish_pictures(), await stream.watch_pictures()
    for number in range(20):
        await publisher.put(encoded(number))
    assert (await next_picture(viewer)).number() == 19


async def test_a_picture_is_sent_once_however_often_it_is_told_of(stream: EmbeddedStream) -> None:
    publisher, viewer = await stream.publish_pictures(), await stream.watch_pictures()
    await publisher.put(encoded(1))
    assert (await next_picture(viewer)).number() == 1
    coming = asyncio.ensure_future(next_picture(viewer))
    stream._picture_viewers.show()  # pyright: ignore[reportPrivateUsage]
    await publisher.put(encoded(2))
    assert (await coming).number() == 2


async def test_a_placard_is_sent_once_and_then_as_a_sign_of_life(echo: Echo, stream: EmbeddedStream) -> None:
    stream._picture_viewers._repeat_seconds = 0.2  # pyright: ignore[reportPrivateUsage]
    viewer = await stream.watch_pictures()
    stream.send_placard(Placard("Loading", "a model", 20))
    assert (await next_picture(viewer)).is_placard()
    assert (await next_picture(viewer)).is_placard()
    assert stream.statistics().viewers == 1


async def test_two_viewers_cost_one_encoding_of_each_picture(stream: EmbeddedStream) -> None:
    publisher = await stream.publish_pictures()
    viewers = [await stream.watch_pictures() for _ in range(3)]
    await publisher.put(encoded(3))
    pictures = await asyncio.gather(*(viewer.next() for viewer in viewers))
    assert len(set(pictures)) == 1
    assert stream.statistics().frames_encoded == 1


async def test_what_encoding_takes_is_told_of_cameras_pictures_alone(stream: EmbeddedStream, echo: Echo) -> None:
    publisher, viewer = await stream.publish_pictures(), await stream.watch_pictures()
    stream.send_placard(Placard("Loading"))
    await next_picture(viewer)
    assert "encode" not in echo.hops
    await publisher.put(encoded(1))
    await next_picture(viewer)
    assert len(echo.hops["encode"]) == 1


async def test_states_and_numbers_are_those_of_any_session(stream: EmbeddedStream, echo: Echo) -> None:
    publisher, viewer = await stream.publish_pictures(), await stream.watch_pictures()
    await publisher.put(encoded(1))
    facts = stream.statistics()
    assert facts.publisher is PublisherState.CONNECTED
    assert facts.frames_decoded == 1
    assert facts.input_size == SIZE
    assert [(track.codec, track.packets_received) for track in facts.tracks] == [("JPEG", 1)]
    assert await stream.end_session(publisher.session_id)
    assert await stream.end_session(viewer.session_id)
    assert not await stream.end_session(viewer.session_id)
    assert echo.states == [PublisherState.CONNECTED, PublisherState.ABSENT]
    assert echo.viewers == [1, 0]


async def test_whoever_publishes_next_takes_over(stream: EmbeddedStream, echo: Echo) -> None:
    first = await stream.publish_pictures()
    second = await stream.publish_pictures()
    await asyncio.wait_for(first.ended(), 30)
    assert first.end is SessionEnd.REPLACED
    async with DirectPublisher(stream) as third:
        await asyncio.wait_for(second.ended(), 30)
        assert second.end is SessionEnd.REPLACED
        await third.wait_connected()
        await stream.publish_pictures()
        await eventually(lambda: third.state == "closed")
    with pytest.raises(SessionNotFound):
        await first.put(encoded(1))
    assert PublisherState.ABSENT not in echo.states


async def test_who_sends_no_pictures_is_sent_away(stream: EmbeddedStream, echo: Echo) -> None:
    publisher = await stream.publish_pictures()
    await publisher.put(encoded(1))
    broken = [b"", b"hello", encoded(2)[:300], b"RIFF\0\0\0\0WEBPVP8 ", bomb()]
    assert len(broken) == MOST_UNREADABLE
    for data in broken[:-1]:
        await publisher.put(data)
    with pytest.raises(SessionNotFound):
        await publisher.put(broken[-1])
    assert publisher.end is SessionEnd.UNREADABLE
    assert stream.statistics().publisher is PublisherState.ABSENT
    assert echo.count == 1


async def test_a_picture_of_endless_scans_is_not_decoded(stream: EmbeddedStream, echo: Echo) -> None:
    """Eight megabytes of scans kept a decoder's thread, and a core, busy for minutes."""
    publisher = await stream.publish_pictures()
    await publisher.put(jpeg_of_scans(MOST_SCANS + 1, SIZE.width))
    assert echo.count == 0
    await publisher.put(jpeg_of_scans(MOST_SCANS, SIZE.width))
    assert echo.count == 1


async def test_one_good_picture_makes_up_for_bad_ones(stream: EmbeddedStream, echo: Echo) -> None:
    publisher = await stream.publish_pictures()
    for _ in range(3):
        for _ in range(MOST_UNREADABLE - 1):
            await publisher.put(b"hello")
        await publisher.put(encoded(5))
    assert publisher.end is None
    assert echo.count == 3


async def test_places_are_those_of_all_viewers_together(stream: EmbeddedStream) -> None:
    viewers = [await stream.watch_pictures() for _ in range(20)]
    with pytest.raises(CapacityReached):
        await stream.watch_pictures()
    with pytest.raises(CapacityReached):
        await stream.watch(browser_offer(direction="recvonly"))
    assert await stream.end_session(viewers[0].session_id)
    assert await stream.watch_pictures()


async def test_the_end_of_the_stream_ends_its_sessions(stream: EmbeddedStream, echo: Echo) -> None:
    publisher, viewer = await stream.publish_pictures(), await stream.watch_pictures()
    waiting = asyncio.ensure_future(viewer.next())
    await stream.close()
    assert await asyncio.wait_for(waiting, 30) is None
    assert publisher.end is viewer.end is SessionEnd.CLOSED
    with pytest.raises(ShuttingDown):
        await stream.publish_pictures()
    with pytest.raises(ShuttingDown):
        await stream.watch_pictures()
    assert echo.viewers == [1, 0]


def bomb() -> bytes:
    """A small PNG of 40000x40000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 40_000, 40_000, 1, 0, 0, 0, 0)
    lines = zlib.compress(bytes(5001 * 2000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")
