"""The worker is killed or frozen, the server is killed: what viewers and callers notice of it."""

import asyncio
import contextlib
import itertools
import os
import signal
import statistics
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.cold import HeldWorker
from tests.support.cores import CoreWaits
from tests.support.goes import best_below, in_time
from tests.support.peers import Publisher, Viewer, preserved
from tests.support.processes import is_gone
from tests.support.rest import SMALL, Rest, block
from tests.support.server import LiveServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server whose worker these tests may kill."""
    live = LiveServer(tmp_path_factory.mktemp("fragile"), worker_spare=True, worker_ping_timeout=None)
    live.start()
    yield live
    live.stop()


@contextlib.asynccontextmanager
async def polled(rest: Rest, stream_id: str) -> AsyncIterator[list[float]]:
    """Ask the REST API all the time; collects how long each answer took, in seconds, but for what the server and this
    process waited for a core."""
    times: list[float] = []
    assert rest.server.process is not None
    processes = (rest.server.process.pid, os.getpid())

    async def ask() -> None:
        while True:
            start, before = time.monotonic(), [CoreWaits.of(each) for each in processes]
            response = await rest.http.get(f"/v1/streams/{stream_id}/status")
            assert response.status_code == 200
            took = time.monotonic() - start
            waits = (CoreWaits.of(each).since(then) for each, then in zip(processes, before, strict=True))
            times.append(took - sum(waits))
            await asyncio.sleep(0.05)

    task = asyncio.get_running_loop().create_task(ask())
    try:
        yield times
        assert not task.done(), task.exception()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.mark.slow
@pytest.mark.parametrize("blow", ["SIGKILL", "SIGSTOP"])
@pytest.mark.alone
async def test_viewers_survive_the_loss_of_the_worker(fragile: LiveServer, blow: str) -> None:
    async with Rest(fragile) as rest:
        stream = await rest.create(SMALL | {"image_preprocessing": block("passthrough")})
        async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
            await viewer.wait_kind("card")
            await rest.wait_state(stream["id"], "ONLINE", seconds=60)
            # A server that has run for some seconds; one just started still fills the page cache with torch.
            await eventually(lambda: asyncio.to_thread(fragile.has_settled), seconds=150, what="a warm spare worker")
            before = await rest.status(stream["id"])
            victim, process = fragile.worker(), fragile.process
            assert process is not None
            cards: list[float] = []
            placards: list[float] = []
            viewer.on_picture = lambda picture: (cards if picture.is_card() else placards).append(picture.at)

            async def replaced() -> bool:
                inference = (await rest.status(stream["id"]))["inference_status"]
                return inference["restart_count"] == before["inference_status"]["restart_count"] + 1

            with preserved(publisher, viewer):
                async with polled(rest, stream["id"]) as times:
                    waits = {each.pid: CoreWaits.of(each.pid) for each in (*fragile.family(), psutil.Process())}
                    victim.send_signal(getattr(signal, blow))
                    struck = time.monotonic()
                    await eventually(replaced, what="a restart in the status")
                    await eventually(lambda: fragile.worker_pid() != victim.pid, what="another worker")
                    await viewer.wait_kind("card")
            # A warm spare may take over so fast that there is nothing to show a placard for.
            gaps = itertools.pairwise([struck, *(at for at in cards if at > struck)])
            lost, back = max(gaps, key=lambda gap: gap[1] - gap[0])
            # But for what others kept the three from cores that take part: server, new worker, and this process.
            parts = (process.pid, fragile.worker_pid(), os.getpid())
            kept = sum(CoreWaits.of(each).since(waits.get(each, CoreWaits())) for each in parts)
            assert back - struck - kept < 5.0, f"pictures came back {back - struck:.1f} s after {blow}, {kept:.1f} kept"
            if back - lost > 3.0:
                assert any(lost < at < back for at in placards), f"{back - lost:.1f} s without pictures or placard"
            assert max(times) < 0.5, f"a REST answer took {max(times):.2f} s, median {statistics.median(times):.3f} s"
            after = await rest.status(stream["id"])
            assert after["inference_status"]["last_restart_time"]
            assert is_gone(victim)
            # Updates reach the new worker as they reached the old one.
            await rest.change(stream["id"], {"image_preprocessing": block("canny")})
            await viewer.wait_kind("edges")


@pytest.mark.slow
async def test_a_killed_server_comes_back_with_the_same_streams(make_server: Callable[..., LiveServer]) -> None:
    live = make_server()
    async with Rest(live) as rest:
        first = await rest.create(SMALL | {"prompt": "kept"}, name="one")
        second = await rest.create({"model_id": "stabilityai/sdxl-turbo", "seed": [[1, 0.5], [2, 0.5]]}, name="two")
        await rest.change(second["id"], {"ip_adapter": {"scale": 0.3}, "image_preprocessing": block("canny")})
        expected = [await rest.get(stream["id"]) for stream in (first, second)]
        async with Publisher(first["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
            await viewer.wait_kind("card")
            await asyncio.to_thread(live.kill)
        await asyncio.to_thread(live.start)
        stored = [await rest.get(stream["id"]) for stream in expected]
        volatile = {"status"}
        for before, after in zip(expected, stored, strict=True):
            assert {name: value for name, value in after.items() if name not in volatile} == {
                name: value for name, value in before.items() if name not in volatile
            }
        async with Publisher(first["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
            await viewer.wait_kind("card")


@pytest.mark.slow
async def test_sigterm_ends_server_and_worker_with_status_zero(make_server: Callable[..., LiveServer]) -> None:

    async def end(go: int) -> float:
        """How many seconds that took."""
        live = make_server()
        async with Rest(live) as rest:
            stream = await rest.create()
            async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
                await viewer.wait_kind("card")
                start = time.monotonic()
                assert await asyncio.to_thread(live.stop) == 0
                took = time.monotonic() - start
                await eventually(
                    lambda: publisher.state == viewer.state == "closed",
                    what=lambda: f"both sessions closed; {publisher.state}, {viewer.state}",
                )
        return took

    await best_below(end, 10, "the end of the server")


async def test_07_create_answers_within_two_seconds_while_the_worker_starts(
    make_server: Callable[..., LiveServer], tmp_path: Path
) -> None:
    held = HeldWorker(tmp_path)
    live = make_server(ready=False, environment=held.environment)
    async with httpx.AsyncClient(base_url=live.url) as http:
        first = await http.get("/ready")
        assert first.status_code == 503
        health = await http.get("/health")
        assert health.status_code == 200
    async with Rest(live) as rest:
        await in_time(lambda go: rest.create({"model_id": "stabilityai/sdxl-turbo"}), 2.0, "the answer to a create")
        assert (await rest.http.get("/ready")).status_code == 503, "the worker was there before the stream"
        held.let_go()

        async def ready() -> bool:
            return (await rest.http.get("/ready")).status_code == 200

        await eventually(ready, seconds=150, what="ready")


async def test_a_first_start_makes_a_key_that_works(make_server: Callable[..., LiveServer]) -> None:
    live = make_server(api_keys=None, ready=False)
    key = live.first_key
    assert key is not None
    async with Rest(live) as rest:
        assert (await rest.http.get("/v1/streams")).status_code == 200
        assert (await rest.anonymous.get("/v1/streams")).status_code == 401
    # The key is never written down: neither in the log nor, readable, in the data directory.
    assert key not in live.log_tail()
    for file in live.data_dir.rglob("*"):
        if file.is_file():
            assert key.encode() not in file.read_bytes()


async def test_stream_keys_and_bearer_keys_stay_out_of_the_log(make_server: Callable[..., LiveServer]) -> None:
    live = make_server(log_level="debug")
    async with Rest(live) as rest:
        stream = await rest.create()
        async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
            await viewer.wait_kind("card")
        await rest.http.post("/live/video-to-video/stk_wrong_key/whip", headers={"Content-Type": "application/sdp"})
    log = live.log_tail(limit=10_000_000)
    assert log
    assert stream["stream_key"] not in log
    assert live.key not in log
