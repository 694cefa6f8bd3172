"""Pushes to a real RTMP server, and to ones that refuse, hang or lie in a private network."""

import asyncio
import functools
import shutil
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sdstream.clock import SystemClock
from sdstream.media.embedded import EmbeddedMedia
from sdstream.media.embedded.outputs import amf, names
from sdstream.media.embedded.outputs.names import NameLookUp
from sdstream.media.embedded.outputs.rtmp import MOST_AT_ONCE, MOST_UNSENT, RtmpError, RtmpPublisher, RtmpTarget
from sdstream.media.embedded.outputs.units import DropToKeyframeQueue
from sdstream.media.ports import MediaStream, OutputState, OutputStatistics
from sdstream.params.delivery import hide_key
from tests.media.clients import make_settings
from tests.media.conftest import SIZE
from tests.media.flash import RATE, DelayedEcho, FlashingCamera, FlashViewer, onsets_of
from tests.media.probe import rate_of, streams_of
from tests.support.certificates import write_certificate
from tests.support.ports import free_port
from tests.support.rtmp import RtmpServer, missing_rtmp_server
from tests.support.waiting import eventually

CLOSE = 0.04


@pytest.fixture
async def delayed() -> AsyncIterator[DelayedEcho]:
    backend = EmbeddedMedia(make_settings(output_allow_private=True), SystemClock())
    await backend.start()
    echo = DelayedEcho(0.02)
    echo.stream = await backend.open_stream("stream", SIZE, echo)
    yield echo
    await backend.close()


@pytest.fixture
async def server() -> AsyncIterator[RtmpServer]:
    if reason := missing_rtmp_server():
        pytest.skip(reason)
    running = RtmpServer()
    await running.start()
    yield running
    await running.close()


def push_of(stream: MediaStream) -> OutputStatistics:
    return stream.statistics().outputs[0]


async def record(url: str, file: Path, seconds: float) -> list[dict[str, Any]]:
    """Keep what is published at `url`, and say what ffprobe finds in it."""
    command = [
        "ffmpeg",
        "-v",
        "error",
        "-rw_timeout",
        "20000000",
        "-i",
        url,
        "-t",
        str(seconds),
        "-c",
        "copy",
        "-y",
        str(file),
    ]
    process = await asyncio.create_subprocess_exec(*command)
    async with asyncio.timeout(seconds + 30):
        assert await process.wait() == 0
    return await asyncio.to_thread(streams_of, file)


@pytest.mark.node
@pytest.mark.slow
@pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ffmpeg is not installed")
@pytest.mark.alone
async def test_a_push_is_received_in_step_and_resumes(delayed: DelayedEcho, server: RtmpServer, tmp_path: Path) -> None:
    stream = delayed.stream
    assert stream is not None
    stream.push_to([server.url])
    async with FlashingCamera(stream):
        await eventually(lambda: push_of(stream).state is OutputState.LIVE)

        async def step() -> None:
            for delay in (0.4, 0.02):
                await asyncio.sleep(2)
                delayed.delay = delay

        stepping = asyncio.create_task(step())
        facts = await record(server.play_url, tmp_path / "pushed.flv", 6)
        await stepping
        by_codec = {item["codec_name"]: item for item in facts}
        assert set(by_codec) == {"h264", "aac"}
        assert (by_codec["h264"]["width"], by_codec["h264"]["height"]) == (SIZE.width, SIZE.height)
        assert by_codec["aac"]["sample_rate"] == "48000"
        assert await asyncio.to_thread(rate_of, tmp_path / "pushed.flv") == pytest.approx(RATE, rel=0.01)
        flashes, beeps = onsets_of(tmp_path / "pushed.flv")
        apart = [min((flash - beep for beep in beeps), key=abs) for flash in flashes if 1.5 < flash < max(beeps)]
        assert len(apart) >= 3
        assert max(map(abs, apart)) < CLOSE, apart

        await server.kill()
        await eventually(lambda: push_of(stream).state is OutputState.WAITING)
        assert push_of(stream).last_error
        await server.start()
        await eventually(lambda: push_of(stream).state is OutputState.LIVE, seconds=30)
        before = push_of(stream).pictures
        await eventually(lambda: push_of(stream).pictures > before + 10)
        assert push_of(stream).connections == 2
        assert all("secret-key" not in repr(output) for output in (*delayed.outputs, push_of(stream)))

        stream.push_to([])
        assert stream.statistics().outputs == ()
    states = [output.state for output in delayed.outputs]
    assert states == [OutputState.LIVE, OutputState.WAITING, *states[2:-1], OutputState.LIVE]


