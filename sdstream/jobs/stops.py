"""Jobs that are taken back before they begin.

RunPod's SDK (1.12.0) stops a job by cancelling its task. One that it has taken and not begun, which lasts up to a tenth
of a second, has no task: the signal is dropped and never comes again, and a session that nobody wants any more runs to
its end. A task that is cancelled before its first step is worse, since the SDK then counts the job for ever.
"""

import inspect
from typing import Any

from sdstream.clock import Clock

REMEMBERED_SECONDS = 10.0
"""How long a job may be on its way here that was taken back. The platform may give out one that ended once more."""


class EarlyStops:
    """Which jobs were taken back before they began, by their ids."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._stopped: dict[str, float] = {}

    def note(self, job_id: str) -> None:
        """The job was taken back, and has not begun here."""
        self._forget()
        self._stopped[job_id] = self._clock.monotonic()

    def take(self, job_id: str) -> bool:
        """Whether a job that begins now was taken back; told once."""
        self._forget()
        return self._stopped.pop(job_id, None) is not None

    def _forget(self) -> None:
        oldest = self._clock.monotonic() - REMEMBERED_SECONDS
        self._stopped = {job_id: at for job_id, at in self._stopped.items() if at >= oldest}

    def listen(self, scaler: Any) -> None:
        """Hear what `scaler`, the SDK's class that runs jobs, is told to stop."""
        stop_job = scaler.stop_job

        async def stop(this: Any, job_id: str) -> bool:
            task = this.jobs_tasks.get(job_id)
            if task is None or inspect.getcoroutinestate(task.get_coro()) == inspect.CORO_CREATED:
                self.note(job_id)
                return False
            return await stop_job(this, job_id)

        scaler.stop_job = stop


__all__ = ["REMEMBERED_SECONDS", "EarlyStops"]
