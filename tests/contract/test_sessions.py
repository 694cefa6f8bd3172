"""Acceptance statements 40 to 54 and 60 of the contract: WHIP and WHEP (48, 50 and 51: test_cold_worker.py)."""

import asyncio
import sys
import time
from contextlib import AsyncExitStack
from typing import Any

import httpx
import pytest

from tests.support.goes import without_a_gap
from tests.support.mediamtx import on_both
from tests.support.offers import like_obs, media_lines, obs_payload_types, payload_types, unchanged, without_candidates
from tests.support.peers import CardTrack, Publisher, Viewer, preserved
from tests.support.pictures import Picture, TestCard
from tests.support.rest import SMALL, Rest, block, check_error, whep_of
from tests.support.waiting import eventually

ORIGIN = {"Origin": "https://studio.example.org"}
SDP = {"Content-Type": "application/sdp"}


def listed(header: str) -> set[str]:
    return {part.strip().lower() for part in header.split(",")}


@on_both
async def test_40_the_whip_answer_has_all_its_headers(rest: Rest) -> None:
    stream = await rest.create()
    publisher = Publisher(stream["whip_url"])
    publisher.headers |= ORIGIN
    async with publisher:
        response = publisher.response
        assert response is not None
        assert response.status_code == 201
        assert response.headers["content-type"].split(";")[0] == "application/sdp"
        assert response.headers["location"]
        assert publisher.whep_url.startswith(("http://", "https://"))
        assert listed(response.headers["access-control-expose-headers"]) >= {
            "location",
            "etag",
            "link",
            "livepeer-playback-url",
        }
        assert response.headers["access-control-allow-origin"] in ("*", ORIGIN["Origin"])
        assert "a=candidate:" in response.text
        assert "a=end-of-candidates" in response.text
        await publisher.wait_connected()


async def test_40_parameters_of_the_content_type_are_accepted(rest: Rest) -> None:
    stream = await rest.create()
    publisher = Publisher(stream["whip_url"])
    publisher.headers["Content-Type"] = "application/sdp; charset=utf-8"
    async with publisher:
        await publisher.wait_connected()


@pytest.mark.parametrize("key", [None, "acceptance-key", "wrong-key"])
async def test_41_whip_and_whep_work_with_and_without_authorization(rest: Rest, key: str | None) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"], key=key) as publisher, Viewer(publisher.whep_url, key=key) as viewer:
        await viewer.wait_kind("card")


@on_both
async def test_42_offers_without_any_candidate_connect(rest: Rest) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"], edit=without_candidates) as publisher:
        assert "a=candidate:" not in publisher.offer
        async with Viewer(publisher.whep_url, edit=without_candidates) as viewer:
            assert "a=candidate:" not in viewer.offer
            await viewer.wait_kind("card")


@on_both
async def test_42_offers_with_candidates_connect_too(rest: Rest) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"], edit=unchanged) as publisher:
        assert "a=candidate:" in publisher.offer
        async with Viewer(publisher.whep_url, edit=unchanged) as viewer:
            await viewer.wait_kind("card")


@pytest.mark.parametrize("audio", [False, True], ids=["video only", "audio without packets"])
@on_both
async def test_43_video_only_and_silent_audio_offers_work(rest: Rest, audio: bool) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"], audio=audio) as publisher:
        assert len(media_lines(publisher.offer)) == 1 + audio
        assert [line.split()[0] for line in media_lines(publisher.answer)] == [
            line.split()[0] for line in media_lines(publisher.offer)
        ]
        async with Viewer(publisher.whep_url) as viewer:
            await viewer.wait_kind("card")


@on_both
async def test_43_vp8_is_accepted_from_clients_without_h264(rest: Rest) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"], codec="VP8") as publisher:
        async with Viewer(publisher.whep_url, codecs=("VP8",), audio=False) as viewer:
            await viewer.wait_kind("card")
        async with Viewer(publisher.whep_url, codecs=("H264",), audio=False) as viewer:
            await viewer.wait_kind("card")


@on_both
async def test_43_h264_is_selected_even_when_vp8_is_offered_first(rest: Rest) -> None:
    stream = await rest.create()
    both = ("VP8", "H264")
    async with (
        Publisher(stream["whip_url"], offered=both) as publisher,
        Viewer(publisher.whep_url, codecs=both) as viewer,
    ):
        for peer in (publisher, viewer):
            first = payload_types(peer.answer, "video")[0]
            assert f"a=rtpmap:{first} H264/90000" in peer.answer
        await viewer.wait_kind("card")


