"""What is known of a stream's past: its newest update, its last error, the worker's restarts beneath it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import structlog

from sdstream.clock import Clock
from sdstream.params import StreamParams, wire_params
from sdstream.streams.events import EventLog
from sdstream.worker.ports import WorkerHealth

log = structlog.get_logger(__name__)


class Past:
    """Moments are monotonic seconds, None for what never happened; `updated_at` is UTC. Errors become events too."""

    def __init__(self, stream_id: str, events: EventLog, clock: Clock) -> None:
        self.updated_at: datetime | None = None
        self.params: Mapping[str, Any] | None = None
        """What the newest update made of the params, with short images."""
        self.error: str | None = None
        self.error_at: float | None = None
        self.restart_at: float | None = None
        self.restarts = 0
        self._stream_id = stream_id
        self._events = events
        self._clock = clock

    def note_update(self, params: StreamParams) -> None:
        """An update is saved, which made the params these."""
        self.updated_at = self._clock.now()
        self.params = wire_params(params, short_images=True)

    def note_error(self, code: str, message: str) -> None:
        """Something went wrong; it stays the last error until another comes, or `forget_error`."""
        self.error = message
        self.error_at = self._clock.monotonic()
        self._events.emit("error", {"code": code, "message": message})
        log.warning("stream error", stream_id=self._stream_id, code=code, message=message)

    def forget_error(self, message: str) -> None:
        """The lane runs without the error of that message again; what another cause noted since stays."""
        if self.error == message:
            self.error = self.error_at = None

    def note_restart(self, health: WorkerHealth) -> None:
        """The worker process was started again, of which `health` says why."""
        self.restarts += 1
        self.restart_at = self._clock.monotonic()
        self.note_error(health.last_error_code, health.last_error or "The worker process ended.")


__all__ = ["Past"]
