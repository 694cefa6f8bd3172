"""Real peers over loopback: a picture goes in by WHIP and comes out by WHEP."""

import itertools
from fractions import Fraction
from typing import Any

import av
import numpy
import pytest
from aiortc.mediastreams import AudioStreamTrack

from sdstream.clock import SystemClock
from sdstream.frames import PictureSize
from sdstream.media.embedded import EmbeddedMedia
from sdstream.media.embedded.decoding import B_FRAMES_WARNING
from sdstream.media.embedded.stream import EmbeddedStream
from sdstream.media.ports import Placard, PublisherState
from sdstream.settings import Settings
from tests.media.clients import CardTrack, DirectPublisher, DirectViewer
from tests.media.conftest import SIZE, Echo
from tests.support.offers import like_obs, obs_payload_types, payload_types, unchanged
from tests.support.peers import Codec
from tests.support.pictures import Picture, TestCard
from tests.support.waiting import eventually


async def see(viewer: DirectViewer, count: int, stream: EmbeddedStream | None = None) -> list[Picture]:
    """The next `count` pictures."""
    seen: list[Picture] = []
    viewer.on_picture = seen.append
    await eventually(
        lambda: len(seen) >= count,
        what=lambda: f"{len(seen)} of {count} pictures, {viewer.describe()}, {stream and stream.statistics()}:",
    )
    viewer.on_picture = lambda picture: None
    return seen


def colour_error(picture: Picture, card: av.VideoFrame) -> float:
    """Mean difference of two pictures in RGB."""
    wanted = card.to_ndarray(format="rgb24").astype(int)
    return float(numpy.abs(picture.rgb.astype(int) - wanted).mean())


@pytest.mark.parametrize("fast", [True, False], ids=["fast", "plain"])
@pytest.mark.parametrize("codec", ["H264", "VP8"])
@pytest.mark.alone
async def test_pictures_come_back_in_order_with_their_colours(
    settings: Settings, echo: Echo, codec: Codec, fast: bool
) -> None:
    media = EmbeddedMedia(settings, SystemClock(), fast=fast)
    stream = echo.stream = await media.open_stream("stream", SIZE, echo)
    async with (
        DirectPublisher(stream, codec=codec, fps=30) as publisher,
        DirectViewer(stream, codecs=(codec,)) as viewer,
    ):
        await viewer.wait_kind("card")
        pictures = await see(viewer, 30, stream)
        numbers = [picture.number() for picture in pictures]
        assert None not in numbers
        assert numbers == sorted(numbers)  # pyright: ignore[reportArgumentType]
        assert len(set(numbers)) > 20, "a picture is sent twice only when none follows it"
        # libvpx makes the first second of a new picture from too few bits, and the more so where pictures come in
        # bursts; after two seconds of the camera's time the bitrate has settled.
        first = pictures[0].number() or 0
        await viewer.wait(lambda picture: (picture.number() or 0) >= first + 60, what="two seconds of pictures")
        card = TestCard(384, 384)
        errors = [colour_error(picture, card.draw(picture.number() or 0)) for picture in await see(viewer, 5, stream)]
        assert max(errors) < 3
        statistics = stream.statistics()
        assert statistics.publisher is PublisherState.CONNECTED
        assert statistics.viewers == 1
        assert statistics.decode_errors == 0
        assert statistics.input_size == statistics.output_size == SIZE
        assert statistics.frames_decoded >= publisher.track.sent - 25
        assert statistics.bytes_received > 0
        assert statistics.bytes_sent > 0
        assert [(track.kind, track.codec) for track in statistics.tracks] == [("video", codec)]
    await media.close()


async def test_an_obs_connects_with_its_own_offer(stream: EmbeddedStream) -> None:
    with obs_payload_types():
        async with DirectPublisher(stream, audio=True, slices=4, fps=30, edit=like_obs) as publisher:
            assert payload_types(publisher.answer, "video") == [96]
            async with DirectViewer(stream, edit=like_obs) as viewer:
                assert payload_types(viewer.answer, "video") == [96]
                await viewer.wait_kind("card")
    assert stream.statistics().decode_errors == 0