@on_both
async def test_44_an_offer_like_obs_is_answered_with_its_payload_types(rest: Rest) -> None:
    stream = await rest.create()
    with obs_payload_types():
        async with Publisher(stream["whip_url"], audio=True, edit=like_obs, slices=4) as publisher:
            assert payload_types(publisher.offer, "video") == [96]
            assert payload_types(publisher.offer, "audio") == [111]
            assert payload_types(publisher.answer, "video") == [96]
            assert "a=rtpmap:96 H264/90000" in publisher.answer
            async with Viewer(publisher.whep_url, edit=like_obs) as viewer:
                assert payload_types(viewer.answer, "video") == [96]
                await viewer.wait_kind("card")


@on_both
async def test_45_a_browsers_whep_offer_gets_both_sections_answered(rest: Rest) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url, audio=True) as viewer:
        assert [line.split()[0] for line in media_lines(viewer.answer)] == ["m=video", "m=audio"]
        assert viewer.answer.count("a=mid:") == 2
        await viewer.wait_kind("card")


@on_both
async def test_46_a_video_only_whep_offer_works(rest: Rest) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url, audio=False) as viewer:
        assert len(media_lines(viewer.answer)) == 1
        await viewer.wait_kind("card")


@on_both
async def test_47_pictures_of_several_slices_decode(rest: Rest) -> None:
    stream = await rest.create()
    sliced: list[int] = []

    def count(data: bytes) -> bytes:
        sliced.append(sum(data[at + 3] & 31 in (1, 5) for at in range(len(data) - 3) if data[at : at + 3] == b"\0\0\1"))
        return data

    async with Publisher(stream["whip_url"], slices=4) as publisher, Viewer(publisher.whep_url) as viewer:
        publisher.track.damage = count
        await viewer.wait_kind("card")
        numbers: list[int | None] = []
        viewer.on_picture = lambda picture: numbers.append(picture.number()) if picture.is_card() else None
        await eventually(lambda: len(numbers) >= 30, what="thirty pictures")
        assert set(sliced) == {4}
        assert None not in numbers
        assert (await rest.status(stream["id"]))["media"]["decode_errors"] == 0


@on_both
async def test_49_whep_before_ingest_is_404_and_the_same_offer_works_later(rest: Rest) -> None:
    stream = await rest.create()
    with obs_payload_types():
        viewer = Viewer(whep_of(rest, stream), edit=like_obs)
        try:
            for _ in range(3):
                check_error(await viewer.post(), 404, "STREAMS/NO_PICTURE_YET")
            async with Publisher(stream["whip_url"], audio=True, edit=like_obs):
                await viewer.open()
                await viewer.wait_kind("card")
        finally:
            await viewer.close()


@on_both
async def test_52_delete_on_the_location_ends_the_session(rest: Rest) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        await viewer.wait_kind("card")
        for peer in (viewer, publisher):
            async with httpx.AsyncClient(timeout=30) as http:
                options = await http.options(
                    peer.session_url, headers=ORIGIN | {"Access-Control-Request-Method": "DELETE"}
                )
                assert options.status_code == 204
                assert "DELETE" in options.headers["access-control-allow-methods"]
                ended = await http.delete(peer.session_url, headers=ORIGIN)
                assert ended.status_code == 200
                assert ended.headers["access-control-allow-origin"] in ("*", ORIGIN["Origin"])
                again = await http.delete(peer.session_url, headers=ORIGIN)
                check_error(again, 404, "WEBRTC/SESSION_NOT_FOUND")
                assert again.headers["access-control-allow-origin"] in ("*", ORIGIN["Origin"])
            await eventually(lambda peer=peer: peer.state == "closed", what=f"{type(peer).__name__} closed")
        status = await rest.wait_state(stream["id"], "OFFLINE")
        assert (status["viewers"], status["publisher"]) == (0, "absent")


@pytest.mark.alone
@on_both
async def test_53_a_second_publisher_takes_over(rest: Rest) -> None:
    stream = await rest.create()

    card = TestCard(384, 384)

    async with AsyncExitStack() as stack:
        publishers: list[Publisher] = [await stack.enter_async_context(Publisher(stream["whip_url"]))]
        viewer: Viewer = await stack.enter_async_context(Viewer(publishers[0].whep_url))
        await viewer.wait_kind("card")

        async def take_over(go: int) -> None:
            first_number = 10_000 * (go + 1)

            def is_of_the_next(picture: Picture) -> bool:
                return (picture.number() or 0) >= first_number

            track = CardTrack(lambda number: card.draw(first_number + number))
            last = publishers[-1]
            publishers.append(await stack.enter_async_context(Publisher(stream["whip_url"], track=track)))
            assert publishers[-1].whep_url == last.whep_url
            await viewer.wait(is_of_the_next, what="the next camera")
            await eventually(lambda: last.state == "closed", what="the publisher before closed")
            assert viewer.state == "connected"

        await without_a_gap(viewer, take_over, 1.5)
        async with Viewer(publishers[-1].whep_url) as later:
            await later.wait(lambda picture: (picture.number() or 0) >= 10_000, what="the last camera")


