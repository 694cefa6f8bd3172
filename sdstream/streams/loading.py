"""A stream's loads: each step told to whoever listens, begin and end to the log, number and time to the metrics."""

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from sdstream.clock import Clock
from sdstream.streams.remaining import TimeLeft
from sdstream.worker.ports import LanePhase, LaneStatus

log = structlog.get_logger(__name__)


class LoadingBook:
    """Is shown each status of a stream's lane. Steps are told once each, percents whole."""

    def __init__(self, stream_id: str, clock: Clock, emit: Callable[[str, Mapping[str, Any]], object]) -> None:
        self._stream_id = stream_id
        self._clock = clock
        self._emit = emit
        self._told: tuple[str, int | None] | None = None
        self._since: float | None = None
        self._left = TimeLeft()
        self._detail = ""
        """What the log was told last: the same step with other percents is no news there."""
        self.ended: Counter[str] = Counter()
        """Loads that came to an end, by how: `ready`, or `failed`, also where the lane goes on with what it had."""
        self.seconds: dict[str, float] = {}
        """How long all of them took together, by how they ended."""

    @property
    def seconds_left(self) -> float | None:
        """Of what the percents of the last status count, None where it has none or nobody can tell yet."""
        return self._left.at(self._clock.monotonic())

    def note(self, status: LaneStatus) -> None:
        """The lane says where it stands."""
        self._left.note(status.percent, self._clock.monotonic())
        if status.phase not in (LanePhase.WAITING, LanePhase.LOADING):
            self._end(status)
            return
        step = (status.detail, None if status.percent is None else int(status.percent))
        if step != self._told:
            self._told = step
            left = self.seconds_left
            told = {"detail": status.detail, "percent": status.percent}
            self._emit("loading", {**told, "seconds_left": None if left is None else round(left)})
        if status.phase is LanePhase.LOADING and self._since is None:
            self._since = self._clock.monotonic()
        if status.phase is LanePhase.LOADING and status.detail != self._detail:
            self._detail = status.detail
            log.info("stream loading", stream_id=self._stream_id, detail=status.detail)

    def _end(self, status: LaneStatus) -> None:
        since, self._since, self._told, self._detail = self._since, None, None, ""
        if since is None:
            return
        seconds = self._clock.monotonic() - since
        outcome = "failed" if status.phase is LanePhase.FAILED or status.error_message else "ready"
        self.ended[outcome] += 1
        self.seconds[outcome] = self.seconds.get(outcome, 0.0) + seconds
        told = {"phase": status.phase.value, "error": status.error_message, "acceleration": status.acceleration}
        log.info(
            "stream loaded",
            stream_id=self._stream_id,
            seconds=round(seconds, 2),
            **{name: value for name, value in told.items() if value},
        )


def is_news(before: LaneStatus, status: LaneStatus) -> bool:
    """Whether a lane that gets ready has come further since it said `before`: a fetch of gigabytes may take an hour."""
    return (before.phase, before.detail, before.percent) != (status.phase, status.detail, status.percent)


__all__ = ["LoadingBook", "is_news"]
