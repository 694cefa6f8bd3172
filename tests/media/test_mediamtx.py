"""The MediaMTX back end: its decisions, and, where the program is here, the whole way through it."""

import asyncio
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from sdstream.clock import SystemClock
from sdstream.errors import ConfigurationError, StreamNotFound
from sdstream.media.mediamtx import MediaMtxMedia, uninvited
from sdstream.media.mediamtx.config import Ports, configuration
from sdstream.media.mediamtx.control import Party, PathState, read_path
from sdstream.media.mediamtx.doors import DoorKeeper, Question, Rules
from sdstream.media.mediamtx.process import find_program, version_problem, without_secrets
from sdstream.media.mediamtx.stream import MediaMtxStream
from sdstream.media.ports import PublisherState
from tests.media.clients import DirectPublisher, DirectViewer, make_settings
from tests.media.conftest import SIZE, Echo

PROGRAM = os.environ.get("MEDIAMTX_BIN") or shutil.which("mediamtx")
needs_mediamtx = pytest.mark.skipif(PROGRAM is None, reason="mediamtx is neither in PATH nor named by MEDIAMTX_BIN")
RULES = Rules("our secret", lambda key: key == "stk_a", lambda playback: playback == "pb_a")
PORTS = Ports(api=1001, whip=1002, rtsp=1003)


def values(ports: Ports) -> dict[str, object]:
    return json.loads(configuration(ports, "http://127.0.0.1:9/secret", ["192.0.2.1"]))


# Decisions


def test_nothing_is_open_beyond_this_machine_unless_its_port_is_set() -> None:
    made = values(PORTS)
    assert (made["rtmp"], made["srt"], made["hls"], made["moq"], made["metrics"]) == (False,) * 5
    for name in ("apiAddress", "rtspAddress", "webrtcAddress"):
        assert str(made[name]).startswith("127.0.0.1:")
    assert (made["webrtcLocalUDPAddress"], made["webrtcLocalTCPAddress"]) == ("", "")


def test_a_port_that_is_set_is_open() -> None:
    made = values(Ports(1001, 1002, 8554, rtsp_is_public=True, rtmp=1935, srt=8890, webrtc_udp=8189, webrtc_tcp=8189))
    assert (made["rtspAddress"], made["rtmpAddress"], made["srtAddress"]) == (":8554", ":1935", ":8890")
    assert (made["webrtcLocalUDPAddress"], made["webrtcLocalTCPAddress"]) == (":8189", ":8189")


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        (Question("publish", "in/stk_a", protocol="rtmp"), "yes"),
        (Question("publish", "in/stk_b", protocol="rtmp"), "no"),
        (Question("publish", "out/pb_a", protocol="rtsp"), "no"),
        (Question("publish", "in/stk_a", protocol="webrtc"), "no"),
        (Question("read", "out/pb_a", protocol="srt"), "yes"),
        (Question("read", "out/pb_b", protocol="srt"), "no"),
        (Question("read", "in/stk_a", protocol="rtsp"), "no"),
        (Question("read", "in/stk_a", user="sdstream", password="our secret", protocol="rtsp"), "yes"),
        (Question("publish", "out/pb_a", user="sdstream", password="another", protocol="rtsp"), "no"),
        (Question("api"), "who"),
        (Question("api", user="sdstream", password="our secret"), "yes"),
        (Question("api", user="somebody", password="our secret"), "no"),
    ],
)
def test_who_may_do_what(question: Question, answer: str) -> None:
    assert RULES.decide(question) == answer


def test_a_publisher_whose_stream_is_not_open_is_ended() -> None:
    def path(name: str) -> PathState:
        return PathState(name, online=True, publisher=Party("rtmpConn", name))

    paths = {name: path(name) for name in ("in/open", "in/opening", "in/gone", "out/pb")}
    assert uninvited(paths, {"in/open"}, {"in/opening"}) == (Party("rtmpConn", "in/gone"),)