PUBLISHER_PROGRAM = """
import asyncio, sys
from tests.support.peers import Publisher

async def main():
    async with Publisher(sys.argv[1]) as publisher:
        await publisher.wait_connected()
        print("connected", flush=True)
        await asyncio.sleep(600)

asyncio.run(main())
"""


@pytest.mark.slow
async def test_54_a_killed_publisher_frees_its_place_within_sixty_seconds(rest: Rest) -> None:
    stream = await rest.create()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PUBLISHER_PROGRAM, stream["whip_url"], stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 60) == b"connected\n"
        await rest.wait_state(stream["id"], "ONLINE")
    finally:
        process.kill()
        killed = time.monotonic()
        await process.wait()
    await rest.wait_state(stream["id"], "DEGRADED_INPUT")
    status = await rest.wait_state(stream["id"], "OFFLINE", seconds=60)
    assert time.monotonic() - killed < 60
    assert status["publisher"] == "absent"
    async with Publisher(stream["whip_url"]):
        await rest.wait_state(stream["id"], "ONLINE")


@pytest.mark.parametrize(
    ("output", "source", "processors", "expected"),
    [
        ((384, 384), (640, 480), [], (384, 384)),
        ((512, 384), (320, 240), [], (512, 384)),
        ((384, 640), (240, 400), [], (384, 640)),
        ((384, 384), (384, 384), [{"type": "upscale", "params": {"scale_factor": 2.0}}], (768, 768)),
        # Its weights are not here: the picture is enlarged without them, for its size was promised.
        ((384, 384), (384, 384), [{"type": "realesrgan_trt"}], (768, 768)),
    ],
    ids=["smaller", "larger", "portrait", "upscaled", "realesrgan"],
)
@on_both
async def test_60_the_output_has_the_streams_size(
    rest: Rest,
    output: tuple[int, int],
    source: tuple[int, int],
    processors: list[dict[str, Any]],
    expected: tuple[int, int],
) -> None:
    params = SMALL | {"width": output[0], "height": output[1]}
    if processors:
        params |= {"image_postprocessing": block(*processors)}
    stream = await rest.create(params)
    async with (
        Publisher(stream["whip_url"], width=source[0], height=source[1]) as publisher,
        Viewer(publisher.whep_url) as viewer,
    ):
        picture = await viewer.wait(lambda picture: picture.size == expected and picture.is_card(60), what="a card")
        assert picture.size == expected


async def test_60_a_camera_of_another_shape_fills_the_output_undistorted(rest: Rest) -> None:
    stream = await rest.create()
    async with (
        Publisher(stream["whip_url"], width=640, height=384) as publisher,
        Viewer(publisher.whep_url, audio=False) as viewer,
    ):

        def cropped(picture: Picture) -> bool:
            # The middle 384 of 640 columns: the red square, 160 wide, ends at column 32 of 384.
            red, _, blue = picture.colour(0.03, 0.12)
            return red - blue > 100 and min(picture.colour(0.16, 0.12)) > 190

        assert (await viewer.wait(cropped, what="the middle of the card")).size == (384, 384)


@pytest.mark.slow
@on_both
async def test_60_the_size_stays_when_the_camera_changes_its_own(rest: Rest) -> None:
    stream = await rest.create()
    cards = [TestCard(384, 384), TestCard(640, 360), TestCard(320, 320)]
    track = CardTrack(lambda number: cards[min(2, number // 40)].draw(number))
    async with Publisher(stream["whip_url"], track=track) as publisher, Viewer(publisher.whep_url) as viewer:
        sizes: set[tuple[int, int]] = set()
        viewer.on_picture = lambda picture: sizes.add(picture.size)
        await publisher.wait_connected()
        await viewer.wait_connected()
        with preserved(publisher, viewer):
            await viewer.wait(lambda picture: (picture.number() or 0) >= 100, seconds=60, what="the third size")
        assert sizes == {(384, 384)}
