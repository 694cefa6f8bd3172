"""Fixtures of the job tests: a fake platform, real workers, a real Redis."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from sdstream.client import RunPodClient
from sdstream.diffusion.tiny import write_tiny_model
from tests.jobs.bucket import FakeBucket
from tests.jobs.platform import API_KEY, ENDPOINT, FakePlatform
from tests.jobs.worker import JobWorker
from tests.support.waiting import eventually

PLACES = 6
"""Sessions that the shared worker takes."""
_workers: list[JobWorker] = []
"""Workers whose log goes into the report of a failure."""


@pytest.fixture(scope="session")
def platform() -> Iterator[FakePlatform]:
    fake = FakePlatform().start()
    yield fake
    fake.stop()
    assert fake.violations == []


@pytest.fixture(scope="session")
def worker_temporary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the shared worker keeps files of jobs that are under way."""
    return tmp_path_factory.mktemp("temporary")


@pytest.fixture(scope="session")
def worker(
    platform: FakePlatform, worker_temporary: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[JobWorker]:
    """The worker that most tests share: few sessions, no Redis, a tiny SD-Turbo and no other model."""
    folder = tmp_path_factory.mktemp("worker")
    write_tiny_model(folder / "tiny", "sd-turbo", width=16)
    made = JobWorker(
        folder,
        platform,
        "shared",
        {"TMPDIR": str(worker_temporary), "HF_HUB_CACHE": str(folder / "hub")},
        worker_sessions=PLACES,
        private_downloads="true",
        max_download_bytes=3_000_000,
        models=json.dumps({"stabilityai/sd-turbo": str(folder / "tiny")}),
    )
    _workers.append(made.start())
    yield made.wait_ready()
    made.stop()


@pytest.fixture(scope="session")
def bucket() -> Iterator[FakeBucket]:
    fake = FakeBucket().start()
    yield fake
    fake.stop()


@pytest.fixture
async def client(platform: FakePlatform, worker: JobWorker) -> AsyncIterator[RunPodClient]:
    """A client of the shared worker, whose places are all free again when the next test begins.

    Whatever opens sessions of that worker has this among its fixtures, and ends them before.
    """
    async with RunPodClient(ENDPOINT, API_KEY, url=platform.url, poll_seconds=0.02) as made:
        yield made
        if worker.ended:
            return

        async def all_free() -> bool:
            # The platform ends a cancelled job at once, the worker its session when it hears of it.
            return await made.sessions() == []

        await eventually(all_free, seconds=30, interval=0.0, what="the end of the sessions of this test")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    if report.failed and "jobs" in str(item.path):
        for worker in _workers:
            report.sections.append((f"log of the worker {worker.name}", worker.log()[-8000:]))
