"""A RunPod serverless worker: the whole server in the loop of RunPod's SDK, and the jobs on top."""

import argparse
import asyncio
import contextlib
import importlib
import json
import logging
import multiprocessing.util
import os
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from types import FrameType
from typing import Any, cast

import structlog

from sdstream.embedded_server import EmbeddedServer
from sdstream.errors import CommandFailed, ConfigurationError, SdstreamError
from sdstream.fitness import register_fitness_checks
from sdstream.jobs.feed import JobFeed
from sdstream.jobs.handler import JobHandler
from sdstream.jobs.stops import EarlyStops
from sdstream.logs import configure_logging
from sdstream.platform import LINUX
from sdstream.platform.processes import die_with_parent
from sdstream.settings import Settings, load_settings

POSTING_SECONDS = 10.0
"""How long the last results may take to be posted after SIGTERM."""
TEST_INPUT = Path("test_input.json")
_POLLERS = ("JobScaler.get_jobs", "JobScaler.monitor_stop_signals")
"""Tasks of RunPod's SDK that wait up to 90 s for the platform, and would keep the process alive so long."""

logger = structlog.get_logger(__name__)


class ServerlessWorker:
    """What `handler.py` runs."""

    def __init__(self, settings: Settings, environment: Mapping[str, str]) -> None:
        self.host = EmbeddedServer(settings, environment)
        self._settings = settings
        self._environment = environment
        self._slots = settings.worker_sessions + settings.control_slots
        self._warmed_up: asyncio.Task[None] | None = None
        self._drained: asyncio.Task[None] | None = None
        self._handler: JobHandler | None = None
        self._failure: SdstreamError | None = None
        self._feed: JobFeed | None = None

    @property
    def jobs(self) -> JobHandler:
        """Made within the loop that it belongs to."""
        if self._handler is None:
            namespace = self._settings.endpoint or self._environment.get("RUNPOD_ENDPOINT_ID") or "local"
            self._handler = JobHandler(self.host, namespace)
        return self._handler

    def run(self) -> None:
        """Give the jobs to RunPod's SDK until it ends.

        Raises `ConfigurationError` where it is not installed, `CommandFailed` when its queue is gone for good.
        """
        # Its own default writes every event to the log, and `ready` holds a key.
        os.environ.setdefault("RUNPOD_DEBUG_LEVEL", "INFO")
        if LINUX:  # From Python 3.14 on a server of processes would start the heartbeat, and not end it with this one.
            multiprocessing.set_start_method("fork", force=True)
        try:
            runpod: Any = importlib.import_module("runpod")
        except ImportError:
            raise ConfigurationError(
                "RunPod's SDK is not installed", hint="pip install -c constraints.txt -e '.[runpod]'"
            ) from None
        register_fitness_checks(runpod, self._settings)
        scaling = importlib.import_module("runpod.serverless.modules.rp_scale")
        self._make_patient(scaling)
        stops = EarlyStops(self.host.clock)
        stops.listen(scaling.JobScaler)
        # A heartbeat that outlived this process would go on telling that it is well.
        multiprocessing.util.register_after_fork(self, _end_with_parent)

        async def handle(job: dict[str, Any]) -> Any:
            if stops.take(job["id"]):
                raise asyncio.CancelledError  # as the SDK ends one that has begun
            async with contextlib.aclosing(self.jobs.handle(job)) as events:
                async for event in events:
                    yield event

        config = {
            "handler": handle,
            "concurrency_modifier": self._concurrency,
            "return_aggregate_stream": True,  # else `/runsync` of a control job has no output; see OutputBudget
        }
        with contextlib.suppress(asyncio.CancelledError):  # how `_drain` ends the SDK's loop
            runpod.serverless.start(config)
        if self._failure is not None:
            raise self._failure

    def _make_patient(self, scaling: Any) -> None:
        # Its setting `jobs_fetcher` counts in local tests alone, so the function is replaced where it looks it up.
        limit = self._settings.platform_timeout
        self._feed = JobFeed(scaling.get_job, self.host.clock, limit, _count_jobs, self._give_up)
        scaling.get_job = self._feed.take

    def _give_up(self, seconds: float) -> None:
        self._failure = CommandFailed(
            f"nothing has connected to RunPod's queue for {seconds:.0f} s, and no job runs here: this worker ends",
            hint="SDSTREAM_PLATFORM_TIMEOUT is how long it waits.",
        )
        logger.error("worker gives up", problem=self._failure.message)
        self._begin_drain()

    async def drain(self, job: Mapping[str, Any]) -> int:
        """Run a job to its end, printing each event as a line of JSON; the exit code."""
        failed = False
        try:
            async for event in self.jobs.handle({"id": "local_test", **job}):
                print(json.dumps(event, ensure_ascii=False), flush=True)
                failed = "error" in event
        finally:
            await self.jobs.close()
            await self.host.close()
        return 1 if failed else 0

    def _concurrency(self, current: int) -> int:
        """A constant: the SDK takes no job while it changes.

        It is called in the SDK's loop before the first job is taken, which makes it the place to start the server, and
        to see signals after the SDK has set its own handlers.
        """
        if self._warmed_up is None:
            self._hook_signals()
            self._warmed_up = asyncio.get_running_loop().create_task(self._warm_up(), name="serverless-start")
        return self._slots

    async def _warm_up(self) -> None:
        try:
            await self.jobs.start()
        except SdstreamError as error:  # each job tries again, and fails with the reason
            logger.error("the server in this worker does not start", problem=error.message)

    def _hook_signals(self) -> None:
        """End sessions on SIGTERM. The SDK itself lets jobs run on, and waits for its long poll."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            previous = signal.getsignal(number)

            def handle(received: int, frame: FrameType | None, previous: Any = previous) -> None:
                if callable(previous):
                    previous(received, frame)
                loop.call_soon_threadsafe(self._begin_drain)

            signal.signal(number, handle)

    def _begin_drain(self) -> None:
        if self._drained is None:
            if self._feed is not None:
                self._feed.close()
            self._drained = asyncio.get_running_loop().create_task(self._drain(), name="serverless-drain")

    async def _drain(self) -> None:
        logger.info("draining")
        await self.jobs.drain()
        deadline = self.host.clock.monotonic() + POSTING_SECONDS
        while _count_jobs() and self.host.clock.monotonic() < deadline:  # noqa: ASYNC110 -- it has no event
            await asyncio.sleep(0.05)
        await self.jobs.close()
        await self.host.close()
        for task in asyncio.all_tasks():
            if getattr(task.get_coro(), "__qualname__", "") in _POLLERS:
                task.cancel()


def main(arguments: list[str] | None = None) -> int:
    """`handler.py`: under RunPod, or with `--rp_serve_api`, the SDK's worker; else one job to its end."""
    parser = _make_parser()
    given, others = parser.parse_known_args(sys.argv[1:] if arguments is None else arguments)
    local = given.test is not None or given.test_input is not None or not (given.rp_serve_api or _is_fed())
    if local and others:  # the SDK takes what it does not know, and so does this where the SDK is given it
        parser.error(f"unknown: {' '.join(others)}")
    try:
        settings = load_settings()
        configure_logging(settings)
        logging.getLogger("uvicorn").setLevel(logging.WARNING)
        worker = ServerlessWorker(settings, os.environ)
        if local:
            job = _read_job(given.test_input, given.test or TEST_INPUT)
            return asyncio.run(worker.drain(job))
        worker.run()
    except SdstreamError as error:
        print(f"handler: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        return 2 if isinstance(error, ConfigurationError) else 1
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="handler.py",
        description="Jobs of a RunPod endpoint. Without a flag and outside RunPod: as --test.",
        epilog="Further --rp_ flags are the SDK's, for --rp_serve_api: --rp_api_host, --rp_api_port, --rp_log_level.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--test", metavar="FILE", nargs="?", const=TEST_INPUT, type=Path, help="run a job's file; test_input.json"
    )
    parser.add_argument("--test_input", metavar="JSON", help="run this job, as the SDK's flag of this name")
    parser.add_argument("--rp_serve_api", action="store_true", help="serve the SDK's local API, for one-shot jobs")
    return parser


