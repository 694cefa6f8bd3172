"""Two workers and a real Redis. One story is told once, and each test looks at one thing that happened in it.

A session and a render job run on `owner`; calls come by `other`. Redis goes away and comes back empty. `owner` is
killed while it uploads; the platform gives its jobs to `other`. At last `other` gets SIGTERM with sessions running.
"""

import asyncio
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from sdstream.client import RunPodClient
from sdstream.job_errors import JobFailed
from tests.jobs.bucket import BUCKET, FakeBucket
from tests.jobs.platform import API_KEY, ENDPOINT, PIN, FakePlatform
from tests.jobs.redis_server import RedisServer
from tests.jobs.test_worker import Running
from tests.jobs.worker import JobWorker
from tests.project.test_render import film  # noqa: F401 -- a fixture
from tests.support.peers import Publisher, Viewer
from tests.support.rest import SMALL
from tests.support.waiting import eventually

pytestmark = [
    pytest.mark.skipif(shutil.which("redis-server") is None, reason="redis-server is not installed"),
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.timeout(300),  # whichever test comes first tells the story
]
LEASE = 2.0
SESSION = "shared-session"


@dataclass
class Story:
    """What was seen."""

    ready: dict[str, Any] = field(default_factory=dict[str, Any])
    prompt_by_other: str = ""
    listed_by_other: list[str] = field(default_factory=list[str])
    repeated: dict[str, Any] = field(default_factory=dict[str, Any])
    code_of_unknown: str = ""
    code_without_redis: str = ""
    prompt_without_redis: str = ""
    longest_gap: float = 0.0
    publisher_state: str = ""
    codes_after_kill: list[str] = field(default_factory=list[str])
    forgotten_after: float = 0.0
    half_file: bool = True
    given_again: list[str] = field(default_factory=list[str])
    render_job: str = ""
    rendered: dict[str, Any] = field(default_factory=dict[str, Any])
    rendered_bytes: int = 0
    taken_over_by: str = ""
    summaries: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    states: list[str] = field(default_factory=list[str])
    ended_after: float = 99.0
    taken_late: int = -1


class Teller:
    """Goes through the story."""

    def __init__(self, platform: FakePlatform, redis: RedisServer, bucket: FakeBucket) -> None:
        self.platform, self.redis, self.bucket = platform, redis, bucket
        self.story = Story()

    def client(self, worker: JobWorker) -> RunPodClient:
        made = RunPodClient(ENDPOINT, API_KEY, url=self.platform.url, poll_seconds=0.02)
        made._http.headers[PIN] = worker.name
        return made

    async def tell(self, owner: JobWorker, other: JobWorker) -> Story:
        async with self.client(owner) as at_owner, self.client(other) as at_other:
            running = Running(at_owner, await at_owner.start(params=SMALL, status_seconds=0.2, session_id=SESSION))
            self.story.ready = await running.wait("ready")
            await self.call_by_other(at_other)
            await self.lose_redis(at_owner, at_other)
            await self.kill_owner(owner, at_owner, at_other)
            await at_owner.cancel(running.job_id)
            await running.end()

            async def is_free() -> bool:  # the platform calls a job cancelled before its worker has ended it
                return await at_other.sessions() == []

            await eventually(is_free, what="the end of the session that was given to the other worker")
            await self.terminate(other, at_other)
        return self.story

    async def call_by_other(self, at_other: RunPodClient) -> None:
        answer = await at_other.update(SESSION, {"prompt": "from the other"})
        self.story.prompt_by_other = answer["params"]["prompt"]
        self.story.listed_by_other = [entry["worker_id"] for entry in await at_other.sessions()]
        self.story.repeated = await at_other.run({"action": "start", "params": SMALL, "session_id": SESSION})
        self.story.code_of_unknown = await code_of_update(at_other, "no-such-session")

    async def lose_redis(self, at_owner: RunPodClient, at_other: RunPodClient) -> None:
        whip_url = self.story.ready["whip_url"]
        async with Publisher(whip_url) as publisher, Viewer(publisher.whep_url) as viewer:
            await viewer.wait_kind("card")
            gone_at = time.monotonic()
            await asyncio.to_thread(self.redis.stop)
            self.story.code_without_redis = await code_of_update(at_other, SESSION)
            answer = await at_owner.update(SESSION, {"prompt": "without Redis"})
            self.story.prompt_without_redis = answer["params"]["prompt"]
            await asyncio.to_thread(self.redis.start)

            async def reaches() -> bool:
                return not await code_of_update(at_other, SESSION)

            await eventually(reaches, seconds=30, what="the call through the new Redis")
            await viewer.wait_kind("card")
            self.story.longest_gap = viewer.longest_gap(gone_at)
            self.story.publisher_state = publisher.state

    async def kill_owner(self, owner: JobWorker, at_owner: RunPodClient, at_other: RunPodClient) -> None:
        story, bucket = self.story, self.bucket
        url = f"{bucket.url}/{BUCKET}/film.mp4?X-Amz-Credential=good-key"
        bucket.hold.set()
        story.render_job = await at_owner.submit(
            {"action": "render", "source": {"url": url}, "params": {"skip_diffusion": True}},
            s3_config=bucket.config(),
        )
        key = f"sdstream/{story.render_job}/result.mp4"
        await eventually(bucket.holding.is_set, seconds=60, what="the upload")
        killed_at = time.monotonic()
        await asyncio.to_thread(owner.kill)

        async def is_forgotten() -> bool:
            story.codes_after_kill.append(await code_of_update(at_other, SESSION))
            return story.codes_after_kill[-1] == "STREAMS/NOT_FOUND"

        await eventually(is_forgotten, seconds=30, what="the end of the lease")
        story.forgotten_after = time.monotonic() - killed_at
        await asyncio.to_thread(owner.bury)
        story.half_file = key in bucket.objects
        bucket.forget_held()
        again = Running(at_other, await at_other.start(params=SMALL, session_id=SESSION))
        story.taken_over_by = (await again.wait("ready"))["worker_id"]
        await at_other.stop(SESSION)
        await again.end()
        story.given_again = [job for job in self.platform.give_again(owner.name) if job == story.render_job]

        async def is_done() -> bool:
            return (await at_other.status(story.render_job)).is_final

        await eventually(is_done, seconds=60, what="the render job's second run")
        story.rendered = await at_other.result(story.render_job)
        story.rendered_bytes = len(bucket.objects[key])

    async def terminate(self, other: JobWorker, at_other: RunPodClient) -> None:
        jobs = [await at_other.start(params=SMALL) for _ in range(2)]
        running = [Running(at_other, job) for job in jobs]
        for each in running:
            await each.wait("ready")
        asked_at = time.monotonic()
        other.terminate()
        await eventually(lambda: '"draining"' in other.log(), seconds=30, interval=0.01, what=other.log)
        late = await at_other.submit({"action": "list"})
        for each in running:
            self.story.summaries.append(await each.wait("summary"))
            await each.end()
        self.story.states = [self.platform.jobs[job].state for job in jobs]
        self.story.ended_after = max((self.platform.jobs[job].ended_at or 1e9) - asked_at for job in jobs)
        await asyncio.to_thread(other.stop)  # insists on an end within seconds, whatever the platform's poll takes
        self.story.taken_late = self.platform.jobs[late].taken