async def test_a_client_that_offers_candidates_connects_too(stream: EmbeddedStream) -> None:
    async with DirectPublisher(stream, edit=unchanged), DirectViewer(stream, edit=unchanged) as viewer:
        await viewer.wait_kind("card")


async def test_names_and_tcp_candidates_are_passed_over(stream: EmbeddedStream) -> None:
    def foreign(sdp: str) -> str:
        lines = [
            "a=candidate:1 1 udp 2113937151 0aa7b5f2-3ab0-4d0f-9df9-6c3f2b1d8a00.local 54321 typ host",
            "a=candidate:2 1 tcp 1518280447 127.0.0.1 9 typ host tcptype active",
        ]
        kept = [line for line in sdp.splitlines() if not line.startswith("a=candidate")]
        at = next(index for index, line in enumerate(kept) if line.startswith("a=ice-ufrag"))
        return "\r\n".join([*kept[:at], *lines, *kept[at:]]) + "\r\n"

    async with DirectPublisher(stream, edit=foreign) as publisher:
        await publisher.wait_connected()


@pytest.mark.alone
async def test_one_encoder_serves_every_viewer(stream: EmbeddedStream, echo: Echo) -> None:
    async with DirectPublisher(stream, fps=30):
        async with DirectViewer(stream) as first, DirectViewer(stream) as second, DirectViewer(stream) as third:
            for viewer in (first, second, third):
                await viewer.wait_kind("card")
            before, came = stream.statistics(), echo.count
            counts = [viewer.count for viewer in (first, second, third)]
            await eventually(lambda: stream.statistics().frames_encoded >= before.frames_encoded + 30)
            encoded = stream.statistics().frames_encoded - before.frames_encoded
            for viewer, count in zip((first, second, third), counts, strict=True):
                await eventually(lambda viewer=viewer, count=count: viewer.count - count >= encoded - 3)
            pictures = echo.count - came
            assert stream.statistics().frames_encoded - before.frames_encoded < 3 * pictures / 2


async def test_nothing_is_encoded_while_nobody_watches(stream: EmbeddedStream, echo: Echo) -> None:
    async with DirectPublisher(stream, fps=30):
        await eventually(lambda: echo.count >= 15)
        assert stream.statistics().frames_encoded == 0
        async with DirectViewer(stream) as viewer:
            await viewer.wait_kind("card")
        await eventually(lambda: stream.statistics().viewers == 0)
        encoded = stream.statistics().frames_encoded
        count = echo.count
        await eventually(lambda: echo.count >= count + 15)
        assert stream.statistics().frames_encoded <= encoded + 1, "it may have been at one when the viewer left"


async def test_a_camera_may_change_its_size(stream: EmbeddedStream, echo: Echo) -> None:
    small, large = TestCard(320, 192), TestCard(640, 480)
    track = CardTrack(lambda number: (small if number < 30 else large).draw(number), fps=30)
    async with DirectPublisher(stream, track=track), DirectViewer(stream) as viewer:
        await viewer.wait(lambda picture: picture.size == (640, 480) and picture.is_card(), seconds=30)
    statistics = stream.statistics()
    assert statistics.input_size == statistics.output_size == PictureSize(640, 480)
    assert statistics.decode_errors == 0


async def test_garbage_is_counted_and_the_picture_recovers(stream: EmbeddedStream) -> None:
    track = CardTrack(TestCard(384, 384).draw, fps=30, keyframe_every=10_000)
    async with DirectPublisher(stream, track=track), DirectViewer(stream) as viewer:
        await viewer.wait_kind("card")

        def spoil(data: bytes) -> bytes:
            return data[:40] + bytes(255 - value for value in data[40:])

        track.damage = spoil
        await eventually(lambda: stream.statistics().decode_errors > 0)
        track.damage = lambda data: data
        number = track.sent
        await viewer.wait(lambda picture: picture.is_card() and (picture.number() or 0) > number, what="a new card")


