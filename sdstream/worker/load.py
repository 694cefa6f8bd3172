"""What the worker's calls take, measured: by what they are and by how many streams ride in them. No torch here."""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from sdstream.worker.messages import CallLoad

MEMORY = 0.1
"""The share of the newest call in a mean."""
KEPT = 32
"""Kinds of calls that are remembered; the one that was called longest ago is forgotten first."""


@dataclass(frozen=True, slots=True)
class CallKind:
    """What sets the cost of a call. `model_id` is empty for image processors alone, and `steps` 0."""

    model_id: str
    width: int
    height: int
    steps: int


@dataclass(slots=True)
class _Measured:
    seconds: dict[int, float] = field(default_factory=dict[int, float])
    """Mean of a call by its number of streams."""
    calls: dict[int, int] = field(default_factory=dict[int, int])
    stream_bytes: int = 0


class LoadMeter:
    """Means of the calls of this process. The working thread notes, any thread reads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._measured: dict[CallKind, _Measured] = {}
        self._calls: dict[int, int] = {}
        self._seconds: dict[int, float] = {}

    def note(self, kind: CallKind, streams: int, seconds: float, stream_bytes: int = 0) -> None:
        """A call of `streams` took `seconds`; each of them holds about `stream_bytes` of the device's memory."""
        with self._lock:
            measured = self._measured.pop(kind, None) or _Measured()
            self._measured[kind] = measured
            if len(self._measured) > KEPT:
                del self._measured[next(iter(self._measured))]
            before, calls = measured.seconds.get(streams, seconds), measured.calls.get(streams, 0)
            # The first call warms up what later ones find, so it counts only until there is another.
            measured.seconds[streams] = seconds if calls < 2 else before + MEMORY * (seconds - before)
            measured.calls[streams] = calls + 1
            measured.stream_bytes = max(measured.stream_bytes, stream_bytes)
            self._calls[streams] = self._calls.get(streams, 0) + 1
            self._seconds[streams] = self._seconds.get(streams, 0.0) + seconds

    def loads(self) -> list[CallLoad]:
        """The means, for the server."""
        with self._lock:
            return [
                CallLoad(kind.model_id, kind.width, kind.height, kind.steps, dict(each.seconds), each.stream_bytes)
                for kind, each in self._measured.items()
            ]

    def totals(self) -> tuple[dict[int, int], dict[int, float]]:
        """Calls, and the seconds they took, by their number of streams, since the process began."""
        with self._lock:
            return dict(self._calls), dict(self._seconds)


def added(totals: Mapping[int, float], more: Iterable[tuple[int, float]]) -> dict[int, float]:
    """Sums by key."""
    sums = dict(totals)
    for key, value in more:
        sums[key] = sums.get(key, 0) + value
    return sums


__all__ = ["CallKind", "LoadMeter", "added"]
