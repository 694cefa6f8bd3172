"""Two gateways and two workers with one real Redis: whole pictures, and calls, through a server that has no streams.

What is published at one gateway is watched at the other. Redis goes away, a worker is stopped, the other one is killed.
"""

import asyncio
import os
import shutil
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from sdstream.client import RunPodClient
from sdstream.platform import LINUX
from tests.jobs.platform import API_KEY, ENDPOINT, PIN, FakePlatform
from tests.jobs.redis_server import RedisServer
from tests.jobs.test_gateway_pictures import (
    by_socket,
    closing,
    gateway_of,
    no_viewers,
    numbers_seen,
    publishing,
    refused,
    rises,
    whep_url,
    whip_url,
)
from tests.jobs.worker import JobWorker
from tests.support.picture_sockets import encoded, open_socket, see
from tests.support.rest import SMALL, Rest, check_error
from tests.support.server import LiveServer
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
    pytest.mark.slow,
    pytest.mark.timeout(300),
]
LEASE = 3.0
MEGABYTE = 2**20


@dataclass
class Servers:
    """All that there is. `lasting` is stopped and goes on; `doomed` is a worker that a test may kill."""

    platform: FakePlatform
    redis: RedisServer
    gateways: list[LiveServer]
    lasting: JobWorker
    settings: dict[str, Any]
    folder: Path

    async def begin(self, worker: JobWorker) -> dict[str, Any]:
        """A stream of this worker."""
        async with RunPodClient(ENDPOINT, API_KEY, url=self.platform.url, poll_seconds=0.02) as client:
            client._http.headers[PIN] = worker.name
            async for event in client.events(await client.start(params=SMALL)):
                return event["stream"]
        raise AssertionError("the session ended at once")


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    folder = tmp_path_factory.mktemp("gateways")
    platform, redis = FakePlatform().start(), RedisServer(folder).start()
    shared: dict[str, Any] = {"redis_url": redis.url, "session_lease": LEASE}
    settings: dict[str, Any] = shared | {"worker_sessions": 10, "max_streams": 20}
    gateways: list[LiveServer] = []
    lasting = JobWorker(folder, platform, "lasting", **settings)
    try:
        lasting.start()
        for name in ("first", "second"):
            (folder / name).mkdir()
            gateways.append(gateway_of(platform, folder / name, **shared).start())
        lasting.wait_ready()
        yield Servers(platform, redis, gateways, lasting, settings, folder)
    finally:
        for gateway in gateways:
            gateway.stop()
        lasting.stop()
        redis.stop()
        platform.stop()


@pytest.fixture
async def at(servers: Servers) -> AsyncIterator[tuple[Rest, Rest]]:
    """A client of each gateway."""
    async with AsyncExitStack() as stack:
        first, second = [await stack.enter_async_context(Rest(gateway)) for gateway in servers.gateways]
        yield first, second


@pytest.fixture
async def stream(servers: Servers, at: tuple[Rest, Rest]) -> dict[str, Any]:
    """One of `lasting`, that is deleted at the end."""
    made = await servers.begin(servers.lasting)
    at[0].remember(made)
    return made


@asynccontextmanager
async def sockets(at: tuple[Rest, Rest], stream: dict[str, Any]) -> AsyncIterator[tuple[Any, Any]]:
    """A publisher at the first gateway and a viewer at the second."""
    async with open_socket(whip_url(at[0], stream)) as publisher, open_socket(whep_url(at[1], stream)) as viewer:
        yield publisher, viewer


async def test_pictures_in_at_one_gateway_come_out_at_the_other(at: tuple[Rest, Rest], stream: dict[str, Any]) -> None:
    async with publishing(whip_url(at[0], stream)), open_socket(whep_url(at[1], stream)) as viewer:
        assert rises(await numbers_seen(by_socket(viewer), 10))


async def test_who_leaves_at_one_gateway_is_gone_for_the_other(at: tuple[Rest, Rest], stream: dict[str, Any]) -> None:
    async with sockets(at, stream) as (publisher, viewer):
        await publisher.send(encoded(1))
        await see(viewer)
        assert (await at[0].status(stream["id"]))["viewers"] == 1
        await viewer.close()
        await no_viewers(at[0], stream)


async def test_the_end_of_the_stream_at_one_gateway_ends_the_sockets_of_the_other(
    at: tuple[Rest, Rest], stream: dict[str, Any]
) -> None:
    async with sockets(at, stream) as (publisher, viewer):
        assert (await at[1].http.delete(f"/v1/streams/{stream['id']}")).status_code == 200
        assert (await closing(publisher))[0] == 1001
        assert (await closing(viewer))[0] == 1001
    await refused(whip_url(at[0], stream), 404, "STREAMS/NOT_FOUND")


async def test_a_publisher_at_the_other_gateway_takes_over(at: tuple[Rest, Rest], stream: dict[str, Any]) -> None:
    async with open_socket(whip_url(at[0], stream)) as before, open_socket(whip_url(at[1], stream)):
        assert (await closing(before))[0] == 4001


