"""The server's handle of the worker: starts it, watches it, starts it again, and keeps every lane open meanwhile."""

import asyncio
import itertools
import secrets
from dataclasses import replace
from typing import Any

import structlog

from sdstream.clock import Clock, epoch_milliseconds
from sdstream.errors import ConfigurationError, InternalError, WorkerUnavailable
from sdstream.logs import FoldedReporter
from sdstream.params import StreamParams
from sdstream.settings import Settings
from sdstream.worker.messages import (
    AtWork,
    Ending,
    LaneReport,
    PictureOut,
    Ping,
    Pong,
    Ready,
    SlotsReturned,
    Stop,
    TapOut,
    UseRing,
    Warm,
)
from sdstream.worker.ports import Lane, LaneListener, WorkerHealth, WorkerPhase
from sdstream.worker.ring import memory_prefix, sweep_own_memory, sweep_stale_memory
from sdstream.worker.server_end import supervision
from sdstream.worker.server_end.child import WorkerChild
from sdstream.worker.server_end.configuration import configuration
from sdstream.worker.server_end.handover import ParamsHandover
from sdstream.worker.server_end.lane import WorkerLane
from sdstream.worker.server_end.quarantine import Quarantine, clears, ends_work
from sdstream.worker.server_end.record import WorkerRecord
from sdstream.worker.server_end.supervision import Action, Limits, SupervisionState

STOP_SECONDS = 2.0
"""How long a worker may take to end in good order before it is killed."""
KILL_SECONDS = 2.0
"""How long a killed worker may take to be gone: one that hangs in a driver is left to the kernel."""
FAULT_SECONDS = 1.0
"""How long the supervisor pauses after a defect of its own."""

logger = structlog.get_logger(__name__)


