"""Two workers and a real Redis: a call on the wrong worker reaches the owner, and what happens when one is gone."""

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sdstream.client import RunPodClient
from sdstream.errors import JobFailed
from tests.jobs.test_worker import Running
from tests.jobs.worker import JobWorker
from tests.support.peers import Publisher, Viewer
from tests.support.rest import SMALL
from tests.support.waiting import eventually, eventually_sync

pytestmark = [
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
    pytest.mark.slow,
]
LEASE = 2


class RedisServer:
    """Debian's redis-server on a port that stays its own through restarts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> "RedisServer":
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir"]
        self._process = subprocess.Popen(
            [*command, str(self._folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        eventually_sync(self._answers, what="redis-server answering")
        return self

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1):
                return True
        except OSError:
            return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None


@pytest.fixture
def redis_server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path).start()
    yield server
    server.stop()


async def failure_of(client: RunPodClient, session_id: str) -> JobFailed:
    with pytest.raises(JobFailed) as failed:
        await client.update(session_id, {"prompt": "x"})
    return failed.value


async def test_two_workers_and_a_redis(
    redis_server: RedisServer,
    make_worker: Callable[..., JobWorker],
    make_client: Callable[..., RunPodClient],
) -> None:
    settings = {"redis_url": redis_server.url, "session_lease": LEASE, "worker_sessions": 2}
    owner, other = make_worker("owner", **settings), make_worker("other", **settings)
    owner.wait_ready()
    other.wait_ready()
    at_owner, at_other = make_client("owner"), make_client("other")
    running = Running(at_owner, await at_owner.start(params=SMALL, status_seconds=0.2, session_id="shared-session"))
    ready = await running.wait("ready")
    session_id = ready["session_id"]

    # A call on the wrong worker reaches the owner, and so does a repeated start.
    answer = await at_other.update(session_id, {"prompt": "from the other"})
    assert answer["params"]["prompt"] == "from the other"
    assert [entry["worker_id"] for entry in await at_other.sessions()] == ["owner"]
    again = await at_other.run({"action": "start", "params": SMALL, "session_id": session_id})
    assert again["repeated"] is True
    assert again["whip_url"] == ready["whip_url"]
    assert (await failure_of(at_other, "no-such-session")).error_code == "STREAMS/NOT_FOUND"

    # Redis goes away and comes back, empty: the running session never notices.
    async with Publisher(ready["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        await viewer.wait_kind("card")
        gone_at = time.monotonic()
        await asyncio.to_thread(redis_server.stop)
        assert (await failure_of(at_other, session_id)).error_code == "SESSION/DIRECTORY_UNAVAILABLE"
        assert (await at_owner.update(session_id, {"prompt": "without Redis"}))["params"]["prompt"] == "without Redis"
        await asyncio.to_thread(redis_server.start)

        async def reaches() -> bool:
            try:
                await at_other.update(session_id, {"prompt": "with Redis again"})
            except JobFailed:
                return False
            return True

        await eventually(reaches, seconds=20, what="the call through the new Redis")
        await viewer.wait_kind("card")
        assert viewer.longest_gap(gone_at) < 2
        assert publisher.state == "connected"

    # The owner is killed: the caller gets a typed answer, the directory forgets within the lease.
    owner.kill()
    killed_at = time.monotonic()
    failure = await failure_of(at_other, session_id)
    assert failure.error_code in ("SESSION/OWNER_UNREACHABLE", "STREAMS/NOT_FOUND")

    async def forgotten() -> bool:
        return (await failure_of(at_other, session_id)).error_code == "STREAMS/NOT_FOUND"

    await eventually(forgotten, seconds=10, what="the end of the lease")
    assert time.monotonic() - killed_at < LEASE + 3
    # The platform gives the job again: the other worker takes the session over.
    fresh = Running(at_other, await at_other.start(params=SMALL, session_id=session_id))
    assert (await fresh.wait("ready"))["worker_id"] == "other"
    await at_other.stop(session_id)
    assert (await fresh.wait("summary"))["reason"] == "stopped"
    await fresh.end()
    await at_owner.cancel(running.job_id)
    await running.end()
