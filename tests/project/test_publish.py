"""`sdstream publish` against a live server, and its pictures on their own."""

import asyncio
import itertools
import json
import signal
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import httpx
import numpy
import psutil
import pytest
from aiortc.mediastreams import MediaStreamError

from sdstream.commands.camera import LATE_SECONDS, CameraTrack, FilePictures, TestCard, TimedPicture, is_dropped
from sdstream.commands.publish import check_numbers, check_url, choose_size
from sdstream.commands.whip import read_ice_servers
from sdstream.errors import CommandFailed, ConfigurationError
from sdstream.frames import PictureSize
from sdstream.media.files.reader import VideoFacts, VideoReader, to_i420
from tests.project.commands import environment, sdstream, started
from tests.support.server import LiveServer
from tests.support.waiting import eventually_sync

SMALL = {"skip_diffusion": True, "width": 384, "height": 384}


@pytest.mark.slow
@pytest.mark.parametrize("codec", ["h264", "vp8"])
def test_it_sends_every_picture_and_ends_its_session(codec: str, server: LiveServer, tmp_path: Path) -> None:
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {server.key}"}, timeout=10) as api:
        stream = api.post("/v1/streams", json={"params": SMALL}).json()
        size = ["--duration", "2", "--fps", "20", "--width", "384", "--height", "384"]
        options = ["publish", "testsrc", "--url", stream["whip_url"], "--codec", codec, *size, "--report", "json"]
        report: dict[str, Any] = {}
        for _ in range(3):  # what is late by a second is left out: on a machine that was held up, not each time
            done = sdstream(*options, environment=environment(tmp_path))
            assert done.returncode == 0, done.stderr
            report = json.loads(done.stdout)
            assert report["frames"] + report["dropped"] == 40
            if report["frames"] == 40:
                break
        assert report["frames"] == 40
        assert report["codec"] == codec
        assert report["playback_url"].endswith("/whep")
        status = api.get(f"/v1/streams/{stream['id']}/status").json()["data"]
        assert status["state"] == "OFFLINE"
        api.delete(f"/v1/streams/{stream['id']}")


@pytest.mark.slow
def test_ctrl_c_ends_the_session(server: LiveServer, tmp_path: Path) -> None:
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {server.key}"}, timeout=10) as api:
        stream = api.post("/v1/streams", json={"params": SMALL}).json()

        def state() -> str:
            return api.get(f"/v1/streams/{stream['id']}/status").json()["data"]["state"]

        with started("publish", "testsrc", "--url", stream["whip_url"], environment=environment(tmp_path)) as process:
            eventually_sync(lambda: state() == "ONLINE", seconds=40, what="ONLINE")
            process.send_signal(signal.SIGINT)
            said, complaints = process.communicate(timeout=40)
        assert process.returncode == 0
        assert said.startswith("sent ")
        assert "Traceback" not in complaints
        assert state() == "OFFLINE"
        api.delete(f"/v1/streams/{stream['id']}")


def test_a_refusal_is_told_in_the_servers_words(server: LiveServer, tmp_path: Path) -> None:
    url = f"{server.url}/live/video-to-video/stk_nobody/whip"
    done = sdstream("publish", "testsrc", "--url", url, environment=environment(tmp_path))
    assert done.returncode == 1
    assert "the server refused the stream: 404" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    done = sdstream("publish", "testsrc", "--url", "http://127.0.0.1:1/whip", environment=environment(tmp_path))
    assert done.returncode == 1
    assert "no answer from http://127.0.0.1:1/whip" in done.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ALL_PROXY", "socks5://me:secret@127.0.0.1:1"), ("HTTP_PROXY", "foo://me:secret@x"), ("SSL_CERT_FILE", "/none")],
)
def test_a_variable_that_keeps_a_server_from_being_asked_is_named(variable: str, value: str, tmp_path: Path) -> None:
    around = environment(tmp_path) | {variable: value}
    done = sdstream("publish", "testsrc", "--url", "http://127.0.0.1:1/whip", environment=around)
    assert done.returncode == 2
    assert variable in done.stderr
    assert "Traceback" not in done.stderr
    assert "secret" not in done.stderr


