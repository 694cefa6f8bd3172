"""The one ticker of the server: states, placards, late pictures, changes of the worker, duties that nobody asks for."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import structlog

from sdstream.clock import Clock
from sdstream.errors import StreamNotFound
from sdstream.logs import FoldedReporter
from sdstream.settings import Settings
from sdstream.streams.directory import StreamDirectory
from sdstream.streams.duties import Duty, decide_duty
from sdstream.streams.stream import Stream
from sdstream.worker.ports import WorkerClient, WorkerHealth

TICK_SECONDS = 0.2
"""How often states are computed and placards shown: a viewer sees words well within a second."""

log = structlog.get_logger(__name__)


class StreamKeeper:
    """Looks after all streams, a few times a second. `collect` deletes a stream that is idle."""

    def __init__(
        self,
        streams: StreamDirectory,
        worker: WorkerClient,
        settings: Settings,
        clock: Clock,
        collect: Callable[[Stream], Awaitable[None]],
    ) -> None:
        self._streams = streams
        self._worker = worker
        self._settings = settings
        self._clock = clock
        self._collect = collect
        self._health: WorkerHealth | None = None
        self._known: WorkerHealth | None = None
        """The worker's at this tick, for all streams."""
        self._duties: dict[str, asyncio.Task[None]] = {}
        self.faults = 0
        """Defects that were caught here; what raised them was left out once and is tried again at the next tick."""
        self._reporter = FoldedReporter(log, clock)
        self._task: asyncio.Task[None] | None = None

    def start(self, seconds: float = TICK_SECONDS) -> None:
        """Tick every `seconds` until `close`."""
        self._task = asyncio.create_task(self._run(seconds), name="streams-keeper")

    async def close(self) -> None:
        """Stop ticking and let duties under way finish. Idempotent."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        if self._duties:
            await asyncio.wait(self._duties.values())

    async def tick(self) -> None:
        """Look after every stream once. Waits a moment at most for duties, which may take longer."""
        self._known = None
        self._guard("worker", self._watch_worker)
        for stream in self._streams:
            name = stream.saved.id
            if stream.live is not None:
                self._guard(f"observe {name}", lambda stream=stream: stream.observe(self._known), stream)
                self._guard(f"look at the ages of {name}", stream.live.look_for_lateness, stream)
            self._guard(f"look for a duty of {name}", lambda stream=stream: self._look_for_duty(stream), stream)
        if self._duties:
            await asyncio.wait(self._duties.values(), timeout=TICK_SECONDS)

    async def _run(self, seconds: float) -> None:
        while True:
            try:
                await self.tick()
            except Exception as error:  # noqa: BLE001 -- supervisor: without ticks no state, placard or duty follows
                self._note_fault("tick", error, None)
            await asyncio.sleep(seconds)

    def _guard(self, what: str, work: Callable[[], object], stream: Stream | None = None) -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001 -- supervisor: one broken stream must not blind the others
            self._note_fault(what, error, stream)

    def _note_fault(self, what: str, error: Exception, stream: Stream | None) -> None:
        self.faults += 1
        named = {} if stream is None else {"stream_id": stream.saved.id}
        self._reporter.report(what, "stream keeper fault", what=what, exc_info=error, **named)

    def _look_for_duty(self, stream: Stream) -> None:
        name = stream.saved.id
        if name in self._duties:
            return
        settings = self._settings
        duty = decide_duty(
            stream.usage(), self._clock.monotonic(), settings.publisher_timeout, settings.idle_stream_timeout
        )
        if duty is not Duty.NOTHING:
            self._duties[name] = asyncio.create_task(self._perform(stream, duty), name=f"{duty} {name}")

    async def _perform(self, stream: Stream, duty: Duty) -> None:
        name = stream.saved.id
        try:
            log.info("stream duty", stream_id=name, duty=duty.value)
            await self._carry_out(stream, duty)
        except Exception as error:  # noqa: BLE001 -- supervisor: the duty is tried again at the next tick
            self._note_fault(f"{duty} {name}", error, stream)
        finally:
            del self._duties[name]

    async def _carry_out(self, stream: Stream, duty: Duty) -> None:
        if duty is Duty.END_PUBLISHER:
            await stream.end_publisher()
        elif duty is Duty.CLOSE_LANE:
            await stream.close_lane()
        elif duty is Duty.CLOSE_LIVE:
            await stream.close_live()
        elif duty is Duty.COLLECT:
            with contextlib.suppress(StreamNotFound):  # somebody was faster
                await self._collect(stream)

    def _watch_worker(self) -> None:
        health = self._known = self._worker.health()
        before, self._health = self._health, health
        if before is None or (before.phase, before.restarts) == (health.phase, health.restarts):
            return
        restarted = health.restarts > before.restarts
        log.info("worker", phase=health.phase.value, restarts=health.restarts, error=health.last_error)
        for stream in self._streams:
            name = stream.saved.id
            self._guard(f"worker of {name}", lambda stream=stream: stream.note_worker(health, restarted), stream)


__all__ = ["TICK_SECONDS", "StreamKeeper"]