def test_a_path_is_read_as_the_api_gives_it() -> None:
    item = {
        "name": "in/a",
        "online": True,
        "source": {"type": "srtConn", "id": "7"},
        "readers": [{"type": "rtspSession", "id": "8"}],
        "inboundBytes": 5,
        "outboundBytes": 6,
    }
    expected = PathState("in/a", True, Party("srtConn", "7"), (Party("rtspSession", "8"),), 5, 6)
    assert read_path(item) == expected


@pytest.mark.parametrize(
    ("said", "good"), [("v1.20.1", True), ("v1.21.0", True), ("v1.19.9", False), ("v2.0.0", False), ("nothing", False)]
)
def test_which_versions_are_used(said: str, good: bool) -> None:
    assert (version_problem(said) is None) == good


def test_log_lines_lose_their_keys() -> None:
    line = "2026/01/01 00:00:00 INF [RTMP] is publishing to path 'in/stk_secret' srt://h?streamid=publish:in/stk_secret"
    assert "stk_secret" not in without_secrets(line)


def test_a_missing_program_is_told_with_what_to_do(tmp_path: Path) -> None:
    settings = make_settings(mediamtx_program=str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="is not here") as caught:
        find_program(settings, {})
    assert "SDSTREAM_MEDIAMTX_PROGRAM" in (caught.value.hint or "")


async def test_questions_are_answered_by_http_and_only_on_the_secret_path() -> None:
    admitted: list[str] = []
    keeper = DoorKeeper(RULES, admitted.append)
    await keeper.start()
    try:
        async with httpx.AsyncClient(trust_env=False) as http:
            body = {"action": "publish", "path": "in/stk_a", "protocol": "srt", "user": "", "id": None, "query": "x"}
            good = await http.post(keeper.url, json=body)
            bad = await http.post(keeper.url, json=body | {"path": "in/stk_b"})
            elsewhere = await http.post(f"{keeper.url}x", json=body)
            broken = await http.post(keeper.url, content=b"{")
    finally:
        await keeper.close()
    assert [answer.status_code for answer in (good, bad, elsewhere, broken)] == [200, 403, 404, 400]
    assert admitted == ["stk_a"]


# The whole way


class Doors:
    """One stream, `stk_a` and `pb_a`."""

    def __init__(self) -> None:
        self.media: MediaMtxMedia | None = None
        self.echo = Echo()
        self.stream: MediaMtxStream | None = None
        self.settings = make_settings()

    def names_of(self, stream_id: str) -> tuple[str, str]:
        return "stk_a", "pb_a"

    def may_publish(self, stream_key: str) -> bool:
        return stream_key == "stk_a"

    async def open(self) -> MediaMtxStream:
        assert self.media is not None
        opened = await self.media.open_stream("stream", SIZE, self.echo)
        assert isinstance(opened, MediaMtxStream)
        self.stream = self.echo.stream = opened
        return opened

    async def admit(self, stream_key: str) -> None:
        if stream_key != "stk_a":
            raise StreamNotFound("There is no such stream.")
        stream = self.stream or await self.open()
        stream.admit()


def free_port(kind: socket.SocketKind) -> int:
    with socket.socket(socket.AF_INET, kind) as opened:
        opened.bind(("127.0.0.1", 0))
        return opened.getsockname()[1]


