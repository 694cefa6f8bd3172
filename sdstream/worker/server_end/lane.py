"""The server's end of a lane: hands pictures to the worker, takes results back, and outlives every worker process."""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable

import structlog

from sdstream.clock import Clock
from sdstream.errors import InternalError, RequestError, WorkerEndedByStream, WorkerUnavailable
from sdstream.frames import I420Frame, PictureSize, picture_size
from sdstream.params import StreamParams
from sdstream.worker.channel import Channel
from sdstream.worker.messages import (
    IN_PLACE,
    CloseLane,
    LaneReport,
    OpenLane,
    PictureIn,
    PictureOut,
    SlotsReturned,
    UpdateLane,
    UseRing,
)
from sdstream.worker.ports import LaneListener, LanePhase, LaneStatistics, LaneStatus, MissingPart, ProcessedPicture
from sdstream.worker.ring import FrameRing
from sdstream.worker.server_end.alarm import Alarm
from sdstream.worker.server_end.crossing import Inbound, Outbound
from sdstream.worker.server_end.handover import ParamsHandover, status_of
from sdstream.worker.server_end.no_room import NoRoom
from sdstream.worker.server_end.submission import failure, reject, resolve
from sdstream.worker.server_end.taps import Taps

logger = structlog.get_logger(__name__)


