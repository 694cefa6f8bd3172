"""What the server knows of its workers: what the present one says of itself, and what those that ended have left."""

from collections import Counter

from sdstream.errors import WorkerUnavailable
from sdstream.worker.messages import Pong, Ready
from sdstream.worker.ports import WorkerHealth, WorkerPhase
from sdstream.worker.scheduling.load import CallTotals, cost_of


class WorkerRecord:
    """The sum is `health`. A child's reader thread may set `pong` at any time; all else is the event loop's."""

    def __init__(self) -> None:
        self.ready: Ready | None = None
        self.pong: Pong | None = None
        """What the present worker said last."""
        self.start_seconds: float | None = None
        """What it took from its start until it was ready."""
        self.last_error: str | None = None
        self.last_code = WorkerUnavailable.code
        self.last_logs: tuple[str, ...] = ()
        self.faults = 0
        self._ended_events: Counter[str] = Counter()
        """What happened to engines in workers that ended."""
        self._totals = CallTotals()

    def begin(self) -> None:
        """Another worker takes over: what the one before has counted stays, what it said of itself does not."""
        self._ended_events += self._engine_events()
        if (pong := self.pong) is not None:
            self._totals.end(pong.calls, pong.call_seconds)
        self.ready = self.pong = self.start_seconds = None

    def health(self, phase: WorkerPhase, restarts: int, process_id: int | None) -> WorkerHealth:
        """All of it, with what the supervision knows; `process_id` is None while there is no worker."""
        ready, pong = self.ready, self.pong
        return WorkerHealth(
            phase=phase,
            restarts=restarts,
            process_id=process_id,
            device="" if ready is None else ready.device,
            processor="" if ready is None else ready.processor,
            start_seconds=self.start_seconds,
            memory_used=None if pong is None else pong.memory_used,
            memory_total=None if pong is None else pong.memory_total,
            engine_events=self._ended_events + self._engine_events(),
            last_error=self.last_error,
            last_error_code=self.last_code,
            last_restart_logs=self.last_logs,
            costs=() if pong is None else tuple(cost_of(load) for load in pong.loads),
            calls=self._totals.calls({} if pong is None else pong.calls),
            call_seconds=self._totals.seconds({} if pong is None else pong.call_seconds),
            faults=self.faults,
        )

    def _engine_events(self) -> Counter[str]:
        return Counter({} if self.pong is None else self.pong.engine_events)


__all__ = ["WorkerRecord"]