def _is_fed() -> bool:
    """Whether RunPod gives jobs to this process. Where nobody does, the SDK would call the generator once and never
    iterate it: exit code 0, nothing done."""
    return any(os.environ.get(name) for name in ("RUNPOD_WEBHOOK_GET_JOB", "RUNPOD_REALTIME_PORT"))


def _end_with_parent(_: ServerlessWorker) -> None:
    """In a process that the SDK has forked with `multiprocessing`."""
    parent = multiprocessing.parent_process()
    if parent is not None and parent.pid is not None:
        die_with_parent(parent.pid)


def _count_jobs() -> int:
    """Jobs that the SDK has taken and not yet answered."""
    progress: Any = importlib.import_module("runpod.serverless.modules.worker_state").JobsProgress()
    return progress.get_job_count()


def _read_job(text: str | None, file: Path) -> dict[str, Any]:
    """The job that is given as text, else that of a file. Raises `CommandFailed`."""
    where = "--test_input" if text is not None else str(file)
    try:
        job = json.loads(file.read_text("utf-8") if text is None else text)
    except (OSError, ValueError) as error:
        raise CommandFailed(f"cannot read the job in {where}: {error}") from None
    if not isinstance(job, dict) or "input" not in job:
        raise CommandFailed(f"the job in {where} must be an object with `input`")
    return cast("dict[str, Any]", job)


__all__ = ["ServerlessWorker", "main"]