async def test_a_token_opens_only_what_it_is_for(at: tuple[Rest, Rest], stream: dict[str, Any]) -> None:
    swapped = {"stream_key": stream["output_playback_id"], "output_playback_id": stream["stream_key"]}
    nobody = {"stream_key": "stk_nobody", "output_playback_id": "pb_nobody"}
    for tokens in (swapped, nobody):
        await refused(whip_url(at[1], tokens), 404, "STREAMS/NOT_FOUND")
        await refused(whep_url(at[1], tokens), 404, "STREAMS/NOT_FOUND")


async def test_who_floods_and_who_reads_nothing_do_not_fill_the_gateways(
    servers: Servers, at: tuple[Rest, Rest], stream: dict[str, Any]
) -> None:
    picture = os.urandom(4 * MEGABYTE)  # that is none costs the worker little; five in a row would end the socket
    before = [gateway.footprint().memory for gateway in servers.gateways]
    sent = 0
    async with sockets(at, stream) as (publisher, viewer):
        viewer.transport.pause_reading()

        async def flood() -> None:
            nonlocal sent
            while True:
                await publisher.send(encoded(1) if sent % 4 == 3 else picture)
                sent += 1

        async def claim_to_have_read() -> None:
            while True:
                await viewer.send("taken")
                await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(work) for work in (flood(), claim_to_have_read())]
        try:
            await eventually(lambda: sent >= 60, seconds=60, what="enough pictures")
            after = [gateway.footprint().memory for gateway in servers.gateways]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            viewer.transport.abort()
    grown = [(then - now) // MEGABYTE for now, then in zip(before, after, strict=True)]
    assert max(grown) < 60, f"megabytes: {grown}, of {sent * 3} that were sent"


async def test_open_sockets_go_on_without_redis_and_new_ones_say_why_they_do_not(
    servers: Servers, at: tuple[Rest, Rest], stream: dict[str, Any]
) -> None:
    async with sockets(at, stream) as (publisher, viewer):
        await publisher.send(encoded(1))
        await see(viewer)
        await asyncio.to_thread(servers.redis.stop)
        try:
            await refused(whip_url(at[1], stream), 503, "SESSION/DIRECTORY_UNAVAILABLE")
            await publisher.send(encoded(2))
            async with asyncio.timeout(30):
                while (await see(viewer)).number() != 2:
                    pass
        finally:
            await asyncio.to_thread(servers.redis.start)
    for gateway in at:
        await is_found(gateway, stream)


async def is_found(rest: Rest, stream: dict[str, Any]) -> None:
    async def probe() -> bool:
        return (await rest.http.get(f"/v1/streams/{stream['id']}")).status_code == 200

    await eventually(probe, seconds=30, what="a stream that is found again")


@pytest.mark.skipif(not LINUX, reason="stops a process as POSIX does")
async def test_what_a_stopped_worker_was_asked_is_not_done_when_it_goes_on(
    servers: Servers, at: tuple[Rest, Rest], stream: dict[str, Any]
) -> None:
    await at[0].change(stream["id"], {"prompt": "before"})
    assert servers.lasting.process is not None
    os.kill(servers.lasting.process.pid, signal.SIGSTOP)
    try:
        async with asyncio.timeout(10):
            refusal = await at[1].patch(stream["id"], {"prompt": "while it was stopped"})
        check_error(refusal, 504, "SESSION/OWNER_UNREACHABLE")
        assert refusal.headers["retry-after"] == "2"
    finally:
        os.kill(servers.lasting.process.pid, signal.SIGCONT)
    await is_found(at[1], stream)
    await at[1].change(stream["id"], {"seed": 1})  # read after the one that is not done
    assert (await at[0].get(stream["id"]))["params"]["prompt"] == "before"


async def test_a_worker_that_is_killed_ends_its_sockets_and_no_others(
    servers: Servers, at: tuple[Rest, Rest], stream: dict[str, Any]
) -> None:
    doomed = JobWorker(servers.folder, servers.platform, "doomed", None, **servers.settings)
    try:
        doomed.start()
        await asyncio.to_thread(doomed.wait_ready)
        lost = await servers.begin(doomed)
        async with sockets(at, stream) as (_, other), sockets(at, lost) as (publisher, viewer):
            await asyncio.to_thread(doomed.kill)
            assert await closing(publisher) == (1011, "the worker broke off")
            assert await closing(viewer) == (1011, "the worker broke off")
            await other.ping()
        seen: list[int] = []

        async def is_forgotten() -> bool:
            seen.append((await at[1].http.get(f"/v1/streams/{lost['id']}")).status_code)
            return seen[-1] == 404

        await eventually(is_forgotten, what="the end of the lease")
        assert set(seen) <= {504, 404}
        assert [entry["id"] for entry in (await at[0].http.get("/v1/streams")).json()["data"]] == [stream["id"]]
    finally:
        if not doomed.ended:
            doomed.kill()
        doomed.bury()
