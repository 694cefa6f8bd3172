"""Fixtures of the job tests: a fake platform, real workers, a real Redis."""

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sdstream.client import RunPodClient
from tests.jobs.platform import API_KEY, ENDPOINT, PIN, FakePlatform
from tests.jobs.worker import JobWorker

_workers: list[JobWorker] = []


@pytest.fixture(scope="session")
def platform() -> Iterator[FakePlatform]:
    fake = FakePlatform().start()
    yield fake
    fake.stop()
    assert fake.violations == []


@pytest.fixture(scope="session")
def worker(platform: FakePlatform, tmp_path_factory: pytest.TempPathFactory) -> Iterator[JobWorker]:
    """The worker that most tests share: four sessions, no Redis."""
    made = JobWorker(tmp_path_factory.mktemp("worker"), platform, "shared", worker_sessions=4, private_downloads="true")
    _workers.append(made.start())
    yield made.wait_ready()
    made.stop()


@pytest.fixture
def make_worker(platform: FakePlatform, tmp_path: Path) -> Iterator[Callable[..., JobWorker]]:
    """Starts a worker of the test's own."""
    made: list[JobWorker] = []

    def make(name: str, variables: dict[str, str] | None = None, **settings: Any) -> JobWorker:
        worker = JobWorker(tmp_path, platform, name, variables, **settings)
        made.append(worker)
        _workers.append(worker)
        return worker.start()

    yield make
    for worker in made:
        worker.stop()


@pytest.fixture
async def make_client(platform: FakePlatform) -> AsyncIterator[Callable[..., RunPodClient]]:
    """A client whose jobs go to one worker."""
    made: list[RunPodClient] = []

    def make(pin: str | None = None) -> RunPodClient:
        client = RunPodClient(ENDPOINT, API_KEY, url=platform.url, poll_seconds=0.02)
        if pin is not None:
            client._http.headers[PIN] = pin
        made.append(client)
        return client

    yield make
    for client in made:
        await client.aclose()


@pytest.fixture
def client(worker: JobWorker, make_client: Callable[..., RunPodClient]) -> RunPodClient:
    """A client of the shared worker."""
    return make_client(worker.name)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome: Any = yield
    report = outcome.get_result()
    if report.failed and "jobs" in str(item.path):
        for worker in _workers:
            report.sections.append((f"log of the worker {worker.name}", worker.log()[-8000:]))
