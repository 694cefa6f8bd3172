"""Whole pictures over WebSockets through a whole server: the way in and out where WebRTC does not get through."""

import asyncio
import contextlib
import itertools
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
from websockets.asyncio.client import ClientConnection

from tests.support.peers import Publisher, Viewer
from tests.support.picture_sockets import close_of, decoded, encoded, open_socket, see
from tests.support.pictures import Picture
from tests.support.rest import Rest, whep_of
from tests.support.waiting import eventually


async def send_cards(socket: ClientConnection) -> None:
    """Send numbered cards, thirty a second where they are taken as fast, until it is cancelled."""
    for number in itertools.count():
        await socket.send(encoded(number % 65536))
        assert await socket.recv() == "taken"
        await asyncio.sleep(1 / 30)


@contextlib.asynccontextmanager
async def camera(stream: dict[str, Any]) -> AsyncIterator[ClientConnection]:
    """A publisher of numbered cards."""
    async with open_socket(stream["whip_url"]) as socket:
        sending = asyncio.ensure_future(send_cards(socket))
        yield socket
        sending.cancel()
        await asyncio.wait((sending,))


async def test_pictures_go_in_and_come_out_in_order(rest: Rest) -> None:
    stream = await rest.create()
    async with camera(stream), open_socket(whep_of(rest, stream)) as viewing, asyncio.timeout(30):
        seen: list[Picture] = []
        while len(seen) < 20:
            picture = await see(viewing)
            if picture.number() is not None:
                seen.append(picture)
        status = await rest.status(stream["id"])
    numbers = [picture.number() for picture in seen]
    assert numbers == sorted(set(numbers), key=lambda number: number or 0)
    assert max(picture.corner_error() for picture in seen) < 25
    assert (status["viewers"], status["publisher"]) == (1, "connected")


async def test_webrtc_shows_what_came_by_a_socket(rest: Rest) -> None:
    stream = await rest.create()
    async with camera(stream), Viewer(whep_of(rest, stream)) as viewer:
        await viewer.wait(lambda picture: picture.number() is not None, what="a card")


async def test_a_socket_shows_what_came_by_webrtc(rest: Rest) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"]), open_socket(whep_of(rest, stream)) as viewing, asyncio.timeout(30):
        while (await see(viewing)).number() is None:
            pass


async def test_a_publisher_by_webrtc_takes_over_from_a_socket(rest: Rest) -> None:
    stream = await rest.create()
    async with open_socket(stream["whip_url"]) as socket, Publisher(stream["whip_url"]):
        assert (await close_of(socket))[0] == 4001


async def test_the_program_that_the_documentation_shows_publishes_and_watches(rest: Rest) -> None:
    page = (Path(__file__).parents[2] / "docs/api.md").read_text("utf-8")
    found = re.search(r"In Python, with the package `websockets`.*?```python\n(.*?)```", page, re.DOTALL)
    assert found is not None
    shown: dict[str, Any] = {}
    exec(found[1], shown)
    stream = await rest.create()

    async def cards() -> AsyncIterator[bytes]:
        for number in itertools.count():
            yield encoded(number)
            await asyncio.sleep(1 / 30)

    publishing = asyncio.ensure_future(shown["publish"](stream["whip_url"], cards()))
    await rest.wait_state(stream["id"], "ONLINE")
    async with asyncio.timeout(30), contextlib.aclosing(shown["watch"](whep_of(rest, stream))) as pictures:
        async for jpeg in pictures:
            if decoded(jpeg).number() is not None:
                break
    publishing.cancel()
    await asyncio.wait((publishing,))


async def test_motion_jpeg_shows_what_comes_out(rest: Rest) -> None:
    stream = await rest.create()
    url = whep_of(rest, stream).replace("/whep", "/pictures.mjpeg")
    async with open_socket(stream["whip_url"]) as publishing, httpx.AsyncClient() as client:
        await publishing.send(encoded(3))
        await publishing.recv()
        async with client.stream("GET", url) as answer:
            data = b""
            async for chunk in answer.aiter_bytes():
                data += chunk
                if data.count(b"--picture") >= 3:
                    break
    assert data.count(b"Content-Type: image/jpeg") >= 2
    assert data.count(b"\xff\xd8\xff") >= 2


async def test_deleting_the_stream_ends_its_sockets(rest: Rest) -> None:
    stream = await rest.create()
    async with open_socket(stream["whip_url"]) as publishing, open_socket(whep_of(rest, stream)) as viewing:
        assert (await rest.http.delete(f"/v1/streams/{stream['id']}")).status_code == 200
        for socket in (publishing, viewing):
            assert (await close_of(socket))[0] == 1001


async def test_a_publisher_that_hangs_up_is_gone_at_once(rest: Rest) -> None:
    stream = await rest.create()
    async with open_socket(stream["whip_url"]) as publishing:
        await publishing.send(encoded(1))
        await publishing.recv()

    async def is_gone() -> bool:
        return (await rest.status(stream["id"]))["publisher"] == "absent"

    await eventually(is_gone, what="the end of the publisher")  # one that is silent has a minute
