"""What runs the networks of a stream: told to whoever listens as it changes."""

from collections.abc import Callable, Mapping
from typing import Any

from sdstream.worker.ports import LanePhase, LaneStatus


class AccelerationBook:
    """Is shown each status of a stream's lane. `emit` is given the event `acceleration` with its data."""

    def __init__(self, emit: Callable[[str, Mapping[str, Any]], object]) -> None:
        self._emit = emit
        self._told: tuple[str, str] | None = None
        """What runs, and the remarks on it."""

    def note(self, status: LaneStatus) -> None:
        """The lane says where it stands."""
        runs, before = (status.acceleration, status.detail), self._told
        if status.phase is not LanePhase.READY or runs == before or not any(runs):
            return
        # While something missing is tried again the detail may be of that.
        if before is not None and before[0] == runs[0] and status.missing:
            return
        self._told = runs
        self._emit("acceleration", {"acceleration": status.acceleration or None, "detail": status.detail})

    def forget(self) -> None:
        """The lane is closed: the next one tells anew."""
        self._told = None


__all__ = ["AccelerationBook"]