@pytest.mark.slow
def test_what_cannot_be_encoded_ends_the_session_and_is_told(server: LiveServer, tmp_path: Path) -> None:
    film = tmp_path / "wide.mkv"
    with av.open(film, "w") as container:
        track = container.add_stream("ffv1", rate=30, width=20_000, height=16, pix_fmt="yuv420p")
        container.mux(track.encode(av.VideoFrame(20_000, 16, "yuv420p")))
        container.mux(track.encode(None))
    with httpx.Client(base_url=server.url, headers={"Authorization": f"Bearer {server.key}"}, timeout=10) as api:
        stream = api.post("/v1/streams", json={"params": SMALL}).json()
        done = sdstream("publish", str(film), "--url", stream["whip_url"], environment=environment(tmp_path))
        assert done.returncode == 1
        assert "20000x16 at 30 pictures and 2500000 bits a second cannot be encoded as h264" in done.stderr
        assert "Traceback" not in done.stderr
        assert api.get(f"/v1/streams/{stream['id']}/status").json()["data"]["state"] == "OFFLINE"
        api.delete(f"/v1/streams/{stream['id']}")


async def test_a_source_that_fails_ends_the_track() -> None:
    class Broken:
        rate = 30.0

        def pictures(self) -> Iterator[TimedPicture]:
            yield from ()
            raise CommandFailed("the file is damaged")

    track = CameraTrack(Broken(), "h264", 100_000)
    with pytest.raises(MediaStreamError):
        await track.recv()
    assert track.finished.is_set()
    assert str(track.failure) == "the file is damaged"


@pytest.mark.parametrize(("width", "height"), [(2, 2), (8, 8), (16, 2), (18, 4)])
def test_a_test_card_may_be_small(width: int, height: int) -> None:
    drawn = list(itertools.islice(TestCard(PictureSize(width, height), 30).pictures(), 40))
    assert {(timed.picture.width, timed.picture.height) for timed in drawn} == {(width, height)}


@pytest.mark.parametrize(
    "url", ["http://[::1", "http://127.0.0.1:99999/whip", "http://", "http://:8080/whip", "ftp://x"]
)
def test_what_is_no_url_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(ConfigurationError, match="is not an http or https URL"):
        check_url(url)


def test_a_picture_too_small_for_a_number_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    options = ["--url", "http://127.0.0.1:1/whip", "--numbered", "--width", "64"]
    done = sdstream("publish", "testsrc", *options, environment=environment(tmp_path))
    assert (done.returncode, "a picture of 64x64 is too small for a number" in done.stderr) == (2, True)


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
def test_a_number_must_be_above_zero_and_finite(value: float) -> None:
    with pytest.raises(ConfigurationError, match=r"--duration: .* is not finite and above zero"):
        check_numbers({"duration": value})


@pytest.mark.parametrize("value", [1e9, 241, 0.05, 0, float("nan"), float("inf")])
def test_a_rate_that_no_camera_has_is_refused_with_the_range(value: float) -> None:
    with pytest.raises(ConfigurationError, match=r"--fps: .* is not between 0\.1 and 240"):
        check_numbers({"fps": value})


def test_the_ends_of_a_range_belong_to_it() -> None:
    check_numbers({"fps": 240, "width": 2, "height": 8192, "bitrate": 1_000_000_000})


def test_the_test_card_moves_and_keeps_its_colours() -> None:
    first, second = (
        to_i420(timed.picture, 0, timed.picture.time_base, 0)
        for timed in itertools.islice(TestCard(PictureSize(512, 512), 30).pictures(), 2)
    )
    assert numpy.any(first.y != second.y)
    assert [int(first.y[10, x]) for x in (20, 500)] == [180, 35]
    assert [timed.seconds for timed in itertools.islice(TestCard(PictureSize(64, 64), 25).pictures(), 3)] == [
        0,
        0.04,
        0.08,
    ]


