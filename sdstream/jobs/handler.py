"""The one handler of all jobs: checks, dispatches, and turns whatever goes wrong into one error with a code."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import Any

import structlog

from sdstream.errors import SdstreamError, ShuttingDown
from sdstream.jobs.bake import BakeAction
from sdstream.jobs.calls import OwnerAnswer, OwnerCall
from sdstream.jobs.control import ControlActions
from sdstream.jobs.directory import Directory, MemoryDirectory
from sdstream.jobs.inputs import (
    BakeInput,
    Job,
    ListInput,
    RenderInput,
    SnapshotInput,
    StartInput,
    StatusInput,
    StopInput,
    UpdateInput,
    WarmInput,
    parse_job,
)
from sdstream.jobs.outputs import Event, error_event
from sdstream.jobs.ports import Host
from sdstream.jobs.render import RenderAction
from sdstream.jobs.routing import Router
from sdstream.jobs.sessions import SessionTable
from sdstream.jobs.start import StartAction
from sdstream.jobs.warm import WarmAction

logger = structlog.get_logger(__name__)


class JobHandler:
    """All jobs of one worker. `handle` is what RunPod's SDK is given; it never blocks the loop."""

    def __init__(self, host: Host, namespace: str) -> None:
        """`namespace` is the endpoint's name in the directory."""
        self._host = host
        self._namespace = namespace
        self._redis: Any = None
        self._ready: asyncio.Future[None] | None = None
        self._draining = asyncio.Event()

    async def handle(self, job: Mapping[str, Any]) -> AsyncGenerator[Event]:
        """The events of a job. A job that fails ends with `{"error": "CODE: message", "code": ..., ...}`."""
        job_id = str(job.get("id", ""))
        try:
            parsed = parse_job(job)
            await self.start()
            if self._draining.is_set():
                raise ShuttingDown("this worker is shutting down")
            logger.info("job", job_id=job_id, action=parsed.input.action)
            events = self._choose(parsed)
            if not isinstance(parsed.input, StartInput):  # sessions end by themselves, with a summary
                events = _until(events, self._draining)
            async with contextlib.aclosing(events):
                async for event in events:
                    yield event
        except SdstreamError as error:
            logger.warning("job failed", job_id=job_id, code=error.code, problem=error.message)
            yield error_event(error)
        except Exception as error:  # supervisor of jobs: a job must end with an answer, whatever it was
            logger.error("job failed unforeseen", job_id=job_id, exc_info=error)
            yield error_event(error)

    async def start(self) -> None:
        """Have server, directory and router up. Idempotent; called with the first job at the latest."""
        if self._ready is None or (self._ready.done() and self._ready.exception() is not None):
            self._ready = asyncio.ensure_future(self._start())
        await asyncio.shield(self._ready)

    async def drain(self) -> None:
        """Refuse new jobs and end all that run; sessions first, whose summaries their jobs then post."""
        self._draining.set()
        if self._ready is None:
            return
        await asyncio.gather(self._ready, return_exceptions=True)
        if self._ready.exception() is not None:
            return
        await self._table.end_all("worker_shutdown")

    async def close(self) -> None:
        """Stop routing. The server is its owner's to close. Idempotent."""
        if self._ready is None or not self._ready.done() or self._ready.exception() is not None:
            return
        await self._warm.close()
        await self._router.close()
        if self._redis is not None:
            await self._redis.aclose()

    async def _start(self) -> None:
        host = self._host
        await host.start()
        directory: Directory = MemoryDirectory()
        post = None
        url = host.settings.redis_url
        if url is not None:
            # Here, because only the `runpod` extra brings the redis package.
            from sdstream.jobs.post import PostOffice
            from sdstream.jobs.redis_directory import RedisDirectory, connect

            self._redis = connect(url.get_secret_value())
            directory = RedisDirectory(self._redis, self._namespace, host.settings.session_lease)
            post = PostOffice(self._redis, self._namespace, host.mailbox, self._serve)
        self._table = SessionTable(host, directory, host.settings.worker_sessions)
        host.on_use = self._table.touch
        self._router = Router(host, self._table, directory, post)
        self._control = ControlActions(self._router, directory)
        self._starting = StartAction(host, self._table, self._router)
        self._rendering = RenderAction(host)
        self._warm = WarmAction(host)
        self._baking = BakeAction()
        await self._router.start()

    async def _serve(self, call: OwnerCall) -> OwnerAnswer:
        return await self._router.serve(call)

    def _choose(self, job: Job) -> AsyncGenerator[Event]:
        match job.input:
            case StartInput() as wanted:
                return self._starting.run(job, wanted)
            case UpdateInput() as wanted:
                return self._control.update(job, wanted)
            case SnapshotInput() as wanted:
                return self._control.snapshot(job, wanted)
            case StopInput() as wanted:
                return self._control.stop(job, wanted)
            case StatusInput() as wanted:
                return self._control.status(job, wanted)
            case ListInput() as wanted:
                return self._control.list(job, wanted)
            case RenderInput() as wanted:
                return self._rendering.run(job, wanted)
            case WarmInput() as wanted:
                return self._warm.run(job, wanted)
            case BakeInput() as wanted:
                return self._baking.run(job, wanted)


async def _until(events: AsyncGenerator[Event], draining: asyncio.Event) -> AsyncGenerator[Event]:
    """The events, until the worker drains: then the work is cancelled and `ShuttingDown` raised.

    The task of the SDK is not cancelled for that: it could be just posting an event.
    """
    waiting = asyncio.ensure_future(draining.wait())
    try:
        while True:
            step = asyncio.ensure_future(_next(events))
            try:
                await asyncio.wait((step, waiting), return_when=asyncio.FIRST_COMPLETED)
                if not step.done():
                    raise ShuttingDown("this worker is shutting down")
            finally:
                step.cancel()
                await asyncio.gather(step, return_exceptions=True)
            event = step.result()
            if event is None:
                return
            yield event
    finally:
        waiting.cancel()
        await events.aclose()


async def _next(events: AsyncGenerator[Event]) -> Event | None:
    return await anext(events, None)


__all__ = ["JobHandler"]
