"""A job that is taken back before RunPod's SDK has begun it."""

import asyncio
from typing import Any

import pytest

from sdstream.clock import ManualClock
from sdstream.jobs.stops import REMEMBERED_SECONDS, EarlyStops


class Scaler:
    """The part of the SDK's class that stops jobs."""

    def __init__(self) -> None:
        self.jobs_tasks: dict[str, asyncio.Task[None]] = {}

    async def stop_job(self, job_id: str) -> bool:
        self.jobs_tasks[job_id].cancel()
        return True


@pytest.fixture
def scaler() -> Any:
    """A class of its own for each test, since listening changes it."""
    return type("OwnScaler", (Scaler,), {})


async def test_a_stop_before_its_job_is_told_to_the_job_once(scaler: Any) -> None:
    stops = EarlyStops(ManualClock())
    stops.listen(scaler)
    assert await scaler().stop_job("early") is False
    assert [stops.take(job_id) for job_id in ("other", "early", "early")] == [False, True, False]


async def test_a_task_that_has_not_begun_is_not_cancelled_for_the_sdk_would_count_it_for_ever(scaler: Any) -> None:
    stops, one = EarlyStops(ManualClock()), scaler()
    stops.listen(scaler)
    ended: list[bool] = []

    async def handle_job() -> None:
        try:
            ended.append(stops.take("waiting"))
        finally:
            ended.append(True)

    one.jobs_tasks["waiting"] = asyncio.create_task(handle_job())
    await one.stop_job("waiting")
    await one.jobs_tasks["waiting"]
    assert ended == [True, True]


async def test_a_job_that_has_begun_is_stopped_by_the_sdk(scaler: Any) -> None:
    stops, one = EarlyStops(ManualClock()), scaler()
    stops.listen(scaler)
    one.jobs_tasks["running"] = task = asyncio.create_task(asyncio.Event().wait())
    await asyncio.sleep(0)
    assert await one.stop_job("running") is True
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    assert not stops.take("running")


async def test_a_job_that_comes_again_later_is_not_stopped() -> None:
    clock = ManualClock()
    stops = EarlyStops(clock)
    stops.note("again")
    clock.advance(REMEMBERED_SECONDS + 0.1)
    assert not stops.take("again")
