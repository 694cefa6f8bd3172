"""Bad input of every sort: a clear error, nothing changed, nothing lost."""

import os
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from tests.support.peers import CardTrack, Publisher, Viewer, bare_offer
from tests.support.pictures import TestCard
from tests.support.rest import SMALL, Rest, check_error
from tests.support.server import LiveServer
from tests.support.waiting import eventually

SDP = {"Content-Type": "application/sdp"}
FOREIGN = {
    "an answer": "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n",
    "rtsp camera": "v=0\r\no=- 1 1 IN IP4 10.0.0.1\r\ns=cam\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\n"
    "a=rtpmap:96 H264/90000\r\na=control:trackID=0\r\n",
    "sip call": "v=0\r\no=sip 1 1 IN IP4 10.0.0.1\r\ns=call\r\nc=IN IP4 10.0.0.1\r\nt=0 0\r\n"
    "m=audio 4000 RTP/AVP 0 8\r\n",
    "data channel only": "v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\na=group:BUNDLE 0\r\n"
    "m=application 9 UDP/DTLS/SCTP webrtc-datachannel\r\nc=IN IP4 0.0.0.0\r\na=ice-ufrag:abcd\r\n"
    "a=ice-pwd:abcdefghijklmnopqrstuvwx\r\na=fingerprint:sha-256 " + ":".join(["AB"] * 32) + "\r\n"
    "a=setup:actpass\r\na=mid:0\r\na=sctp-port:5000\r\n",
    "html": "<!doctype html><title>no</title>",
    "json": '{"type": "offer", "sdp": "v=0"}',
}


@pytest.mark.parametrize("name", FOREIGN)
async def test_a_foreign_session_description_is_400_and_leaves_the_publisher(rest: Rest, name: str) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        await viewer.wait_kind("card")
        for url in (stream["whip_url"], publisher.whep_url):
            error = check_error(await rest.http.post(url, content=FOREIGN[name], headers=SDP), 400)
            assert error["code"] == "WEBRTC/INVALID_SDP"
        await viewer.wait_kind("card")
        assert publisher.state == viewer.state == "connected"


async def test_an_offer_without_a_usable_codec_is_400(rest: Rest) -> None:
    stream = await rest.create()

    def only_av1(sdp: str) -> str:
        return sdp.replace("H264/90000", "AV1/90000").replace("VP8/90000", "AV1/90000")

    publisher = Publisher(stream["whip_url"], edit=only_av1)
    try:
        error = check_error(await publisher.post(), 400, "WEBRTC/INVALID_SDP")
        assert "H264" in error["error"].replace(".", "")
    finally:
        await publisher.close(delete=False)


async def test_an_oversized_body_is_413(rest: Rest) -> None:
    stream = await rest.create()
    big = b'{"params": {"prompt": "' + b"x" * 13_000_000 + b'"}}'
    headers = {"Content-Type": "application/json"}
    check_error(await rest.http.post("/v1/streams", content=big, headers=headers), 413, "BODY_TOO_LARGE")
    check_error(await rest.http.patch(f"/v1/streams/{stream['id']}", content=big, headers=headers), 413)
    check_error(await rest.http.post(stream["whip_url"], content=b"v" * 2_000_000, headers=SDP), 413)
    assert await rest.get(stream["id"]) == stream


async def test_a_body_that_does_not_say_its_length_is_cut_off_too(rest: Rest) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(14):
            yield b"x" * 1_000_000

    response = await rest.http.post("/v1/streams", content=endless(), headers={"Content-Type": "application/json"})
    check_error(response, 413, "BODY_TOO_LARGE")


async def test_sessions_of_unknown_streams_are_404(rest: Rest) -> None:
    offer = await bare_offer()
    for path in ("/live/video-to-video/stk_unknown/whip", "/playback/pb_unknown/whep"):
        check_error(await rest.http.post(path, content=offer, headers=SDP), 404, "STREAMS/NOT_FOUND")
        check_error(await rest.http.delete(f"{path}/session"), 404)


async def test_a_session_cannot_be_ended_through_another_streams_url(rest: Rest) -> None:
    mine, other = await rest.create(), await rest.create()
    async with Publisher(mine["whip_url"]) as publisher:
        await publisher.wait_connected()
        session = publisher.session_url.rsplit("/", 1)[1]
        check_error(await rest.http.delete(f"{other['whip_url']}/{session}"), 404, "WEBRTC/SESSION_NOT_FOUND")
        assert publisher.state == "connected"