def test_a_looped_file_goes_on_without_a_gap(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=10)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for _ in range(5):
            container.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        container.mux(stream.encode(None))
    with VideoReader(path) as reader:
        pictures = FilePictures(reader, PictureSize(64, 64), None, loop=True).pictures()
        times = [timed.seconds for timed in itertools.islice(pictures, 12)]
    assert numpy.allclose(numpy.diff(times), 0.1)


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [((None, None), "640x480"), ((320, None), "320x240"), ((None, 240), "320x240"), ((100, 100), "100x100")],
)
def test_one_side_keeps_the_aspect(wanted: tuple[int | None, int | None], expected: str) -> None:
    facts = VideoFacts(640, 480, Fraction(25), Fraction(1, 25), None, None)
    assert str(choose_size(facts, *wanted)) == expected


async def test_a_vp8_camera_starts_no_threads_that_wait_for_each_other() -> None:
    track = CameraTrack(TestCard(PictureSize(1280, 720), 30), "vp8", 1_000_000)
    await track.recv()
    await asyncio.to_thread(lambda: None)  # the pool has its threads
    before = psutil.Process().num_threads()
    other = CameraTrack(TestCard(PictureSize(1280, 720), 30), "vp8", 1_000_000)
    await other.recv()
    assert psutil.Process().num_threads() <= before + 1, "of the pool"
    await track.close()
    await other.close()


def test_ice_servers_are_read_from_links() -> None:
    headers = [
        '<stun:a.example>; rel="ice-server", <https://b.example/doc>; rel="help"',
        '<turn:c.example?transport=tcp>; rel=ice-server; username="1, \\"2\\"; 3"; credential="a\\\\b"; '
        'credential-type="password"',
    ]
    servers = read_ice_servers(headers)
    assert [(server.urls, server.username, server.credential) for server in servers] == [
        ("stun:a.example", None, None),
        ("turn:c.example?transport=tcp", '1, "2"; 3', "a\\b"),
    ]


@pytest.mark.parametrize(
    ("behind", "silent", "dropping", "dropped"),
    [
        (-0.1, 0.03, False, False),
        (LATE_SECONDS, 0.03, False, False),
        (LATE_SECONDS + 0.1, 0.03, False, True),
        (0.1, 0.03, True, True),
        (-0.1, 0.03, True, False),
        (100.0, 1.5, False, False),
        (100.0, 1.5, True, False),
    ],
    ids=["early", "late", "too late", "late after one", "on time again", "after a silence", "never in time"],
)
def test_late_pictures_are_left_out_until_one_is_on_time(
    behind: float, silent: float, dropping: bool, dropped: bool
) -> None:
    assert is_dropped(50.0, 50.0 + behind, 50.0 + behind - silent, dropping=dropping) is dropped


async def test_a_camera_that_was_suspended_goes_on_from_now() -> None:
    suspended = 0.0
    track = CameraTrack(TestCard(PictureSize(64, 64), 25), "h264", 100_000, now=lambda: time.monotonic() + suspended)
    before = [await track.recv() for _ in range(3)]
    suspended = 10.0
    after = [await track.recv() for _ in range(6)]

    def seconds() -> list[float]:
        return [float(packet.pts * packet.time_base) for packet in (*before, *after)]

    while len(after) < 200 and not numpy.all(numpy.diff(seconds()[-3:]) < 0.2):  # this machine was held up just then
        after.append(await track.recv())
    await track.close()
    assert sum(0.1 < moment < 10 for moment in seconds()) <= 3, "what was made ahead, and the first of now"
    assert track.dropped > 200
    assert numpy.all(numpy.diff(seconds()[-3:]) < 0.2), "and then each in its time"
