"""The whole way through the MediaMTX back end: with a stand-in everywhere, and with MediaMTX where that is here."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import av
import pytest
from av.error import FFmpegError

from sdstream.clock import SystemClock
from sdstream.errors import ConfigurationError, InvalidSdp, StreamNotFound, Unavailable, WebRtcOff
from sdstream.media.mediamtx import MediaMtxMedia, outputs
from sdstream.media.mediamtx import stream as stream_module
from sdstream.media.mediamtx.control import ControlApi
from sdstream.media.mediamtx.reader import InputReader
from sdstream.media.mediamtx.stream import MediaMtxStream
from sdstream.media.ports import PublisherState, SessionEnd
from tests.media.clients import (
    OBS_WHEP,
    OBS_WHIP,
    VP8_ONLY,
    DirectPublisher,
    DirectViewer,
    browser_offer,
    make_settings,
)
from tests.media.conftest import SIZE, Echo
from tests.support.mediamtx import PROGRAM, media_settings, needs_mediamtx
from tests.support.picture_sockets import decoded, encoded
from tests.support.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = "stand-in"
with_both = pytest.mark.parametrize(
    "program",
    [STAND_IN, pytest.param(PROGRAM, id="mediamtx", marks=[needs_mediamtx, pytest.mark.slow])],
    indirect=True,
)


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


async def wait_until(condition: Callable[[], bool], what: str, seconds: float = 40.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 -- other processes set it
            await asyncio.sleep(0.05)
    assert condition(), what


@pytest.fixture
def program(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """MediaMTX's; "stand-in" for ours."""
    wanted = getattr(request, "param", PROGRAM)
    if wanted != STAND_IN:
        assert isinstance(wanted, str)
        return wanted
    script = tmp_path / "mediamtx"
    # Its own name as a module is known from the folder of the tests only.
    script.write_text(f"#!/bin/sh\ncd '{ROOT}' && exec '{sys.executable}' -m tests.media.mediamtx_stand_in \"$1\"\n")
    script.chmod(0o755)
    return str(script)


@pytest.fixture
async def doors(program: str) -> AsyncIterator[Doors]:
    settings = make_settings(mediamtx_program=program, **media_settings())
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