class WorkerProcess:
    """Implements `worker.ports.WorkerClient` with one child process at a time."""

    def __init__(self, settings: Settings, clock: Clock) -> None:
        self._settings = settings
        self._clock = clock
        self._limits = Limits.from_settings(settings)
        self._state = SupervisionState()
        self._child: WorkerChild | None = None
        self._spare: WorkerChild | None = None
        """A process that has imported torch and waits to be configured: the import is most of a restart."""
        self._spare_is_warm = False
        self._lanes: dict[int, WorkerLane] = {}
        self._quarantine = Quarantine()
        self._lane_numbers = itertools.count(1)
        self._generations = itertools.count(1)
        self._own_prefix = f"{memory_prefix()}{secrets.token_hex(3)}-"
        self._memory_prefix = self._own_prefix
        self._supervisor: asyncio.Task[None] | None = None
        self._look = asyncio.Event()
        self._is_ready = asyncio.Event()
        self._heard_at = 0.0
        self._pings = itertools.count(1)
        self._record = WorkerRecord()
        self._reporter = FoldedReporter(logger, clock)

    # -- worker.ports.WorkerClient

    async def start(self) -> None:
        if self._supervisor is not None:
            return
        self._loop = asyncio.get_running_loop()
        swept = sweep_stale_memory(epoch_milliseconds(self._clock.now()) / 1000)
        if swept:
            logger.info("stale_memory_swept", names=swept)
        self._state = replace(self._state, phase=WorkerPhase.STARTING)
        self._carry_out(Action.START)
        self._supervisor = asyncio.create_task(self._supervise(), name="worker-supervisor")

    async def wait_ready(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(seconds):
                await self._is_ready.wait()
        except TimeoutError:
            return False
        return True

    async def open_lane(
        self, stream_id: str, params: StreamParams, revision: int, listener: LaneListener, *, partly: bool = False
    ) -> Lane:
        handover = ParamsHandover(params, revision, partly=partly)
        lane = WorkerLane(next(self._lane_numbers), stream_id, handover, listener, self._clock, self._forget_lane)
        self._lanes[lane.number] = lane
        if self._state.phase is WorkerPhase.READY and self._child is not None:
            lane.attach(self._child.channel, self._memory_prefix)
        else:
            lane.announce()
        return lane

    def health(self) -> WorkerHealth:
        process_id = None if self._child is None else self._child.process_id
        return self._record.health(self._state.phase, self._state.restarts, process_id)

    @property
    def spare_is_warm(self) -> bool:
        """Whether a spare process stands ready, so that a restart takes a fraction of a second."""
        return self._spare is not None and self._spare_is_warm

    async def close(self) -> None:
        was_ready = self._state.phase is WorkerPhase.READY
        self._state = replace(self._state, phase=WorkerPhase.STOPPED)
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.gather(self._supervisor, return_exceptions=True)
            self._supervisor = None
        spare, self._spare = self._spare, None
        if spare is not None:
            spare.kill()
            await _wait_until_gone(spare)
        child = self._child
        if child is not None:
            try:
                async with asyncio.timeout(STOP_SECONDS):
                    if was_ready:
                        child.send(Stop())
                    else:  # deaf while it imports torch
                        child.kill()
                    await child.ended.wait()
            except TimeoutError:
                child.kill()
                await _wait_until_gone(child)
        for lane in list(self._lanes.values()):
            await lane.close()
        sweep_own_memory(self._own_prefix)

    # -- supervision, on the event loop

    async def _supervise(self) -> None:
        while True:
            try:
                pause = self._take_turn()
            except Exception as error:  # noqa: BLE001 -- supervisor of the supervision: without it no worker returns
                self._record.faults += 1
                self._reporter.report("turn", "worker_supervision_fault", exc_info=error)
                pause = FAULT_SECONDS
            self._look.clear()
            try:
                async with asyncio.timeout(pause):
                    await self._look.wait()
            except TimeoutError:
                pass

    def _take_turn(self) -> float:
        """Do what is due now; returns how many seconds nothing else will be."""
        now = self._clock.monotonic()
        heard_at = max(self._state.heard_at, self._heard_at)
        is_loading = any(lane.is_loading for lane in self._lanes.values())
        self._state = supervision.checked(supervision.told(self._state, heard_at, is_loading, self._record.pong), now)
        action = supervision.decide(self._state, now, self._limits)
        if action is not Action.WAIT:
            self._carry_out(action)
        if self._settings.worker_spare and self._spare is None and supervision.wants_spare(self._state, now):
            self._start_spare(now)
        return supervision.seconds_until_next(self._state, self._clock.monotonic(), self._limits)

    def _carry_out(self, action: Action) -> None:
        now = self._clock.monotonic()
        match action:
            case Action.START:
                self._start_child(now)
            case Action.PING:
                assert self._child is not None
                self._state = replace(self._state, pinged_at=now)
                self._child.send(Ping(next(self._pings)))
            case Action.KILL_MUTE | Action.KILL_SLOW_START | Action.KILL_HUNG:
                assert self._child is not None
                self._child.add_line(f"sdstream killed the worker: {action.value}")
                logger.warning("worker_killed", reason=action.value, process_id=self._child.process_id)
                # It counts as ended from here on: what it had is lost, and nobody waits for the kernel to reap it.
                child = self._child
                child.kill()
                self._on_child_end(child, f"the worker was killed: {action.value}")
            case Action.WAIT:
                pass

    def _start_child(self, now: float) -> None:
        self._memory_prefix = f"{self._own_prefix}{next(self._generations)}-"
        child, self._spare = self._spare, None
        self._record.begin()
        if child is None:
            child = WorkerChild(self._on_message, self._on_child_end)
            try:
                child.start(self._settings)
            except OSError as error:
                self._record.last_error = f"the worker cannot be started: {error.strerror or error}"
                logger.error("worker_start_failed", error=str(error))
                self._state = supervision.ended(supervision.started(self._state, now), now)
                return
        self._child = child
        self._state = supervision.started(self._state, now)
        child.send(configuration(self._settings, self._memory_prefix))
        logger.info("worker_started", process_id=child.process_id, restarts=self._state.restarts)

    def _start_spare(self, now: float) -> None:
        spare = WorkerChild(self._on_message, self._on_child_end)
        try:
            spare.start(self._settings)
        except OSError as error:
            logger.warning("worker_spare_failed", error=str(error))
            self._state = supervision.spare_ended(self._state, now)
            return
        self._spare = spare
        self._spare_is_warm = False

    def _on_child_end(self, child: WorkerChild, reason: str | None = None) -> None:
        if child is self._spare:
            self._spare = None
            self._state = supervision.spare_ended(self._state, self._clock.monotonic())
            logger.warning("worker_spare_ended", reason=child.exit_reason, lines=child.lines)
        if child is not self._child:
            return
        self._child = None
        self._is_ready.clear()
        reason = reason or child.exit_reason
        self._record.last_logs = child.lines
        suspects = [lane for number in {work.lane for work in child.at_work} if (lane := self._lanes.get(number))]
        convicted = self._quarantine.note_death(*(lane.number for lane in suspects))
        if self._state.phase is not WorkerPhase.STOPPED:
            code = WorkerUnavailable.code if child.ending is None else child.ending.code
            self._record.last_error, self._record.last_code = reason, code
            by_setting = code == ConfigurationError.code
            now = self._clock.monotonic()
            self._state = supervision.ended(self._state, now, by_lane=bool(suspects), by_setting=by_setting)
            names = [lane.stream_id for lane in suspects]
            logger.warning("worker_ended", reason=reason, restarts=self._state.restarts, at_work_for=names)
        for suspect in suspects:
            if suspect.number in convicted:
                suspect.keep_away(reason, self._release_lane)
                logger.error("stream_quarantined", stream_id=suspect.stream_id, reason=reason)
        for lane in self._lanes.values():
            if not self._quarantine.holds(lane.number):
                lane.detach(reason)
        sweep_own_memory(self._memory_prefix)
        self._look.set()

    def _forget_lane(self, lane: WorkerLane) -> None:
        self._lanes.pop(lane.number, None)
        self._quarantine.forget(lane.number)

    def _release_lane(self, lane: WorkerLane) -> None:
        self._quarantine.release(lane.number)
        if self._state.phase is WorkerPhase.READY and self._child is not None:
            self._attach(lane, self._child)

    def _attach(self, lane: WorkerLane, child: WorkerChild) -> None:
        lane.attach(child.channel, self._memory_prefix, alone=self._quarantine.suspects(lane.number))

    def _on_ready(self, child: WorkerChild, message: Ready) -> None:
        if child is not self._child or self._state.phase is WorkerPhase.STOPPED:
            return
        self._record.ready = message
        now = self._clock.monotonic()
        self._record.start_seconds = now - self._state.started_at
        logger.info("worker_ready", device=message.device, seconds=round(self._record.start_seconds, 3))
        self._state = supervision.became_ready(self._state, now)
        for lane in list(self._lanes.values()):
            if not self._quarantine.holds(lane.number):
                self._attach(lane, child)
        self._is_ready.set()
        self._look.set()

    # -- messages, on the reader thread of a child

    def _on_message(self, child: WorkerChild, message: Any) -> None:
        if child is self._spare and isinstance(message, Warm):
            self._spare_is_warm = True
        if child is not self._child:
            return
        self._heard_at = self._clock.monotonic()
        match message:
            case PictureOut():
                if lane := self._lanes.get(message.lane):
                    lane.on_picture_out(message, child.channel)
            case Pong():
                self._record.pong = message
            case Ready():
                self._loop.call_soon_threadsafe(self._on_ready, child, message)
            case SlotsReturned():
                if lane := self._lanes.get(message.lane):
                    lane.on_slots_returned(message, child.channel)
            case TapOut():
                for lane in list(self._lanes.values()):
                    lane.taps.answer(message)
            case UseRing():
                if lane := self._lanes.get(message.lane):
                    lane.on_use_ring(message, child.channel)
            case AtWork():
                child.at_work = (*child.at_work, message)
            case Ending():
                child.ending = message
            case LaneReport():
                over = [work for work in child.at_work if ends_work(work, message)]
                if over:
                    child.at_work = tuple(work for work in child.at_work if work not in over)
                if any(clears(work, message) for work in over):
                    self._loop.call_soon_threadsafe(self._quarantine.forget, message.lane)
                if lane := self._lanes.get(message.lane):
                    lane.on_report(message, child.channel)
            case Warm():
                pass
            case _:
                raise InternalError(f"a message the server does not take: {type(message).__name__}")


async def _wait_until_gone(child: WorkerChild) -> None:
    try:
        async with asyncio.timeout(KILL_SECONDS):
            await child.ended.wait()
    except TimeoutError:
        logger.error("worker_not_gone", process_id=child.process_id, seconds=KILL_SECONDS)


__all__ = ["WorkerProcess"]
