"""Whether the pictures of a stream leave too old, and what makes them so: told once as it begins and once as it ends.

A picture's age is counted from its last packet until it is with the viewers' sockets. A picture that the steps of later
ones hold back (`t_index_list` of N entries: N - 1 pictures) counts as the one that it left with.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import structlog

from sdstream.clock import Clock
from sdstream.logs import unasked
from sdstream.streams.traffic import HOPS, StreamTraffic
from sdstream.streams.views import LatencySummary

LOOK_SECONDS = 1.0
"""How often ages are looked at: what is looked at is the median of ten seconds."""
AGE_HOPS = ("receive", "total")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class AgeLimits:
    """From which age on pictures are late, and below which no longer; seconds."""

    late: float = 0.5
    timely: float = 0.4
    """Lower, so that an age about the limit is not told anew with every look."""
    patience: float = 3.0
    """They must have been late this long: a stall of a moment, such as a first picture, is no news."""


@dataclass(frozen=True, slots=True)
class Lateness:
    """What is known of a stream's lateness at one look."""

    since: float | None = None
    """The monotonic second from which on pictures were late; None while they are not."""
    told: bool = False
    """Whether that has lasted long enough to be told."""


def judge_age(before: Lateness, age: float | None, now: float, limits: AgeLimits) -> Lateness:
    """The lateness at `now` by what it was at the last look and by the age of the pictures, in seconds.

    An age of None, of no picture at all, changes nothing: a picture that takes longer than what is looked back at is
    late, and states tell of pictures that do not come.
    """
    if age is None:
        return before
    if age < limits.timely or (age <= limits.late and not before.told):
        return Lateness()
    since = now if before.since is None else before.since
    return Lateness(since, before.told or now - since >= limits.patience)


def age_of(latencies: Mapping[str, LatencySummary]) -> float | None:
    """The median age of pictures as they leave, in seconds; None when none left."""
    total, receive = latencies.get("total"), latencies.get("receive")
    if total is None:
        return None
    return total.p50 + (0.0 if receive is None else receive.p50)


class Stage(NamedTuple):
    """Where a picture spends time: what that is, and what to turn so that it gets less."""

    name: str
    what: str
    remedy: str


_LIGHTER = (
    "Fewer entries in `t_index_list`, a smaller `width` and `height`, fewer ControlNets and image processors, a faster "
    "GPU or compiled engines make it quicker"
)
_BUSY = "the machine's processors are busy"
STAGES: Final = (
    Stage("receive", "waiting for the decoder and decoding", f"Send smaller pictures, or fewer a second; {_BUSY}."),
    Stage("hand_over", "the way to the worker and back", f"Fewer streams or viewers help; {_BUSY}."),
    Stage("wait", "waiting for the worker, which is busy with others", f"{_LIGHTER}, and so do fewer streams."),
    Stage("worker", "the worker's networks and image processors", f"{_LIGHTER}."),
    Stage("encode", "encoding", f"A smaller `width` and `height` or fewer streams help; {_BUSY}."),
    Stage("send", "sending to the viewers", f"Fewer viewers help; {_BUSY}."),
)


def slowest_stage(latencies: Mapping[str, LatencySummary]) -> tuple[Stage, float]:
    """The stage that takes most of a picture's way, and its median in seconds."""
    medians = {hop: summary.p50 for hop, summary in latencies.items()}
    medians["hand_over"] = medians.get("queue", 0.0) - medians.get("wait", 0.0)
    return max(((stage, medians.get(stage.name, 0.0)) for stage in STAGES), key=lambda entry: entry[1])


class LatenessWatch:
    """Looks at one stream's pictures. `emit` is given the event `late` when they begin to be late and when they end.

    Used on the event loop; what is asked of `traffic` takes well under a millisecond.
    """

    def __init__(
        self,
        stream_id: str,
        clock: Clock,
        traffic: StreamTraffic,
        emit: Callable[[str, Mapping[str, Any]], object],
        limits: AgeLimits | None = None,
    ) -> None:
        self.warning = ""
        """A sentence for a person while pictures are late: the same until they no longer are."""
        self._stream_id = stream_id
        self._clock = clock
        self._traffic = traffic
        self._emit = emit
        self._limits = limits or AgeLimits()
        self._lateness = Lateness()
        self._looked_at: float | None = None

    def look(self, *, publishing: bool) -> None:
        """Judge the pictures of the last ten seconds, once a second however often this is called. Without a publisher
        none is late."""
        now = self._clock.monotonic()
        if publishing and self._looked_at is not None and now - self._looked_at < LOOK_SECONDS:
            return
        self._looked_at = now
        was_told = self._lateness.told
        age = age_of(self._traffic.latencies(now, AGE_HOPS)) if publishing else None
        self._lateness = judge_age(self._lateness, age, now, self._limits) if publishing else Lateness()
        if self._lateness.told != was_told:
            self._tell(age, now)

    def _tell(self, age: float | None, now: float) -> None:
        stage = ""
        self.warning = ""
        if self._lateness.told:
            slowest, seconds = slowest_stage(self._traffic.latencies(now, HOPS))
            stage = slowest.name
            shown = f"{(age or 0.0) * 1000:.0f} ms"
            self.warning = (
                f"Pictures leave {shown} after they came, more than {self._limits.late * 1000:g} ms. The most of that, "
                f"{seconds * 1000:.0f} ms, is {slowest.what}. {slowest.remedy}"
            )
        data = {
            "late": self._lateness.told,
            "age_ms": None if age is None else round(age * 1000),
            "stage": stage,
            "message": self.warning,
        }
        self._emit("late", data)
        unasked(log.info, "stream lateness", stream_id=self._stream_id, **data)


__all__ = ["AgeLimits", "Lateness", "LatenessWatch", "Stage", "age_of", "judge_age", "slowest_stage"]