async def relay(port: int | None, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass everything on to `port` and back."""
    if port is None:
        writer.close()
        return
    onward_reader, onward_writer = await asyncio.open_connection("127.0.0.1", port)

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(65_536):
            target.write(data)
            await target.drain()

    copies = [asyncio.create_task(copy(reader, onward_writer)), asyncio.create_task(copy(onward_reader, writer))]
    await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
    for task in copies:
        task.cancel()
    await asyncio.gather(*copies, return_exceptions=True)
    writer.close()
    onward_writer.close()


async def listen_with_tls(certificate: Path, port: int | None) -> asyncio.Server:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    return await asyncio.start_server(functools.partial(relay, port), "127.0.0.1", 0, ssl=context)


async def test_a_certificate_that_nobody_vouches_for_is_refused(delayed: DelayedEcho, tmp_path: Path) -> None:
    stream = delayed.stream
    assert stream is not None
    listening = await listen_with_tls(write_certificate(tmp_path).both, None)
    stream.push_to([f"rtmps://127.0.0.1:{listening.sockets[0].getsockname()[1]}/live/secret-key"])
    await eventually(lambda: push_of(stream).state is OutputState.WAITING)
    assert push_of(stream).last_error == "the certificate of the server is not good: self-signed certificate"
    assert push_of(stream).connections == 0
    listening.close()


@pytest.mark.node
async def test_a_push_goes_through_tls(
    delayed: DelayedEcho, server: RtmpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = delayed.stream
    assert stream is not None
    certificate = write_certificate(tmp_path).both
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    listening = await listen_with_tls(certificate, server.port)
    stream.push_to([f"rtmps://127.0.0.1:{listening.sockets[0].getsockname()[1]}/live/secret-key"])
    async with FlashingCamera(stream):
        await eventually(lambda: push_of(stream).state is OutputState.LIVE and push_of(stream).pictures > 10)
    assert push_of(stream).connections == 1
    stream.push_to([])
    listening.close()


@pytest.mark.alone
async def test_a_target_that_hangs_changes_nothing_for_viewers(delayed: DelayedEcho) -> None:
    stream = delayed.stream
    assert stream is not None
    taken: list[asyncio.StreamWriter] = []
    hanging = await asyncio.start_server(lambda reader, writer: taken.append(writer), "127.0.0.1", 0)
    port = hanging.sockets[0].getsockname()[1]
    async with FlashingCamera(stream), FlashViewer(stream) as viewer:
        await eventually(lambda: len(viewer.flashes) >= 2)
        stream.push_to([f"rtmp://127.0.0.1:{port}/live/key"])
        await eventually(lambda: len(taken) >= 1)
        late: list[float] = [1.0]
        for _ in range(4):  # it hangs all the time, what else holds this machine up does not
            seen = len(viewer.flashes)
            await eventually(lambda seen=seen: len(viewer.flashes) >= seen + 4)
            late = [flash.arrived_at - flash.captured_at for flash in viewer.flashes[seen:]]
            if max(late) < 0.25:
                break
        assert max(late) < 0.25, late
        assert push_of(stream).state is not OutputState.LIVE
        await eventually(lambda: push_of(stream).last_error is not None, seconds=30)
        assert dict(stream.statistics().drops).get("viewer_slow") is None
    for writer in taken:
        writer.close()
    hanging.close()


async def test_a_target_that_is_not_there_is_tried_again_and_says_so(delayed: DelayedEcho) -> None:
    stream = delayed.stream
    assert stream is not None
    stream.push_to([f"rtmp://127.0.0.1:{free_port()}/live/secret-key"])
    await eventually(lambda: push_of(stream).state is OutputState.WAITING)
    await eventually(lambda: [output.state for output in delayed.outputs].count(OutputState.WAITING) >= 2)
    output = push_of(stream)
    assert output.connections == 0
    assert "secret-key" not in repr(output)
    assert output.last_error is not None
    assert output.last_error.startswith("no connection")


async def test_a_push_for_which_there_was_no_thread_is_tried_again(
    delayed: DelayedEcho, monkeypatch: pytest.MonkeyPatch
) -> None:
    class NoThread:
        def __init__(self, **_: object) -> None:
            pass

        def start(self) -> None:
            raise RuntimeError("can't start new thread")

    look_ups = NameLookUp(allow_private=True)
    with monkeypatch.context() as patched:
        patched.setattr(names.threading, "Thread", NoThread)
        for _ in range(names.LOOK_UPS_AT_ONCE):
            with pytest.raises(RtmpError, match="this server has no thread for it"):
                await look_ups.resolve("127.0.0.1", 1935)
    assert await look_ups.resolve("127.0.0.1", 1935) == "127.0.0.1"

    async def fail(*_: object) -> str:
        raise RuntimeError("can't start new thread")

    stream = delayed.stream
    assert stream is not None
    with monkeypatch.context() as patched:
        patched.setattr(NameLookUp, "resolve", fail)
        stream.push_to([f"rtmp://127.0.0.1:{free_port()}/live/secret-key"])
        await eventually(lambda: push_of(stream).state is OutputState.WAITING)
        assert push_of(stream).last_error == "this server made a mistake"
    await eventually(lambda: (push_of(stream).last_error or "").startswith("no connection"))


# The last three carry an IPv4 address that a network of IPv6 leads on to.
@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "::1",
        "::ffff:127.0.0.1",
        "64:ff9b::10.1.2.3",
        "64:ff9b:1::10.1.2.3",
        "2002:a01:203::1",
    ],
)
async def test_private_addresses_are_not_dialled(address: str) -> None:
    with pytest.raises(RtmpError, match="private network"):
        await NameLookUp(allow_private=False).resolve(address, 1935)
    assert await NameLookUp(allow_private=True).resolve(address, 1935)


async def test_a_server_that_sends_empty_messages_for_ever_does_not_have_the_loop_for_itself() -> None:
    """Each is one byte, and 64 kB of them lie ready whenever the publisher looks."""
    publisher = RtmpPublisher(RtmpTarget("rtmp://127.0.0.1/app/key"), "127.0.0.1")
    reader = publisher._reader = asyncio.StreamReader()
    reader.feed_data(b"\xc3" * 10 * MOST_AT_ONCE)
    reading = asyncio.create_task(publisher._read_chunks())
    for _ in range(3):
        await asyncio.sleep(0)
    assert len(reader._buffer) > 8 * MOST_AT_ONCE  # pyright: ignore[reportAttributeAccessIssue]
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)
    await publisher.close()


async def test_a_ping_is_answered_with_no_more_than_a_ping_has() -> None:
    answered = asyncio.Event()
    after: list[bytes] = []

    async def ping(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1537)
        writer.write(b"\x03" + bytes(1536) + bytes(1536))
        await reader.readexactly(1536)
        body = b"\x00\x06now!" + bytes(100)
        writer.write(b"\x02" + bytes(3) + struct.pack("!I", len(body))[1:] + b"\x04" + bytes(4) + body)
        await reader.readuntil(b"\x00\x07now!")
        writer.write(b"\x02" + bytes(3) + b"\x00\x00\x06" + b"\x04" + bytes(4) + b"\x00\x06next")
        after.append(await reader.readuntil(b"\x00\x07next"))
        answered.set()
        writer.close()

    async with await asyncio.start_server(ping, "127.0.0.1", port := free_port()):
        publisher = RtmpPublisher(RtmpTarget(f"rtmp://a.example:{port}/live/key"), "127.0.0.1")
        with pytest.raises(RtmpError):
            await publisher.open()
        await asyncio.wait_for(answered.wait(), 30)
        await publisher.close()
    assert len(after[0]) == 12 + 6, "the head and the body of the second answer, and nothing before them"


def message(channel: int, kind: int, body: bytes) -> bytes:
    """A chunk of RTMP that is a whole message of at most 128 bytes."""
    return bytes((channel,)) + bytes(3) + struct.pack("!I", len(body))[1:] + bytes((kind,)) + bytes(4) + body


async def take_up_to_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: float) -> None:
    """A server's part up to the answer which says the stream's `number`."""
    await reader.readexactly(1537)
    writer.write(b"\x03" + bytes(1536) + bytes(1536))
    await reader.readexactly(1536)
    await reader.readuntil(b"tcUrl")
    writer.write(message(3, 20, amf.encode("_result", 1, None, None)))
    await reader.readuntil(b"createStream")
    writer.write(message(3, 20, amf.encode("_result", 4, None, number)))


@pytest.mark.parametrize("number", [-1.0, 1e10, float("inf"), float("nan")])
async def test_a_server_that_numbers_streams_as_no_server_does_is_tried_again(
    delayed: DelayedEcho, number: float
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_up_to_stream(reader, writer, number)
        await reader.read()
        writer.close()

    stream = delayed.stream
    assert stream is not None
    async with await asyncio.start_server(answer, "127.0.0.1", port := free_port()):
        stream.push_to([f"rtmp://127.0.0.1:{port}/live/secret-key"])
        await eventually(lambda: push_of(stream).state is OutputState.WAITING)
        await eventually(lambda: [output.state for output in delayed.outputs].count(OutputState.CONNECTING) >= 1)
        assert push_of(stream).last_error == "the server numbers its streams as no RTMP server does"
        stream.push_to([])


async def test_a_connection_whose_end_is_broken_off_is_ended_all_the_same() -> None:
    """As where a push is taken away while it still says goodbye to a server that takes nothing."""
    hold = asyncio.Event()

    async def take_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_up_to_stream(reader, writer, 1)
        writer.write(message(3, 20, amf.encode("onStatus", 0, None, {"code": "NetStream.Publish.Start"})))
        await hold.wait()
        writer.close()

    async with await asyncio.start_server(take_nothing, "127.0.0.1", port := free_port()):
        publisher = RtmpPublisher(RtmpTarget(f"rtmp://127.0.0.1:{port}/live/key"), "127.0.0.1")
        await publisher.open()
        writer, reading = publisher._writer, publisher._reading
        assert writer is not None
        assert reading is not None
        while writer.transport.get_write_buffer_size() < 2 * MOST_UNSENT:
            publisher._send(6, 9, bytes(100_000), 1)
        ending = asyncio.create_task(publisher.close())
        await asyncio.sleep(0)
        ending.cancel()
        await asyncio.wait([ending])
        await asyncio.wait([reading], timeout=30)
        assert reading.done()
        assert writer.transport.is_closing()
        assert writer.transport.get_write_buffer_size() == 0, "what was not taken is not waited for"
        hold.set()


async def test_a_silent_name_server_keeps_nothing_else_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()

    def look_up(*_: object, **__: object) -> list[Any]:
        answers.wait(20)
        return [(0, 0, 0, "", ("203.0.113.7", 1935))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(names, "STEP_SECONDS", 0.3)
    look_ups = NameLookUp(allow_private=True)
    before = threading.active_count()
    asked = [asyncio.create_task(look_ups.resolve("a.example", 1935)) for _ in range(40)]
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await asyncio.to_thread(lambda: None)
        told = await asyncio.gather(*asked, return_exceptions=True)
    assert {str(problem) for problem in told} == {"the name of the server was not found in time"}
    assert threading.active_count() <= before + names.LOOK_UPS_AT_ONCE + 1, "one is of the pool"
    monkeypatch.setattr(names, "STEP_SECONDS", 60)
    answers.set()
    assert await look_ups.resolve("a.example", 1935) == "203.0.113.7", "the threads are given back"


@pytest.mark.parametrize(
    ("url", "label", "application", "key"),
    [
        ("rtmp://a.example/live/key", "rtmp://a.example/live/***", "live", "key"),
        ("rtmps://a.example:443/rtmp/key?x=1", "rtmps://a.example:443/rtmp/***", "rtmp", "key?x=1"),
        ("rtmp://user:pass@a.example/one/two/key", "rtmp://a.example/one/two/***", "one/two", "key"),
        ("rtmp://a.example/key", "rtmp://a.example/***", "key", ""),
        ("rtmp://a.example/key?x=1", "rtmp://a.example/***", "key", "?x=1"),
        ("rtmp://a.example/live/key#1", "rtmp://a.example/live/***", "live", "key#1"),
    ],
)
def test_a_label_shows_no_secret(url: str, label: str, application: str, key: str) -> None:
    target = RtmpTarget(url)
    assert (target.label, target.application, target.key) == (label, application, key)
    assert "pass" not in target.connect_url
    assert target.label == hide_key(url), "as the stream shows it"


@pytest.mark.parametrize(
    ("url", "told", "shown"),
    [
        ("rtmp://a.example/live/key", "no live/key, no key in live", "no ***, no *** in live"),
        ("rtmp://a.example/key", "there is no application key", "there is no application ***"),
        ("rtmp://a.example/live/key?token=abcd&n=1", "abcd of key?token=abcd&n=1 is old", "*** of *** is old"),
        ("rtmp://user:pass@a.example/live/key", "user may not, with pass", "*** may not, with ***"),
    ],
)
async def test_what_a_server_tells_of_a_secret_is_hidden(url: str, told: str, shown: str) -> None:
    """The server answers the connect command with an error that names what it was sent."""

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1537)
        writer.write(b"\x03" + bytes(1536) + bytes(1536))
        await reader.readexactly(1536)
        body = amf.encode("_error", 1, None, {"level": "error", "description": told})
        writer.write(b"\x03" + bytes(3) + struct.pack("!I", len(body))[1:] + b"\x14" + bytes(4) + body)
        await reader.read()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", port := free_port()):
        publisher = RtmpPublisher(RtmpTarget(url.replace("a.example", f"a.example:{port}")), "127.0.0.1")
        with pytest.raises(RtmpError) as caught:
            await publisher.open()
        await publisher.close()
    assert str(caught.value) == f"the server refused: {shown}"


def test_the_queue_drops_to_the_next_keyframe() -> None:
    waiting: DropToKeyframeQueue[int] = DropToKeyframeQueue(4)
    kept = [waiting.put(number, keyframe=number in (0, 5)) for number in range(6)]
    assert kept == [True, True, True, True, False, False]
    assert [waiting.take(0) for _ in range(3)] == [0, 1, 2]
    assert not waiting.put(6, keyframe=False)
    assert waiting.put(7, keyframe=True)
    assert [waiting.take(0) for _ in range(3)] == [3, 7, None]
    assert waiting.dropped == 3


def test_amf_is_read_as_it_is_written() -> None:
    values = ("connect", 1.0, {"app": "live", "ok": True, "n": 2.0}, None, False)
    assert amf.decode(amf.encode(*values)) == list(values)
    with pytest.raises(ValueError, match="AMF0"):
        amf.decode(amf.encode("cut off")[:-2])
    with pytest.raises(ValueError, match="nested"):
        amf.decode(b"\x0a" + struct.pack("!I", 1) * 1 + (b"\x0a" + struct.pack("!I", 1)) * 50)
