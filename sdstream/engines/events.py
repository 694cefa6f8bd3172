"""What happens to engines, told to whoever counts and logs it."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

EngineEventKind = Literal[
    "hit",
    "miss",
    "mismatch",
    "built",
    "build_failed",
    "stored",
    "fetched",
    "pushed",
    "broken",
    "evicted",
    "lock_broken",
    "store_unavailable",
    "swapped",
    "run_failed",
]
"""
- `hit`, `miss`, `mismatch`: an engine was looked for and found, was not there, was there for another GPU or version
- `built`, `build_failed`, `stored`, `fetched`, `pushed`: made here, kept, copied from elsewhere, copied elsewhere
- `broken`: files differ from their manifest; put aside and not used
- `evicted`, `lock_broken`: removed for room; the lock of a builder that died was removed
- `store_unavailable`: a full disk, a read-only volume, S3 that does not answer
- `swapped`, `run_failed`: streams run on it now; it failed while loaded or run, and streams went back to the plain twin
"""


@dataclass(frozen=True, slots=True)
class EngineEvent:
    """`name` is an engine's readable name, `detail` one line for a person."""

    kind: EngineEventKind
    name: str
    detail: str = ""


Report = Callable[[EngineEvent], None]


def say_nothing(event: EngineEvent) -> None:
    """A `Report` for callers that do not care."""


class EventCounts:
    """Counts events by kind, and passes them on. Adding to a counter of one process needs no lock under the GIL."""

    def __init__(self, onward: Report = say_nothing) -> None:
        self._counts: Counter[str] = Counter()
        self._onward = onward

    def __call__(self, event: EngineEvent) -> None:
        self._counts[event.kind] += 1
        self._onward(event)

    @property
    def counts(self) -> dict[str, int]:
        return dict(self._counts)


__all__ = ["EngineEvent", "EngineEventKind", "EventCounts", "Report", "say_nothing"]
