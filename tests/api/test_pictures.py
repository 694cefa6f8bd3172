"""Whole pictures over WebSockets and as motion JPEG, as far as HTTP goes."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus

from sdstream.api.routes.pictures import CLOSE_CODES, LARGEST_MESSAGE
from sdstream.errors import CapacityReached
from sdstream.media.ports import SessionEnd
from sdstream.serve import HttpServer
from tests.api.conftest import Site
from tests.support.picture_sockets import close_of, open_socket
from tests.support.ports import free_port
from tests.support.waiting import eventually


@pytest.fixture
async def served(make_site: Callable[..., Site]) -> AsyncIterator[tuple[Site, str]]:
    """A site behind a real HTTP server, and its address."""
    site = make_site()
    server = HttpServer(site.app, lambda: None)
    port = free_port()
    server.config.port = port
    serving = asyncio.ensure_future(server.serve())
    await eventually(lambda: server.started)
    yield site, f"http://127.0.0.1:{port}"
    server.should_exit = True
    await serving


async def stream_of(site: Site, address: str) -> dict[str, Any]:
    """A stream whose URLs lead to `address`."""
    client = site.client_with("a-key-of-the-settings-that-is-long-enough", address)
    answer = await client.post("/v1/streams", json={"params": {"model_id": "stabilityai/sd-turbo"}})
    stream: dict[str, Any] = answer.json()
    return stream | {"whep_url": f"{address}/playback/{stream['output_playback_id']}/whep"}


async def test_each_picture_is_answered_once_it_is_taken(served: tuple[Site, str]) -> None:
    site, address = served
    stream = await stream_of(site, address)
    async with open_socket(stream["whip_url"]) as socket:
        for data in (b"one", b"two"):
            await socket.send(data)
            assert await socket.recv() == "taken"
        await socket.send("text is ignored")
        await socket.send(b"three")
        assert await socket.recv() == "taken"
    session = site.streams.pictures[stream["id"]]
    assert session.received == [b"one", b"two", b"three"]
    await eventually(lambda: stream["id"] not in site.streams.publishers, what="the end of the session")


async def test_a_viewer_is_sent_pictures_and_answers_them(served: tuple[Site, str]) -> None:
    site, address = served
    stream = await stream_of(site, address)
    async with open_socket(stream["whip_url"]), open_socket(stream["whep_url"]) as socket:
        session = site.streams.watching[0]
        for data in (b"one", b"two"):
            session.to_show.put_nowait(data)
            assert await socket.recv() == data
            await socket.send("any text")
        await eventually(lambda: session.answers == 2)
    await eventually(lambda: not site.streams.viewers, what="the end of the session")


@pytest.mark.parametrize("end", SessionEnd)
async def test_the_client_is_told_why_its_session_ended(served: tuple[Site, str], end: SessionEnd) -> None:
    site, address = served
    stream = await stream_of(site, address)
    async with open_socket(stream["whip_url"]) as publisher, open_socket(stream["whep_url"]) as viewer:
        site.streams.pictures[stream["id"]].finish(end)
        site.streams.watching[0].finish(end)
        for socket in (publisher, viewer):
            assert await close_of(socket) == CLOSE_CODES[end]


async def test_a_refusal_is_an_http_answer_with_the_envelope(served: tuple[Site, str]) -> None:
    site, address = served
    stream = await stream_of(site, address)
    unknown = f"{address}/live/video-to-video/stk_unknown/whip"
    for url, status, code in (
        (unknown, 404, "STREAMS/NOT_FOUND"),
        (stream["whep_url"], 404, "STREAMS/NO_PICTURE_YET"),
        (f"{address}/v1/whip", 404, "NOT_FOUND"),
    ):
        with pytest.raises(InvalidStatus) as refused:
            async with open_socket(url):
                pass
        assert refused.value.response.status_code == status
        envelope = json.loads(refused.value.response.body or b"")
        assert envelope["code"] == code
        assert envelope["requestId"]
    site.streams.failure = CapacityReached("this stream has 20 viewers, the most it may have")
    with pytest.raises(InvalidStatus) as refused:
        async with open_socket(stream["whip_url"]):
            pass
    assert refused.value.response.status_code == 429


async def test_a_message_that_is_too_large_ends_the_socket(served: tuple[Site, str]) -> None:
    site, address = served
    stream = await stream_of(site, address)
    async with open_socket(stream["whip_url"]) as socket:
        with contextlib.suppress(ConnectionClosed):  # it may be closed before all of it is written
            await socket.send(bytes(LARGEST_MESSAGE + 1))
        assert (await close_of(socket))[0] == 1009
    await eventually(lambda: stream["id"] not in site.streams.publishers)


async def test_a_path_prefix_is_taken_off(make_site: Callable[..., Site]) -> None:
    site = make_site(public_url="https://media.example/video")
    heard: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        heard.append(scope["path"])

    edge = site.app.user_middleware[0].cls(app, **site.app.user_middleware[0].kwargs)  # pyright: ignore
    scope = {"type": "websocket", "path": "/video/playback/pb_1/pictures", "headers": []}
    await edge(scope, lambda: None, lambda message: None)  # pyright: ignore
    assert heard == ["/playback/pb_1/pictures"]


async def test_motion_jpeg_is_whole_after_each_picture(served: tuple[Site, str]) -> None:
    site, address = served
    stream = await stream_of(site, address)
    url = stream["whep_url"].replace("/whep", "/pictures.mjpeg")
    async with open_socket(stream["whip_url"]), httpx.AsyncClient() as client:
        async with client.stream("GET", url) as answer:
            assert answer.status_code == 200
            assert answer.headers["content-type"] == "multipart/x-mixed-replace; boundary=picture"
            session = site.streams.watching[0]
            chunks = answer.aiter_bytes()
            assert await anext(chunks) == b"--picture\r\n"
            for data in (b"one", b"another"):
                session.to_show.put_nowait(data)
                head = b"Content-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data)
                assert await anext(chunks) == head + data + b"\r\n--picture\r\n"
            await eventually(lambda: session.answers == 2)
        session.to_show.put_nowait(b"nobody is there any more")
        await eventually(lambda: not site.streams.viewers, what="the end of the session")


async def test_motion_jpeg_ends_with_the_stream(served: tuple[Site, str]) -> None:
    site, address = served
    stream = await stream_of(site, address)
    url = stream["whep_url"].replace("/whep", "/pictures.mjpeg")
    async with open_socket(stream["whip_url"]), httpx.AsyncClient() as client, client.stream("GET", url) as answer:
        site.streams.watching[0].finish(SessionEnd.CLOSED)
        assert await answer.aread() == b"--picture\r\n"
    await eventually(lambda: not site.streams.viewers, what="the end of the session")


async def test_motion_jpegs_headers_can_be_asked_for_alone(served: tuple[Site, str]) -> None:
    site, address = served
    stream = await stream_of(site, address)
    url = stream["whep_url"].replace("/whep", "/pictures.mjpeg")
    async with httpx.AsyncClient() as client:
        assert (await client.head(url)).status_code == 404
        async with open_socket(stream["whip_url"]):
            answer = await client.head(url)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("multipart/x-mixed-replace")
    assert not site.streams.viewers


async def test_a_viewer_who_leaves_before_the_first_byte_leaves_no_session(make_site: Callable[..., Site]) -> None:
    site = make_site()
    stream = await site.create()
    await site.publish(stream)
    scope = {
        "type": "http",
        "method": "GET",
        "path": f"/playback/{stream['output_playback_id']}/pictures.mjpeg",
        "headers": [(b"host", b"media.example")],
        "query_string": b"",
        "http_version": "1.1",
        "scheme": "http",
    }

    async def gone() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    async def refuse(message: Any) -> None:
        raise OSError("the client has gone")

    with contextlib.suppress(OSError, ExceptionGroup):
        await site.app(scope, gone, refuse)
    assert not site.streams.viewers


def test_sockets_are_not_compressed() -> None:
    config = HttpServer(lambda: None, lambda: None).config
    assert not config.ws_per_message_deflate
    assert config.ws_max_size == LARGEST_MESSAGE
