"""How a worker asks for jobs while RunPod's queue fails."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from sdstream.clock import ManualClock
from sdstream.jobs.feed import FIRST_DELAY, LONGEST_DELAY, JobFeed, Outage, decide_give_up, delay_after

REFUSED = ConnectionRefusedError("refused")
ANSWERED = RuntimeError("502, Bad Gateway")
"""An error that somebody sent."""


class Queue:
    """A queue that gives what it was told to give, and the time that passes meanwhile."""

    def __init__(self, limit: float = 0.0, jobs: int = 0) -> None:
        self.clock = ManualClock()
        self.next: Any = REFUSED
        self.jobs = jobs
        self.delays: list[float] = []
        self.given_up: list[float] = []
        self.feed = JobFeed(
            self.answer,
            self.clock,
            limit,
            lambda: self.jobs,
            self.given_up.append,
            sleep=self.sleep,
            chance=lambda: 1.0,
        )

    async def answer(self, session: str, count: int) -> Any:
        assert (session, count) == ("session", 9), "the SDK's arguments are passed on"
        if isinstance(self.next, BaseException):
            raise self.next
        return self.next

    async def sleep(self, seconds: float) -> None:
        self.delays.append(seconds)
        self.clock.advance(seconds)

    async def ask(self, given: Any) -> Any:
        self.next = given
        return await self.feed.take("session", 9)

    async def fail(self, error: BaseException = REFUSED) -> None:
        with pytest.raises(type(error)):
            await self.ask(error)

    async def fail_until(self, ended: Callable[[], Any]) -> None:
        for _ in range(100):
            if ended():
                return
            await self.fail()
        raise AssertionError(f"100 failures, {self.delays}")


@pytest.mark.parametrize("jobs", [None, [{"id": "a", "input": {}}]])
async def test_what_the_queue_gives_comes_without_delay(jobs: Any) -> None:
    queue = Queue()
    assert await queue.ask(jobs) is jobs
    assert queue.delays == []


@pytest.mark.parametrize("error", [REFUSED, ANSWERED])
async def test_failures_come_ever_more_rarely_and_an_answer_ends_that(error: Exception) -> None:
    queue = Queue()
    for _ in range(8):
        await queue.fail(error)
    assert queue.delays == [0.25, 0.5, 1, 2, 4, 8, 10, 10]
    await queue.ask(None)
    await queue.fail(error)
    assert queue.delays[-1] == FIRST_DELAY


def test_workers_that_lost_the_queue_together_come_back_apart_and_within_bounds() -> None:
    assert delay_after(Outage(failures=1), 0.0) == FIRST_DELAY / 2
    assert delay_after(Outage(failures=10**6), 0.0) == LONGEST_DELAY / 2
    assert delay_after(Outage(failures=10**6), 1.0) == LONGEST_DELAY


async def test_an_idle_worker_gives_up_once_after_its_limit() -> None:
    queue = Queue(limit=60)
    begun = queue.clock.monotonic()
    await queue.fail_until(lambda: queue.given_up)
    (seconds,) = queue.given_up
    assert 60 <= seconds < 60 + LONGEST_DELAY
    assert queue.clock.monotonic() - begun >= seconds
    for _ in range(5):
        await queue.fail()
    assert len(queue.given_up) == 1


async def test_a_worker_with_a_job_stays_for_as_long_as_that_runs() -> None:
    queue = Queue(limit=60, jobs=1)
    for _ in range(100):
        await queue.fail()
    assert queue.given_up == []
    queue.jobs = 0
    await queue.fail()
    assert len(queue.given_up) == 1


async def test_time_before_an_answer_does_not_count() -> None:
    queue = Queue(limit=60)
    for answer in (None, ANSWERED, asyncio.CancelledError()):  # the last is the SDK's own limit for a poll
        await queue.fail_until(lambda begun=queue.clock.monotonic(): queue.clock.monotonic() - begun > 45)
        if isinstance(answer, BaseException):
            await queue.fail(answer)
        else:
            await queue.ask(answer)
    assert queue.given_up == []


async def test_a_queue_that_answers_with_errors_ends_no_worker() -> None:
    queue = Queue(limit=1)
    for _ in range(100):
        await queue.fail(ANSWERED)
    assert queue.given_up == []


@pytest.mark.parametrize(
    ("since", "limit", "jobs", "gives_up"),
    [
        (100.0, 60.0, 0, True),
        (100.5, 60.0, 0, False),
        (100.0, 60.0, 1, False),
        (100.0, 0.0, 0, False),
        (None, 60.0, 0, False),
    ],
)
def test_giving_up(since: float | None, limit: float, jobs: int, gives_up: bool) -> None:
    assert decide_give_up(Outage(9, since), 160.0, limit, jobs) is gives_up


async def test_a_feed_that_is_closed_gives_the_open_poll_up_and_begins_no_other() -> None:
    polls: list[str] = []
    begun = asyncio.Event()

    async def poll(session: str) -> Any:
        polls.append(session)
        begun.set()
        try:
            return await asyncio.Event().wait()
        finally:
            polls.append("given up")

    feed = JobFeed(poll, ManualClock(), 0, lambda: 0, lambda seconds: None)
    open_poll = asyncio.create_task(feed.take("first"))
    await begun.wait()
    feed.close()
    assert await asyncio.wait_for(open_poll, 5) is None
    another = asyncio.create_task(feed.take("second"))
    for _ in range(10):
        await asyncio.sleep(0)
    assert (polls, another.done()) == (["first", "given up"], False)
    another.cancel()
    await asyncio.gather(another, return_exceptions=True)