async def code_of_update(client: RunPodClient, session_id: str) -> str:
    """The code with which an update fails, empty when it does not."""
    try:
        await client.update(session_id, {"prompt": "x"})
    except JobFailed as failed:
        return failed.error_code
    return ""


@pytest.fixture(scope="module")
def story(film: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:  # noqa: F811
    folder = tmp_path_factory.mktemp("two")
    platform, bucket, redis = FakePlatform().start(), FakeBucket().start(), RedisServer(folder).start()
    bucket.objects["film.mp4"] = film.read_bytes()
    settings = {
        "redis_url": redis.url,
        "session_lease": LEASE,
        "worker_sessions": 2,
        "private_downloads": "true",
    }
    workers = [JobWorker(folder, platform, name, **settings).start() for name in ("owner", "other")]
    try:
        for worker in workers:
            worker.wait_ready()
        try:
            told = asyncio.run(Teller(platform, redis, bucket).tell(*workers))
        except BaseException as error:
            for worker in workers:
                error.add_note(f"log of {worker.name}:\n{worker.log()[-6000:]}")
            raise
        yield told
    finally:
        for worker in workers:
            worker.stop()
        redis.stop()
        bucket.stop()
        platform.stop()
    assert platform.violations == []


def test_a_control_job_on_the_wrong_worker_reaches_the_owner(story: Story) -> None:
    assert story.prompt_by_other == "from the other"


def test_every_worker_knows_every_session(story: Story) -> None:
    assert story.listed_by_other == ["owner"]
    assert story.code_of_unknown == "STREAMS/NOT_FOUND"


def test_a_repeated_start_on_another_worker_gives_the_same_session(story: Story) -> None:
    assert story.repeated["repeated"] is True
    assert story.repeated["whip_url"] == story.ready["whip_url"]
    assert story.repeated["control"] == story.ready["control"]


def test_a_running_session_never_notices_that_redis_is_gone(story: Story) -> None:
    assert story.prompt_without_redis == "without Redis"
    assert story.publisher_state == "connected"
    assert story.longest_gap < 5


def test_the_wrong_worker_says_that_redis_is_gone(story: Story) -> None:
    assert story.code_without_redis == "SESSION/DIRECTORY_UNAVAILABLE"


def test_a_killed_owner_is_told_by_a_code_and_forgotten_within_its_lease(story: Story) -> None:
    assert set(story.codes_after_kill) <= {"SESSION/OWNER_UNREACHABLE", "STREAMS/NOT_FOUND"}
    assert story.forgotten_after < LEASE + 5
    assert story.taken_over_by == "other"


def test_the_render_job_of_a_killed_worker_is_done_again_without_half_a_file(story: Story) -> None:
    assert not story.half_file
    assert story.given_again == [story.render_job]
    assert story.rendered["frames"] == 20
    assert story.rendered_bytes == story.rendered["result"]["bytes"]


def test_sigterm_ends_every_session_with_a_posted_summary_within_three_seconds(story: Story) -> None:
    assert [summary["reason"] for summary in story.summaries] == ["worker_shutdown"] * 2
    assert story.states == ["COMPLETED"] * 2
    assert story.ended_after < 3


def test_a_worker_that_drains_leaves_jobs_in_the_queue_for_others(story: Story) -> None:
    assert story.taken_late == 0