async def test_b_frames_of_the_publisher_are_told(stream: EmbeddedStream) -> None:
    card = TestCard(384, 384)
    encoder: Any = av.CodecContext.create("libx264", "w")
    encoder.width, encoder.height, encoder.pix_fmt = 384, 384, "yuv420p"
    encoder.time_base, encoder.max_b_frames = Fraction(1, 30), 2
    encoder.options = {"preset": "veryfast", "g": "30", "bf": "2", "b-adapt": "0"}
    encoded: list[bytes] = []
    for number in range(120):
        frame = card.draw(number)
        frame.pts = number
        encoded += [bytes(packet) for packet in encoder.encode(frame)]

    class Film(CardTrack):
        def _encode(self, frame: av.VideoFrame) -> bytes:
            return encoded[self.sent % 90]

    async with DirectPublisher(stream, track=Film(card.draw, fps=30)):
        await eventually(lambda: stream.statistics().warnings == (B_FRAMES_WARNING,))


async def test_a_placard_is_shown_until_a_picture_comes(stream: EmbeddedStream) -> None:
    stream.send_placard(Placard("Waiting for the camera"))
    async with DirectViewer(stream) as viewer:
        picture = await viewer.wait_kind("placard")
        assert picture.size == (SIZE.width, SIZE.height)
        async with DirectPublisher(stream):
            await viewer.wait_kind("card")
            placards: list[bool] = []
            viewer.on_picture = lambda picture: placards.append(picture.is_placard())
            tries = itertools.count()

            def is_shown() -> bool:  # the camera's next picture takes its place where the encoder is slower than that
                stream.send_placard(Placard("The worker ended", f"{next(tries)}"))
                return any(placards)

            await eventually(is_shown, what="a placard between the pictures of the camera")
            await viewer.wait_kind("card")


async def test_a_placard_is_repeated_so_that_late_viewers_have_it(stream: EmbeddedStream) -> None:
    stream.send_placard(Placard("Loading", "", 3))
    async with DirectViewer(stream) as first:
        await first.wait_kind("placard")
        async with DirectViewer(stream) as second:
            await second.wait_kind("placard")
            assert (await see(second, 3))[-1].is_placard()


async def test_a_change_of_size_reaches_the_placard(stream: EmbeddedStream) -> None:
    stream.send_placard(Placard("Loading"))
    async with DirectViewer(stream) as viewer:
        await viewer.wait_kind("placard")
        stream.resize(PictureSize(512, 448))
        await viewer.wait(lambda picture: picture.size == (512, 448) and picture.is_placard())


async def test_latest_picture_is_the_last_one_sent(stream: EmbeddedStream, echo: Echo) -> None:
    assert stream.latest_picture() is None
    stream.send_placard(Placard("Hello"))
    placard = stream.latest_picture()
    assert placard is not None
    assert placard.size == SIZE
    echo.keep = True
    async with DirectPublisher(stream, fps=30):
        await eventually(lambda: echo.count >= 3)
    latest = stream.latest_picture()
    assert latest is not None
    assert latest.sequence == echo.frames[-1].sequence
    assert all((a == b).all() for a, b in zip(latest.planes, echo.frames[-1].planes, strict=True))


async def test_frames_carry_the_publishers_clock_and_a_number(stream: EmbeddedStream, echo: Echo) -> None:
    echo.keep = True
    async with DirectPublisher(stream, fps=25) as publisher:
        await eventually(lambda: echo.count >= 20)
        frames, left_out = list(echo.frames), sum(stream.statistics().drops.values())
        left_out += publisher.track._ticks - publisher.track.sent
    assert [frame.sequence for frame in frames] == list(range(len(frames)))
    steps = [
        round((later.pts - earlier.pts) * later.time_base * 25, 2) for earlier, later in itertools.pairwise(frames)
    ]
    assert all(step == round(step) >= 1 for step in steps)
    assert set(steps) == {1} or left_out, "where this machine is held up, some are left out, which is counted"
    assert all(earlier.received_at <= later.received_at for earlier, later in itertools.pairwise(frames))


async def test_audio_is_drained_and_counted(stream: EmbeddedStream) -> None:
    class Speaking(DirectPublisher):
        def arrange(self) -> None:
            super().arrange()
            self.connection.addTransceiver(AudioStreamTrack(), direction="sendonly")

    async with Speaking(stream):
        await eventually(
            lambda: any(track.kind == "audio" and track.packets_received > 20 for track in stream.statistics().tracks)
        )
