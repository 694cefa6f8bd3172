"""What the worker's calls take, measured: by what they are and by how many streams ride in them. No torch here."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from sdstream.worker.messages import CallLoad
from sdstream.worker.ports import CallCost, CallKind

MEMORY = 0.1
"""The share of the newest call in a mean."""
KEPT = 32
"""Kinds of calls that are remembered; the one that was called longest ago is forgotten first."""


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
            # The first call of a number of streams warms up what later ones find, on a GPU for seconds: it counts only
            # while there is nothing else to go by, and until there is another.
            if calls or not measured.seconds:
                measured.seconds[streams] = seconds if calls < 2 else before + MEMORY * (seconds - before)
            measured.calls[streams] = calls + 1
            measured.stream_bytes = max(measured.stream_bytes, stream_bytes)
            self._calls[streams] = self._calls.get(streams, 0) + 1
            self._seconds[streams] = self._seconds.get(streams, 0.0) + seconds

    def usual(self, kind: CallKind, streams: int) -> float | None:
        """The seconds that such a call takes; None when there was none yet."""
        with self._lock:
            measured = self._measured.get(kind)
            if measured is None or not measured.calls.get(streams):
                return None
            return measured.seconds.get(streams, 0.0)

    def loads(self) -> list[CallLoad]:
        """The means, for the server."""
        with self._lock:
            return [
                CallLoad(
                    kind.model_id,
                    kind.width,
                    kind.height,
                    kind.steps,
                    dict(each.seconds),
                    each.stream_bytes,
                    kind.processors,
                )
                for kind, each in self._measured.items()
            ]

    def totals(self) -> tuple[dict[int, int], dict[int, float]]:
        """Calls, and the seconds they took, by their number of streams, since the process began."""
        with self._lock:
            return dict(self._calls), dict(self._seconds)


def cost_of(load: CallLoad) -> CallCost:
    """A load as the server's other rooms see it."""
    kind = CallKind(load.model_id, load.width, load.height, load.steps, load.processors)
    return CallCost(kind, load.seconds, load.stream_bytes)


class CallTotals:
    """Calls of all worker processes so far, by their number of streams: what never falls when one ends."""

    def __init__(self) -> None:
        self._ended_calls: dict[int, int] = {}
        self._ended_seconds: dict[int, float] = {}

    def end(self, calls: Mapping[int, int], seconds: Mapping[int, float]) -> None:
        """A process is gone that had counted these."""
        self._ended_calls, self._ended_seconds = self.calls(calls), self.seconds(seconds)

    def calls(self, present: Mapping[int, int]) -> dict[int, int]:
        """All calls so far; `present` are those of the process that runs."""
        return {
            size: self._ended_calls.get(size, 0) + present.get(size, 0) for size in {**self._ended_calls, **present}
        }

    def seconds(self, present: Mapping[int, float]) -> dict[int, float]:
        """The seconds that they took."""
        ended = self._ended_seconds
        return {size: ended.get(size, 0.0) + present.get(size, 0.0) for size in {**ended, **present}}


__all__ = ["CallTotals", "LoadMeter", "cost_of"]
