"""Connections of strangers: heads without an end, requests that never come, WebSockets full of frames."""

import asyncio
import base64
import contextlib
from collections.abc import AsyncIterator, Callable

import pytest

from sdstream.api import connections
from sdstream.api.connections import LONGEST_HEAD, MOST_FRAMES, MOST_PIPELINED, SLICE
from sdstream.serve import HttpServer
from tests.api.conftest import Site
from tests.api.test_pictures import stream_of
from tests.support.ports import free_port
from tests.support.waiting import eventually

Wire = tuple[asyncio.StreamReader, asyncio.StreamWriter]
HEAD = b"GET /health HTTP/1.1\r\nHost: here\r\n"


@contextlib.asynccontextmanager
async def serve(site: Site) -> AsyncIterator[int]:
    server = HttpServer(site.app, lambda: None)
    server.config.port = port = free_port()
    serving = asyncio.ensure_future(server.serve())
    await eventually(lambda: server.started)
    yield port
    server.should_exit = True
    await serving


@pytest.fixture
async def port(make_site: Callable[..., Site]) -> AsyncIterator[int]:
    async with serve(make_site()) as port:
        yield port


@contextlib.asynccontextmanager
async def dial(port: int) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def rest_of(reader: asyncio.StreamReader) -> bytes:
    """What comes until the server closes the connection, which may be by a reset."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while piece := await asyncio.wait_for(reader.read(65536), 60):
            received += piece
    return received


async def pour(wire: Wire, piece: bytes, most: int) -> bytes:
    """Send `piece` over and over, at most `most` bytes; what is answered until the server closes the connection."""
    reader, writer = wire
    answer = asyncio.ensure_future(rest_of(reader))
    with contextlib.suppress(ConnectionError):
        for _ in range(0, most, len(piece)):
            if answer.done():
                break
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(0)
    return await answer


@pytest.mark.parametrize(
    ("begin", "piece"),
    [
        pytest.param(b"GET /", b"a" * 8192, id="a path"),
        pytest.param(HEAD + b"X: ", b"a" * 8192, id="a value"),
        pytest.param(HEAD, b"a:b\r\n" * 1600, id="many headers"),
    ],
)
async def test_a_head_without_an_end_is_refused(port: int, begin: bytes, piece: bytes) -> None:
    async with dial(port) as wire:
        wire[1].write(begin)
        assert (await pour(wire, piece, 200 * LONGEST_HEAD))[:12] in (b"HTTP/1.1 431", b"")


async def test_what_follows_a_chunked_body_has_an_end_too(port: int) -> None:
    async with dial(port) as wire:
        wire[1].write(
            b"POST /live/video-to-video/none/whip HTTP/1.1\r\nHost: here\r\nContent-Type: application/sdp\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n1\r\nv\r\n0\r\n"
        )
        assert await pour(wire, b"a:b\r\n" * 1600, 200 * LONGEST_HEAD) == b""


async def test_a_head_of_a_usual_length_and_many_requests_on_one_connection_pass(port: int) -> None:
    request = HEAD + b"Cookie: " + b"a" * 16_000 + b"\r\n\r\n"
    async with dial(port) as (reader, writer):
        for _ in range(3 * LONGEST_HEAD // len(request)):
            writer.write(request)
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            await reader.readuntil(b"}")
            await reader.readuntil(b"}")


async def test_requests_that_wait_for_one_before_are_few(port: int) -> None:
    """A quarter of a megabyte of them took 50 MB."""
    async with dial(port) as (reader, writer):
        writer.write((HEAD + b"\r\n") * 10 * MOST_PIPELINED)
        answer = await rest_of(reader)
    assert answer.count(b"HTTP/1.1 ") <= MOST_PIPELINED + 2
    async with dial(port) as (reader, writer):
        writer.write((HEAD + b"\r\n") * MOST_PIPELINED)
        for _ in range(MOST_PIPELINED):
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            await reader.readuntil(b"}")
            await reader.readuntil(b"}")


async def test_who_leaves_while_several_requests_wait_leaves_no_fault_in_the_log(
    make_site: Callable[..., Site], caplog: pytest.LogCaptureFixture
) -> None:
    site = make_site()
    async with serve(site) as port:
        async with dial(port) as (_, writer):
            writer.write((HEAD + b"\r\n") * MOST_PIPELINED)
            await writer.drain()
            writer.transport.abort()
        async with dial(port) as (reader, writer):
            writer.write(HEAD + b"Connection: close\r\n\r\n")
            assert (await rest_of(reader)).startswith(b"HTTP/1.1 200")
    assert [record.message for record in caplog.records if record.levelname == "ERROR"] == []


async def test_a_body_in_tiny_pieces_is_a_body(port: int) -> None:
    async with dial(port) as (reader, writer):
        writer.write(
            b"POST /live/video-to-video/none/whip HTTP/1.1\r\nHost: here\r\nContent-Type: application/sdp\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n"
        )
        for _ in range(LONGEST_HEAD // 100):
            writer.write(b"1\r\nv\r\n" * 100)
            await writer.drain()
            await asyncio.sleep(0)
        writer.write(b"0\r\n\r\n")
        assert (await reader.readuntil(b"\r\n")).startswith(b"HTTP/1.1 404")


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(HEAD, id="half a head"),
        pytest.param(HEAD + b"\r\n\r\n", id="a stray line break"),
        pytest.param(
            b"POST /live/video-to-video/none/whip HTTP/1.1\r\nHost: here\r\nContent-Type: application/sdp\r\n"
            b"Content-Length: 100\r\n\r\nv=0",
            id="half a body",
        ),
    ],
)
async def test_who_does_not_go_on_is_sent_away(port: int, monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.2)
    monkeypatch.setattr(connections, "SILENT_SECONDS", 0.2)
    async with dial(port) as (reader, writer):
        writer.write(sent)
        await rest_of(reader)


async def test_an_answer_that_goes_on_is_not_cut(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.05)
    monkeypatch.setattr(connections, "SILENT_SECONDS", 0.05)
    site = make_site()
    stream = await site.create()
    async with serve(site) as port, dial(port) as (reader, writer):
        path, key = f"/v1/streams/{stream['id']}/events", "a-key-of-the-settings-that-is-long-enough"
        writer.write(f"GET {path} HTTP/1.1\r\nHost: here\r\nAuthorization: Bearer {key}\r\n\r\n\r\n".encode())
        await reader.readuntil(b"retry: 2000\n\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(rest_of(reader), 1)


async def open_publisher(site: Site, port: int, wire: Wire) -> None:
    """A WebSocket by hand, as no library sends what these tests do."""
    stream = await stream_of(site, f"http://127.0.0.1:{port}")
    key = base64.b64encode(b"0123456789abcdef").decode()
    wire[1].write(
        f"GET /live/video-to-video/{stream['stream_key']}/pictures HTTP/1.1\r\nHost: here\r\nConnection: Upgrade\r\n"
        f"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    assert (await wire[0].readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")


@pytest.mark.parametrize("frame", [b"\x81\x80\0\0\0\0", b"\x89\x80\0\0\0\0"], ids=["texts", "pings"])
async def test_a_socket_full_of_tiny_frames_is_cut(make_site: Callable[..., Site], frame: bytes) -> None:
    site = make_site()
    async with serve(site) as port, dial(port) as wire:
        await open_publisher(site, port, wire)
        await pour(wire, frame * (2 * MOST_FRAMES), 200 * SLICE)


async def test_a_socket_whose_client_pings_and_reads_nothing_is_cut(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "MOST_UNREAD", 100_000)
    site = make_site()
    async with serve(site) as port, dial(port) as wire:
        await open_publisher(site, port, wire)
        with pytest.raises(ConnectionError):
            await ping_for_ever(wire[1])


async def ping_for_ever(writer: asyncio.StreamWriter) -> None:
    """Nothing is read meanwhile: what the kernel holds for us is full at some time."""
    while True:
        writer.write((b"\x89\xfd\0\0\0\0" + b"x" * 125) * 100)
        await writer.drain()
        await asyncio.sleep(0)