@asynccontextmanager
async def publishing(url: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A publisher of pictures and sound by RTSP beside the block."""
    command = (sys.executable, "-m", "tests.media.rtsp_publisher", url)
    process = await asyncio.create_subprocess_exec(*command, cwd=ROOT, stderr=asyncio.subprocess.DEVNULL)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def watch(url: str, pictures: int, packets: int) -> tuple[set[tuple[int, int]], int]:
    """The sizes of so many pictures, read by RTSP, and the packets of sound between them, at least so many."""
    sizes: list[tuple[int, int]] = []
    heard = 0
    with av.open(url, options={"rtsp_transport": "tcp"}, timeout=30.0) as container:
        for packet in container.demux():
            if packet.stream.type == "audio":
                heard += 1
            else:
                sizes += [(frame.width, frame.height) for frame in packet.decode() if isinstance(frame, av.VideoFrame)]
            if len(sizes) >= pictures and heard >= packets:
                break
    return set(sizes), heard


def rtsp(doors: Doors, path: str) -> str:
    return f"rtsp://127.0.0.1:{doors.settings.mediamtx_rtsp_port}/{path}"


@with_both
async def test_what_is_published_by_rtsp_is_seen_and_heard_by_rtsp(doors: Doors) -> None:
    async with publishing(rtsp(doors, "in/stk_a")):
        await wait_until(lambda: doors.echo.count > 5, "pictures come")
        stream = doors.stream
        assert stream is not None
        await wait_until(stream.is_taken, "the output is taken")
        sizes, heard = await asyncio.to_thread(watch, rtsp(doors, "out/pb_a"), 10, 10)
        assert (sizes, heard >= 10) == ({(256, 256)}, True)
        await wait_until(lambda: 1 in doors.echo.viewers, "the viewer is counted")
        tracks = {track.kind: track for track in stream.statistics().tracks}
        assert {kind: track.codec for kind, track in tracks.items()} == {"video": "H264", "audio": "OPUS"}
        assert all(track.packets_received > 5 and track.jitter < 5 for track in tracks.values())
    await wait_until(lambda: doors.echo.states[-1] is PublisherState.ABSENT, "it is seen that the publisher went")


@with_both
async def test_a_killed_program_is_started_again_and_the_publisher_may_come_again(doors: Doors) -> None:
    stream = await doors.open()
    media = doors.media
    assert media is not None
    async with publishing(rtsp(doors, "in/stk_a")):
        await wait_until(lambda: doors.echo.count > 5, "pictures come")
        child = media.process_id
        assert child is not None
        os.kill(child, signal.SIGKILL)
        await wait_until(lambda: doors.echo.states[-1] is PublisherState.ABSENT, "its end is seen")
        await wait_until(lambda: media.process_id not in (None, child), "it is started again")
    await wait_until(stream.is_taken, "the output is taken again")
    before = doors.echo.count
    async with publishing(rtsp(doors, "in/stk_a")):
        await wait_until(lambda: doors.echo.count > before + 5, "pictures come again")


@pytest.mark.parametrize("program", [STAND_IN], indirect=True)
async def test_a_publisher_for_whom_there_was_no_thread_is_taken_at_another_look(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    refused = iter((True, True))

    def make_reader(*given: Any) -> InputReader:
        if next(refused, False):
            raise RuntimeError("can't start new thread")
        return InputReader(*given)

    monkeypatch.setattr(stream_module, "InputReader", make_reader)
    async with publishing(rtsp(doors, "in/stk_a")):
        await wait_until(lambda: doors.echo.count > 5, "pictures come")
    await wait_until(lambda: doors.echo.states[-1] is PublisherState.ABSENT, "it is seen that the publisher went")


@with_both
async def test_neither_a_publisher_nor_a_viewer_comes_in_without_its_key(doors: Doors) -> None:
    await doors.open()
    for path in ("in/stk_b", "out/pb_a"):
        async with publishing(rtsp(doors, path)) as publisher:
            async with asyncio.timeout(40.0):
                assert await publisher.wait() != 0
    for path in ("out/pb_b", "in/stk_a"):
        with pytest.raises(FFmpegError):
            await asyncio.to_thread(watch, rtsp(doors, path), 1, 0)
    assert doors.echo.count == 0


@with_both
async def test_a_publisher_is_ended_with_its_stream(doors: Doors) -> None:
    async with publishing(rtsp(doors, "in/stk_a")) as publisher:
        await wait_until(lambda: doors.echo.count > 5, "pictures come")
        assert doors.stream is not None
        await doors.stream.close()
        async with asyncio.timeout(40.0):
            assert await publisher.wait() != 0


@with_both
async def test_whole_pictures_come_in_and_are_seen_by_rtsp_and_as_whole_pictures(doors: Doors) -> None:
    stream = await doors.open()
    publisher, viewer = await stream.publish_pictures(), await stream.watch_pictures()
    await publisher.put(encoded(7, (256, 256)))
    picture = await viewer.next()
    assert picture is not None
    assert decoded(picture).number() == 7
    await wait_until(stream.is_taken, "the output is taken")
    sizes, _ = await asyncio.to_thread(watch, rtsp(doors, "out/pb_a"), 1, 0)
    assert sizes == {(256, 256)}
    assert await stream.end_session(publisher.session_id)
    assert await stream.end_session(viewer.session_id)
    assert doors.echo.states == [PublisherState.CONNECTED, PublisherState.ABSENT]


@with_both
async def test_publishers_by_rtsp_and_of_whole_pictures_take_over_from_each_other(doors: Doors) -> None:
    stream = await doors.open()
    first = await stream.publish_pictures()
    async with publishing(rtsp(doors, "in/stk_a")) as other:
        await asyncio.wait_for(first.ended(), 30)
        assert first.end is SessionEnd.REPLACED
        await wait_until(lambda: doors.echo.count > 5, "pictures come")
        third = await stream.publish_pictures()
        async with asyncio.timeout(40.0):
            assert await other.wait() != 0
    before = doors.echo.count
    await third.put(encoded(1))
    assert doors.echo.count == before + 1
    assert third.end is None
    assert doors.echo.states[-1] is PublisherState.CONNECTED


@pytest.mark.parametrize("program", [STAND_IN], indirect=True)
async def test_the_place_of_a_viewer_that_was_ended_is_free_at_once(doors: Doors) -> None:
    stream = await doors.open()
    await wait_until(stream.is_taken, "the output is taken")
    answer = await stream.watch(OBS_WHEP)
    await wait_until(lambda: doors.echo.viewers == [1], "the viewer is counted")
    assert await stream.end_session(answer.session_id)
    assert doors.echo.viewers == [1, 0]
    assert not await stream.end_session(answer.session_id)


@pytest.mark.parametrize("program", [STAND_IN], indirect=True)
async def test_vp8_is_made_while_a_viewer_takes_nothing_else_and_for_nobody_beside(
    doors: Doors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "IDLE_SECONDS", 0.5)
    stream = await doors.open()
    await wait_until(stream.is_taken, "the output is taken")
    assert doors.media is not None
    control = doors.media.control
    assert set(await control.paths()) == {"out/pb_a"}
    answer = await stream.watch(browser_offer(VP8_ONLY, "recvonly"))
    await wait_until(lambda: doors.echo.viewers == [1], "the viewer is counted")
    assert set(await control.paths()) == {"out/pb_a", "vp8/pb_a"}
    with pytest.raises(FFmpegError):
        await asyncio.to_thread(watch, rtsp(doors, "vp8/pb_a"), 1, 0)
    assert await stream.end_session(answer.session_id)

    async def is_gone() -> bool:
        return set(await control.paths()) == {"out/pb_a"}

    await eventually(is_gone, what="the end of VP8")


@with_both
async def test_the_control_api_is_for_who_knows_the_secret(doors: Doors) -> None:
    assert doors.media is not None
    stranger = ControlApi(doors.media.ports, "another secret")
    try:
        with pytest.raises(Unavailable, match="401"):
            await stranger.paths()
    finally:
        await stranger.close()


@with_both
async def test_offers_are_relayed_and_what_refuses_them_is_told_apart(doors: Doors) -> None:
    assert doors.media is not None
    control = doors.media.control
    with pytest.raises(LookupError):
        await control.open_session("out/pb_a", "whep", OBS_WHIP.replace("sendonly", "recvonly"))
    with pytest.raises(InvalidSdp):
        await control.open_session("in/stk_a", "whip", "no offer")
    session = await control.open_session("in/stk_a", "whip", OBS_WHIP)
    assert session.sdp.startswith("v=0")
    assert await control.end_session(session.url)
    assert not await control.end_session(session.url)
    assert not await control.add_candidates(session.url, "a=ice-ufrag:a\r\na=ice-pwd:b\r\n")


# What the stand-in does not have


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
            await viewer.wait_kind("card", seconds=40.0)
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
        await viewer.wait_kind("card", seconds=40.0)


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


@pytest.mark.parametrize("program", [STAND_IN], indirect=True)
async def test_on_a_pod_webrtc_takes_the_symmetric_port_and_is_refused_without_one(
    program: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"POD_ID": "abc", "PUBLIC_IP": "203.0.113.7", "TCP_PORT_70000": "30001"}.items():
        monkeypatch.setenv(f"RUNPOD_{name}", value)
    given = {"host": "0.0.0.0", "api_keys": ("key-of-a-test",), "webrtc_addresses": ()}
    settings = make_settings(media_backend="mediamtx", mediamtx_program=program, **given)
    media = MediaMtxMedia(settings, SystemClock())
    try:
        await media.start()
        assert (media.ports.webrtc_tcp, media.ports.webrtc_udp) == (30001, None)
        assert await media.ice_servers("abc-8080.proxy.runpod.net") == ()
    finally:
        await media.close()
    monkeypatch.delenv("RUNPOD_TCP_PORT_70000")
    with pytest.raises(WebRtcOff, match="expose 70000/tcp"):
        await MediaMtxMedia(settings, SystemClock()).ice_servers("abc-8080.proxy.runpod.net")
    with pytest.raises(ConfigurationError, match="TCP 8189 has not that number outside"):
        MediaMtxMedia(settings.model_copy(update={"mediamtx_webrtc_tcp_port": 8189}), SystemClock())