async def wait_until(condition: Callable[[], bool], what: str, seconds: float = 25.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 -- other processes set it
            await asyncio.sleep(0.05)
    assert condition(), what


@pytest.fixture
async def doors() -> AsyncIterator[Doors]:
    settings = make_settings(
        media_backend="mediamtx",
        mediamtx_program=PROGRAM,
        mediamtx_rtmp_port=free_port(socket.SOCK_STREAM),
        mediamtx_rtsp_port=free_port(socket.SOCK_STREAM),
        mediamtx_srt_port=free_port(socket.SOCK_DGRAM),
        mediamtx_webrtc_udp_port=free_port(socket.SOCK_DGRAM),
    )
    made = Doors()
    made.media = MediaMtxMedia(settings, SystemClock())
    made.media.answer_with(made)
    made.settings = settings
    try:
        await made.media.start()
        yield made
    finally:
        await made.media.close()
    await asyncio.sleep(0)


def ffmpeg(url: str, container: str, sound: str = "aac") -> "subprocess.Popen[bytes]":
    """A publisher: a test picture and a tone in real time, until it is killed."""
    command = ["ffmpeg", "-hide_banner", "-loglevel", "error", "-re"]
    command += ["-f", "lavfi", "-i", "testsrc=size=256x256:rate=25", "-f", "lavfi", "-i", "sine=frequency=440"]
    command += ["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "25", "-pix_fmt", "yuv420p"]
    command += ["-c:a", sound, "-ac", "2", "-ar", "48000", "-strict", "-2"]
    command += ["-rtsp_transport", "tcp"] if container == "rtsp" else []
    return subprocess.Popen([*command, "-f", container, url], stdin=subprocess.DEVNULL)


def address(doors: Doors, way: str) -> tuple[str, str]:
    settings = doors.settings
    return {
        "rtmp": (f"rtmp://127.0.0.1:{settings.mediamtx_rtmp_port}/in/stk_a", "flv"),
        "rtsp": (f"rtsp://127.0.0.1:{settings.mediamtx_rtsp_port}/in/stk_a", "rtsp"),
        "srt": (f"srt://127.0.0.1:{settings.mediamtx_srt_port}?streamid=publish:in/stk_a&pkt_size=1316", "mpegts"),
    }[way]


@needs_mediamtx
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.parametrize("way", ["rtmp", "rtsp", "srt"])
async def test_what_is_published_without_an_offer_is_seen_and_heard_by_whep(doors: Doors, way: str) -> None:
    url, container = address(doors, way)
    publisher = ffmpeg(url, container, "libopus" if way == "rtsp" else "aac")
    try:
        await wait_until(lambda: doors.echo.count > 5, "pictures come")
        stream = doors.stream
        assert stream is not None
        async with DirectViewer(stream) as viewer:
            await wait_until(lambda: viewer.count > 10, "pictures come out")
            await wait_until(lambda: stream.statistics().sound.packets > 20, "sound comes out")
            await wait_until(lambda: doors.echo.viewers[-1:] == [1], "the viewer is counted")
            assert viewer.newest is not None
            assert viewer.newest.size == (256, 256)
    finally:
        publisher.kill()
        publisher.wait()
    await wait_until(lambda: doors.echo.states[-1] is PublisherState.ABSENT, "it is seen that the publisher went")


@needs_mediamtx
@pytest.mark.slow
async def test_whip_in_and_whep_out_and_after_a_restart_the_publisher_may_come_again(doors: Doors) -> None:
    stream = await doors.open()
    async with DirectPublisher(stream):
        async with DirectViewer(stream) as viewer:
            await viewer.wait_kind("card", seconds=25.0)
        media = doors.media
        assert media is not None
        child = media.process_id
        assert child is not None
        os.kill(child, signal.SIGKILL)
        await wait_until(lambda: doors.echo.states[-1] is PublisherState.ABSENT, "its end is seen")
        await wait_until(lambda: media.process_id not in (None, child), "it is started again")
    before = doors.echo.count
    await wait_until(stream.is_taken, "the output is taken again")
    async with DirectPublisher(stream), DirectViewer(stream) as viewer:
        await wait_until(lambda: doors.echo.count > before + 5, "pictures come again")
        await viewer.wait_kind("card", seconds=25.0)


@needs_mediamtx
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
async def test_a_publisher_without_the_key_is_refused(doors: Doors) -> None:
    url, container = address(doors, "rtmp")
    publisher = ffmpeg(url.replace("stk_a", "stk_b"), container)
    try:
        assert await asyncio.to_thread(publisher.wait, 30) != 0
    finally:
        publisher.kill()
    assert doors.stream is None
    assert doors.echo.count == 0