async def test_a_camera_that_sends_garbage_recovers(rest: Rest) -> None:
    stream = await rest.create()
    dice = random.Random(3)

    def garbage(data: bytes) -> bytes:
        start = data[:5]
        return start + bytes(dice.randrange(1, 256) for _ in range(min(len(data), 900)))

    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        await viewer.wait_kind("card")
        publisher.track.damage = garbage
        await rest.wait_state(stream["id"], "DEGRADED_INPUT")
        publisher.track.damage = lambda data: data
        await viewer.wait(lambda picture: picture.is_card() and picture.number() is not None, what="a whole card")
        await rest.wait_state(stream["id"], "ONLINE")
        assert publisher.state == viewer.state == "connected"


async def test_a_camera_that_loses_every_fourth_picture_goes_on(rest: Rest) -> None:
    stream = await rest.create()
    sent = 0

    def lossy(data: bytes) -> bytes:
        nonlocal sent
        sent += 1
        return data if sent % 4 else data[: len(data) // 3]

    track = CardTrack(TestCard(384, 384).draw, keyframe_every=10)
    async with Publisher(stream["whip_url"], track=track) as publisher, Viewer(publisher.whep_url) as viewer:
        track.damage = lossy
        seen: list[int] = []
        viewer.on_picture = lambda picture: seen.append(picture.number() or 0) if picture.is_card() else None
        await eventually(lambda: len(seen) > 20, what="twenty cards")
        assert publisher.state == viewer.state == "connected"


async def test_the_number_of_streams_is_limited_with_the_reason(make_server: Callable[..., LiveServer]) -> None:
    live = make_server(max_streams=2, max_viewers=1, ready=False)
    async with Rest(live) as rest:
        first = await rest.create()
        await rest.create()
        response = await rest.post_stream({"params": SMALL})
        error = check_error(response, 429, "STREAMS/CAPACITY")
        assert "2" in error["error"]
        assert int(response.headers["retry-after"]) >= 1
        capacity = (await rest.http.get("/v1/capacity")).json()
        assert "2" in str(capacity)
        async with Publisher(first["whip_url"]) as publisher:
            async with Viewer(publisher.whep_url):
                refused = Viewer(publisher.whep_url)
                check_error(await refused.post(), 429, "STREAMS/CAPACITY")
                await refused.close(delete=False)
        assert (await rest.http.delete("/v1/streams", params={"id": first["id"]})).status_code == 200
        await rest.create()


def run_serve(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SDSTREAM_")}
    environment |= {"SDSTREAM_DATA_DIR": str(folder)} | variables
    return subprocess.run(
        [sys.executable, "-m", "sdstream", "serve", "--port", "0", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"SDSTREAM_PROT": "80"}, ("SDSTREAM_PROT", "SDSTREAM_PORT")),
        ({"SDSTREAM_LOG_LEVEL": "loud"}, ("log_level",)),
        ({"SDSTREAM_MAX_STREAMS": "many"}, ("max_streams",)),
        ({"SDSTREAM_AUTHENTICATION": "false", "SDSTREAM_HOST": "0.0.0.0"}, ("authentication",)),
        ({"SDSTREAM_DATA_DIR": "/proc/no-such-place"}, ("/proc/no-such-place",)),
    ],
    ids=["unknown", "choice", "number", "open server", "data directory"],
)
def test_a_wrong_setting_stops_the_start_with_a_clear_line(
    tmp_path: Path, variables: dict[str, str], words: tuple[str, ...]
) -> None:
    done = run_serve(tmp_path, **variables)
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    for word in words:
        assert word.lower() in (done.stderr + done.stdout).lower()


def test_a_port_in_use_stops_the_start_with_a_clear_line(tmp_path: Path, server: LiveServer) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SDSTREAM_")}
    done = subprocess.run(
        [sys.executable, "-m", "sdstream", "serve", "--port", str(server.port)],
        env=environment | {"SDSTREAM_DATA_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode != 0
    assert str(server.port) in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.slow
async def test_two_servers_cannot_share_a_data_directory_by_mistake(
    make_server: Callable[..., LiveServer],
) -> None:
    live = make_server(ready=False)
    done = run_serve(live.data_dir, SDSTREAM_API_KEYS="other")
    assert done.returncode != 0
    assert str(live.data_dir) in done.stderr + done.stdout
    async with httpx.AsyncClient(base_url=live.url) as http:
        assert (await http.get("/health")).status_code == 200