class WorkerLane:
    """Implements `worker.ports.Lane`.

    The event loop, the decoder thread and the client's reader thread all come here; one lock guards the book-keeping
    and is never held while a listener is called.
    """

    def __init__(
        self,
        number: int,
        stream_id: str,
        handover: ParamsHandover,
        listener: LaneListener,
        clock: Clock,
        forget: Callable[["WorkerLane"], None],
    ) -> None:
        self.number = number
        self.stream_id = stream_id
        self._handover = handover
        self._listener = listener
        self._clock = clock
        self._forget = forget
        self._loop = asyncio.get_running_loop()
        self.taps = Taps(self._loop)
        self._lock = threading.Lock()
        self._alarm = Alarm(self._loop, clock, self._look)
        self._is_loading = False
        self._status = LaneStatus(LanePhase.WAITING, handover.revision)
        self._closed = False
        self._on_release: Callable[[WorkerLane], None] | None = None
        """Called at the next update, if the lane is kept away from the worker until then."""
        self._channel: Channel | None = None
        self._memory_prefix = ""
        self._outbound = Outbound(number)
        self._inbound = Inbound()
        self._no_room: NoRoom | None = None
        self._waiting: deque[tuple[I420Frame, asyncio.Future[I420Frame]]] = deque()
        self._stash: I420Frame | None = None
        """The newest picture, while the worker has every slot."""
        self._submitted = self._processed = self._superseded = self._lost = 0

    # -- worker.ports.Lane

    def submit(self, frame: I420Frame) -> None:
        with self._lock:
            self._submitted += 1
            if self._no_room is not None and self._no_room.ended_by(self._status, frame.size):
                self._set_status(self._no_room.before)
            if self._channel is None or self._status.phase is LanePhase.FAILED:
                self._superseded += 1
                return
            slot = None if self._waiting else self._take_slot(frame.size)
            if slot is not None:
                self._hand_over(self._channel, slot, frame, None)
                return
            failed = self._no_room is not None and self._status is self._no_room.failed  # just now
            self._superseded += failed or self._stash is not None
            self._stash = None if failed else frame.copy()

    async def process(self, frame: I420Frame) -> I420Frame:
        result: asyncio.Future[I420Frame] = self._loop.create_future()
        with self._lock:
            if self._closed:
                raise WorkerUnavailable("the lane is closed")
            if self._status.phase is LanePhase.FAILED:
                raise failure(self._status.error_code, self._status.error_message)
            self._submitted += 1
            self._waiting.append((frame, result))
            self._pump()
        return await result

    async def tap(self, processor: str) -> bytes | None:
        return await self.taps.ask(self._channel, self.number, processor)

    def update(self, params: StreamParams, revision: int) -> None:
        with self._lock:
            if not self._handover.want(params, revision, self._clock.monotonic()):
                return
            on_release, self._on_release = self._on_release, None
            if on_release is not None or self._status.phase is LanePhase.WAITING:
                self._set_status(LaneStatus(LanePhase.WAITING, revision))
            self._send_update()
        if on_release is not None:
            on_release(self)

    def try_again(self) -> None:
        with self._lock:
            self._handover.try_again(self._clock.monotonic())
            self._send_update()
            self._set_status(self._handover.retold() or self._status)

    @property
    def missing(self) -> tuple[MissingPart, ...]:
        with self._lock:
            return self._handover.missing

    def statistics(self) -> LaneStatistics:
        with self._lock:
            return LaneStatistics(self._submitted, self._processed, self._superseded, self._lost)

    async def close(self) -> None:
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._channel is not None:
                self._channel.send(CloseLane(self.number))
            self._let_go(WorkerUnavailable("the lane was closed"))
            self._alarm.set(None)
        self._forget(self)

    # -- for the client

    @property
    def is_loading(self) -> bool:
        """Whether the worker loads something for this lane."""
        return self._status.phase is LanePhase.LOADING or self._is_loading

    def announce(self) -> None:
        """Tell the listener of the first status."""
        with self._lock:
            self._set_status(self._status)

    def attach(self, channel: Channel, memory_prefix: str, *, alone: bool = False) -> None:
        """A worker is ready: open the lane there, with the newest params; `alone` as in `OpenLane`."""
        with self._lock:
            if self._closed:
                return
            self._channel = channel
            self._memory_prefix = memory_prefix
            given = self._handover.begin(self._clock.monotonic())
            channel.send(OpenLane(self.number, self.stream_id, given.text, given.revision, given.image, alone))
            self._set_status(LaneStatus(LanePhase.LOADING, self._handover.revision_of(given.revision)))
            self._pump()

    def detach(self, reason: str) -> None:
        """The worker is gone: count what it had as lost and wait for the next one."""
        with self._lock:
            if self._closed:
                return
            self._let_go(WorkerUnavailable(reason))
            self._set_status(LaneStatus(LanePhase.WAITING, self._handover.revision, detail=reason))

    def keep_away(self, reason: str, on_release: Callable[["WorkerLane"], None]) -> None:
        """The worker is gone, because of this lane: it stays FAILED until its next update, which calls `on_release`."""
        with self._lock:
            if self._closed:
                return
            error = WorkerEndedByStream(f"this stream ended the worker twice ({reason}); change its parameters")
            self._on_release = on_release
            self._let_go(error)
            revision = self._handover.revision
            self._set_status(LaneStatus(LanePhase.FAILED, revision, error_code=error.code, error_message=error.message))

    def on_picture_out(self, message: PictureOut, channel: Channel) -> None:
        """A picture is done; on the reader thread. `channel` tells it from a message of an earlier worker."""
        with self._lock:
            if channel is not self._channel:
                return
            submission = self._outbound.recall(message.source_ring, message.source_slot)
            if submission is None:
                return
            in_place = message.ring == IN_PLACE
            ring = submission.ring if in_place else self._inbound.ring
            if ring is None or (message.ring != ring.number and not in_place):
                raise InternalError(f"a result in ring {message.ring}, which is not in use")
            self._processed += 1
            if not in_place:
                self._give_back(message.source_ring, message.source_slot)
        slot = message.source_slot if in_place else message.slot
        y, u, v = ring.planes(slot, picture_size(message.width, message.height))
        frame = I420Frame(y, u, v, submission.pts, submission.time_base, submission.received_at, submission.sequence)
        try:
            if submission.result is not None:
                self._on_loop(resolve, submission.result, frame.copy())
            else:
                self._listener.on_picture(
                    ProcessedPicture(
                        frame,
                        self._handover.revision_of(message.revision),
                        message.worker_seconds,
                        message.queue_seconds,
                        message.skipped,
                        message.blocked,
                    )
                )
        finally:
            with self._lock:
                if channel is self._channel:
                    if in_place:
                        self._give_back(message.source_ring, message.source_slot)
                    else:
                        self._return_slot(channel, ring, slot)

    def on_slots_returned(self, message: SlotsReturned, channel: Channel) -> None:
        """The worker dropped pictures for newer ones, or because the lane failed."""
        with self._lock:
            if channel is not self._channel:
                return
            for slot in message.slots:
                submission = self._outbound.recall(message.ring, slot)
                if submission is None:
                    continue
                self._superseded += 1
                self._give_back(message.ring, slot)
                if submission.result is not None:
                    error = failure(self._status.error_code, self._status.error_message)
                    self._on_loop(reject, submission.result, error)

    def on_use_ring(self, message: UseRing, channel: Channel) -> None:
        """The worker made memory for its output."""
        with self._lock:
            if channel is not self._channel:
                return
            self._inbound.use(message)

    def on_report(self, message: LaneReport, channel: Channel) -> None:
        """The worker says where the lane stands."""
        with self._lock:
            if channel is not self._channel:
                return
            self._is_loading = message.phase == LanePhase.LOADING
            status = self._handover.hear(status_of(message), self._clock.monotonic(), message.refused_part)
            self._set_status(status)
            self._send_update()
            if self._status.phase is LanePhase.FAILED:
                self._fail_waiting(failure(message.error_code, message.error_message))

    # -- below: with the lock held

    def _take_slot(self, size: PictureSize) -> int | None:
        if self._channel is None:
            return None
        try:
            return self._outbound.take(self._channel, self._memory_prefix, size)
        except MemoryError as error:
            words = f"{error}; give the container more shared memory (docker run --shm-size)"
            revision, code = self._status.revision, InternalError.code
            failed = LaneStatus(LanePhase.FAILED, revision, error_code=code, error_message=words)
            self._superseded += self._stash is not None
            self._stash = None  # it would ask for that memory again
            self._no_room = NoRoom(size, self._status, failed)
            self._set_status(failed)
            self._fail_waiting(failure(code, words))  # nothing comes back that would have them looked at again
            return None

    def _hand_over(
        self, channel: Channel, slot: int, frame: I420Frame, result: "asyncio.Future[I420Frame] | None"
    ) -> None:
        ring = self._outbound.put(slot, frame, result)
        returned = self._inbound.returned()
        height, width = frame.y.shape
        channel.send(
            PictureIn(
                self.number,
                ring,
                slot,
                width,
                height,
                frame.sequence,
                frame.received_at,
                self._clock.monotonic(),
                frame.full_range,
                frame.matrix == "bt709",
                result is not None,
                self._inbound.number,
                returned,
            )
        )

    def _give_back(self, ring: int, slot: int) -> None:
        if self._outbound.give_back(ring, slot):
            self._pump()

    def _return_slot(self, channel: Channel, ring: FrameRing, slot: int) -> None:
        if returned := self._inbound.give_back(ring, slot):
            channel.send(SlotsReturned(self.number, ring.number, returned))

    def _pump(self) -> None:
        """Use free slots for what waits: whole-file pictures first, then the newest one."""
        while self._channel is not None and self._waiting:
            frame, result = self._waiting[0]
            if result.done():  # the caller gave up
                self._waiting.popleft()
                self._lost += 1
                continue
            slot = self._take_slot(frame.size)
            if slot is None:
                return
            self._waiting.popleft()
            self._hand_over(self._channel, slot, frame, result)
        if self._channel is not None and self._stash is not None:
            slot = self._take_slot(self._stash.size)
            if slot is not None:
                frame, self._stash = self._stash, None
                self._hand_over(self._channel, slot, frame, None)

    def _send_update(self) -> None:
        given = None if self._channel is None else self._handover.next(self._clock.monotonic())
        if self._channel is not None and given is not None:
            self._channel.send(UpdateLane(self.number, given.text, given.revision, given.image, given.keeps_load))
        self._alarm.set(None if self._closed else self._handover.next_at)

    def _let_go(self, error: RequestError) -> None:
        self._channel, self._is_loading = None, False
        lost = self._outbound.drop()
        self._inbound.drop()
        self._lost += len(lost)
        for submission in lost:
            if submission.result is not None:
                self._on_loop(reject, submission.result, error)
        if self._stash is not None:
            self._superseded += 1
            self._stash = None
        self._fail_waiting(error)
        self._handover.stop(self._clock.monotonic())

    def _fail_waiting(self, error: RequestError) -> None:
        self._lost += len(self._waiting)
        for _, result in self._waiting:
            self._on_loop(reject, result, error)
        self._waiting.clear()

    def _look(self) -> None:
        with self._lock:
            self._send_update()

    def _set_status(self, status: LaneStatus) -> None:
        self._status = status
        if not self._closed:
            self._on_loop(self._listener.on_lane_status, status)

    def _on_loop(self, call: Callable[..., object], *arguments: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be told
            self._loop.call_soon_threadsafe(call, *arguments)


__all__ = ["WorkerLane"]
