"""Whole pictures through a gateway without Redis, in front of the shared worker: by WebSocket and as motion JPEG."""

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed, InvalidStatus

from sdstream.client import RunPodClient
from tests.jobs.platform import API_KEY, ENDPOINT, FakePlatform
from tests.jobs.test_worker import Running
from tests.jobs.worker import JobWorker
from tests.support.picture_sockets import decoded, encoded, open_socket, see
from tests.support.pictures import Picture
from tests.support.rest import ERROR_MEMBERS, SMALL, Rest, check_error
from tests.support.server import LiveServer
from tests.support.waiting import eventually

PART = re.compile(rb"--(\S+)\r\nContent-Type: image/jpeg\r\nContent-Length: (\d+)\r\n\r\n")


def gateway_of(platform: FakePlatform, folder: Any, **settings: Any) -> LiveServer:
    return LiveServer(
        folder,
        placement="runpod",
        endpoint=ENDPOINT,
        runpod_api_key=API_KEY,
        runpod_api_url=platform.url,
        create_rate=500,
        **settings,
    )


@pytest.fixture(scope="module")
def gateway(
    platform: FakePlatform, worker: JobWorker, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    made = gateway_of(platform, tmp_path_factory.mktemp("gateway")).start()
    yield made
    made.stop()


@pytest.fixture
async def rest(gateway: LiveServer, client: RunPodClient) -> AsyncIterator[Rest]:
    async with Rest(gateway) as made:
        yield made


def whip_url(rest: Rest, stream: dict[str, Any]) -> str:
    """Where one publishes through the gateway."""
    return f"{rest.server.url}/live/video-to-video/{stream['stream_key']}/whip"


def whep_url(rest: Rest, stream: dict[str, Any]) -> str:
    """Where one watches through the gateway."""
    return f"{rest.server.url}/playback/{stream['output_playback_id']}/whep"


def motion_jpeg_url(rest: Rest, stream: dict[str, Any]) -> str:
    return whep_url(rest, stream).replace("/whep", "/pictures.mjpeg")


@contextlib.asynccontextmanager
async def publishing(url: str) -> AsyncIterator[ClientConnection]:
    """A publisher of cards that count from 1, as fast as they are taken; not for those who want to hear the answers."""
    async with open_socket(url) as socket:

        async def publish() -> None:
            for number in range(1, 65536):
                await socket.send(encoded(number))
                assert await socket.recv() == "taken"

        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(publish())
            yield socket
            task.cancel()


async def numbers_seen(pictures: AsyncIterator[Picture], count: int) -> list[int]:
    """The numbers of the next so many cards."""
    numbers: list[int] = []
    async for picture in pictures:
        if (number := picture.number()) is not None:
            numbers.append(number)
        if len(numbers) == count:
            break
    return numbers


async def by_socket(socket: ClientConnection) -> AsyncIterator[Picture]:
    while True:
        yield await see(socket)


async def by_motion_jpeg(response: httpx.Response) -> AsyncIterator[Picture]:
    """The pictures of an answer, read as a browser reads them: by what separates them."""
    buffer = b""
    async for chunk in response.aiter_raw():
        buffer += chunk
        while (head := PART.match(buffer)) and len(buffer) >= (end := head.end() + int(head[2])):
            yield decoded(buffer[head.end() : end])
            buffer = buffer[end:].removeprefix(b"\r\n")


def rises(numbers: list[int]) -> bool:
    """Whether no card came late, or twice."""
    return numbers == sorted(set(numbers))


async def closing(socket: ClientConnection) -> tuple[int | None, str | None]:
    """Read until the socket is closed; with which code and reason it was."""
    with contextlib.suppress(ConnectionClosed):
        while True:
            await asyncio.wait_for(socket.recv(), 15)
    return socket.close_code, socket.close_reason


async def refused(url: str, status: int, code: str) -> None:
    """Opening the socket beside `url` is answered so, with the usual envelope."""
    with pytest.raises(InvalidStatus) as caught:
        async with open_socket(url):
            pass
    response = caught.value.response
    body = httpx.Response(response.status_code, content=bytes(response.body)).json()
    assert (response.status_code, body["code"], set(body)) == (status, code, ERROR_MEMBERS)
    assert response.headers["content-type"] == "application/json"


async def no_viewers(rest: Rest, stream: dict[str, Any]) -> None:
    """Wait until nobody watches."""

    async def probe() -> bool:
        return (await rest.status(stream["id"]))["viewers"] == 0

    await eventually(probe, what="a stream that nobody watches")


async def test_cards_come_back_in_order_by_socket_and_as_motion_jpeg(rest: Rest) -> None:
    stream = await rest.create()
    async with publishing(whip_url(rest, stream)), open_socket(whep_url(rest, stream)) as viewer:
        assert rises(await numbers_seen(by_socket(viewer), 10))
        async with rest.anonymous.stream("GET", motion_jpeg_url(rest, stream)) as response:
            assert response.status_code == 200
            kind, _, boundary = response.headers["content-type"].partition("; boundary=")
            assert (kind, bool(boundary)) == ("multipart/x-mixed-replace", True)
            assert (response.headers["cache-control"], response.headers["x-accel-buffering"]) == ("no-store", "no")
            assert rises(await numbers_seen(by_motion_jpeg(response), 10))


async def test_a_card_has_its_colours_still(rest: Rest) -> None:
    stream = await rest.create()
    async with open_socket(whip_url(rest, stream)) as publisher, open_socket(whep_url(rest, stream)) as viewer:
        await publisher.send(encoded(321, form="PNG"))
        assert await publisher.recv() == "taken"
        async for picture in by_socket(viewer):
            if picture.number() == 321:
                assert picture.corner_error() < 12
                break


async def test_who_may_not_publish_or_watch_is_told_by_the_worker_in_place_of_the_handshake(rest: Rest) -> None:
    stream = await rest.create()
    await refused(whep_url(rest, stream), 404, "STREAMS/NO_PICTURE_YET")
    nobody = {"stream_key": "stk_nobody", "output_playback_id": "pb_nobody"}
    await refused(whip_url(rest, nobody), 404, "STREAMS/NOT_FOUND")
    await refused(whep_url(rest, nobody), 404, "STREAMS/NOT_FOUND")
    swapped = {"stream_key": stream["output_playback_id"], "output_playback_id": stream["stream_key"]}
    await refused(whip_url(rest, swapped), 404, "STREAMS/NOT_FOUND")
    await refused(whep_url(rest, swapped), 404, "STREAMS/NOT_FOUND")
    for kind, url in (("STREAMS/NO_PICTURE_YET", stream), ("STREAMS/NOT_FOUND", nobody)):
        check_error(await rest.anonymous.get(motion_jpeg_url(rest, url)), 404, kind)
        assert (await rest.anonymous.head(motion_jpeg_url(rest, url))).status_code == 404


async def test_head_of_motion_jpeg_leaves_no_viewer(rest: Rest) -> None:
    stream = await rest.create()
    async with publishing(whip_url(rest, stream)):
        head = await rest.anonymous.head(motion_jpeg_url(rest, stream))
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"].startswith("multipart/x-mixed-replace")
        await no_viewers(rest, stream)


async def test_viewers_and_publishers_that_leave_are_gone_at_the_worker(rest: Rest) -> None:
    stream = await rest.create()
    async with open_socket(whip_url(rest, stream)) as publisher:
        await publisher.send(encoded(1))
        async with open_socket(whep_url(rest, stream)) as viewer:
            await see(viewer)
            assert (await rest.status(stream["id"]))["viewers"] == 1
        await no_viewers(rest, stream)
        async with rest.anonymous.stream("GET", motion_jpeg_url(rest, stream)) as response:
            await numbers_seen(by_motion_jpeg(response), 1)
        await no_viewers(rest, stream)
        publisher.transport.abort()  # a network that is lost, not a close

        async def has_left() -> bool:
            return (await rest.status(stream["id"]))["publisher"] == "absent"

        await eventually(has_left, what="a stream to which nobody publishes")


async def test_another_publisher_takes_over(rest: Rest) -> None:
    stream = await rest.create()
    async with open_socket(whip_url(rest, stream)) as first, open_socket(whip_url(rest, stream)):
        assert (await closing(first))[0] == 4001


async def test_what_is_no_picture_ends_its_socket(rest: Rest) -> None:
    stream = await rest.create()
    async with open_socket(whip_url(rest, stream)) as publisher:
        with contextlib.suppress(ConnectionClosed):
            for _ in range(5):
                await publisher.send(b"no picture")
        assert (await closing(publisher))[0] == 1003


async def test_too_large_a_picture_ends_its_socket(rest: Rest) -> None:
    stream = await rest.create()
    async with open_socket(whip_url(rest, stream)) as publisher:
        with contextlib.suppress(ConnectionClosed):
            await publisher.send(bytes(8 * 1024 * 1024 + 1))
        assert (await closing(publisher))[0] == 1009


async def test_the_end_of_the_stream_ends_all_that_came_through_the_gateway(rest: Rest) -> None:
    stream = await rest.create()
    async with open_socket(whip_url(rest, stream)) as publisher, open_socket(whep_url(rest, stream)) as viewer:
        await publisher.send(encoded(1))
        async with rest.anonymous.stream("GET", motion_jpeg_url(rest, stream)) as response:
            pictures = by_motion_jpeg(response)
            await anext(pictures)
            await rest.http.delete(f"/v1/streams/{stream['id']}")
            async for _ in pictures:  # to its end as that of a whole answer: one that is cut off raises
                pass
        assert (await closing(publisher))[0] == 1001
        assert (await closing(viewer))[0] == 1001
    await refused(whip_url(rest, stream), 404, "STREAMS/NOT_FOUND")


async def test_whole_pictures_keep_a_session_from_being_idle(client: RunPodClient) -> None:
    running = Running(client, await client.start(params=SMALL, idle_seconds=2, status_seconds=0.2))
    ready = await running.wait("ready")
    async with open_socket(ready["whip_url"]), open_socket(ready["whep_url"]):
        await eventually(lambda: running.events[-1].get("seconds", 0) > 5, seconds=30, what="more than twice the time")
        assert running.events[-1]["event"] == "status"
    assert (await running.wait("summary"))["reason"] == "idle"
    await running.end()


@pytest.mark.slow
async def test_a_worker_that_is_killed_ends_what_came_from_it(tmp_path: Path) -> None:
    platform = FakePlatform().start()
    worker, gateway = JobWorker(tmp_path, platform, "killed"), gateway_of(platform, tmp_path)
    try:
        worker.start()
        await asyncio.to_thread(gateway.start)
        await asyncio.to_thread(worker.wait_ready)
        async with Rest(gateway) as rest:
            stream = await rest.create()
            async with open_socket(whip_url(rest, stream)) as publisher, open_socket(whep_url(rest, stream)) as viewer:
                await publisher.send(encoded(1))
                async with rest.anonymous.stream("GET", motion_jpeg_url(rest, stream)) as response:
                    pictures = by_motion_jpeg(response)
                    await anext(pictures)
                    await asyncio.to_thread(worker.kill)
                    async for _ in pictures:
                        pass
                assert await closing(publisher) == (1011, "the worker broke off")
                assert await closing(viewer) == (1011, "the worker broke off")
            await refused(whip_url(rest, stream), 504, "SESSION/OWNER_UNREACHABLE")
            check_error(await rest.anonymous.get(motion_jpeg_url(rest, stream)), 504, "SESSION/OWNER_UNREACHABLE")
    finally:
        await asyncio.to_thread(gateway.stop)
        if not worker.ended:
            worker.kill()
        worker.bury()
        platform.stop()
