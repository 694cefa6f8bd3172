"""What the streams room shows to the API: plain dataclasses with no wire names' quirks and no HTTP."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from sdstream.media.ports import MediaStatistics, SessionAnswer
from sdstream.params import Delivery, StreamParams
from sdstream.worker.ports import LaneStatus


class StreamState(StrEnum):
    """Daydream's states; always computed from timestamps, never set."""

    OFFLINE = "OFFLINE"
    LOADING = "LOADING"
    ONLINE = "ONLINE"
    DEGRADED_INPUT = "DEGRADED_INPUT"
    DEGRADED_INFERENCE = "DEGRADED_INFERENCE"
    ERROR = "ERROR"


class Applied(StrEnum):
    """What an update does to the running stream."""

    UNCHANGED = "unchanged"
    HOT = "hot"
    RELOAD = "reload"


@dataclass(frozen=True, slots=True)
class StreamRecord:
    """What is stored of a stream and survives a restart; `revision` grows by one with each update of params."""

    id: str
    stream_key: str
    output_playback_id: str
    created_at: datetime
    name: str
    author: str
    params: StreamParams
    revision: int = 1
    delivery: Delivery = field(default_factory=Delivery)
    from_playground: bool = False
    is_smoke_test: bool = False


@dataclass(frozen=True, slots=True)
class CreateOutcome:
    """The answer to a create: the record as it is stored or, for a dry run, would be, under other names. `warnings` are
    for the caller, such as ignored members."""

    record: StreamRecord
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SessionOpened:
    """The answer to a WHIP or WHEP offer, with the record of the stream it belongs to."""

    record: StreamRecord
    answer: SessionAnswer


@dataclass(frozen=True, slots=True)
class UpdateOutcome:
    """The answer to a PATCH: the record as it is (or, for a dry run, would be), and what the change does.

    `changed` names the parameters that differ, such as `controlnets` or `prompt`. `warnings` are for the caller:
    ignored members, members a variant lacks.
    """

    record: StreamRecord
    applied: Applied
    changed: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LatencySummary:
    """Median and 95th percentile, in seconds, over the last ten seconds of one hop."""

    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """All that is known of a running or idle stream at one moment.

    Rates are pictures a second over the last two seconds or so. Moments are UTC, None for what never happened.
    `latencies` has the hops of `traffic.HOPS` where known. `drops` counts by reason since the publisher came, and so
    does `replaced` the pictures in whose place another was shown.
    """

    stream_id: str
    state: StreamState
    started_at: datetime
    state_changed_at: datetime | None
    reason: str
    """Why the state is what it is, in one sentence for a person; empty when ONLINE."""
    publisher_accepted: bool
    """A WHIP offer has been accepted, so the WHEP URL may be shown."""
    input_fps: float
    output_fps: float
    last_input_at: datetime | None
    last_output_at: datetime | None
    last_params_update_at: datetime | None
    last_params: Mapping[str, Any] | None
    last_error: str | None
    last_error_at: datetime | None
    last_restart_at: datetime | None
    restart_count: int
    last_restart_logs: tuple[str, ...]
    revision: int
    lane: LaneStatus | None
    media: MediaStatistics
    latencies: Mapping[str, LatencySummary] = field(default_factory=dict[str, LatencySummary])
    drops: Mapping[str, int] = field(default_factory=dict[str, int])
    replaced: Mapping[str, int] = field(default_factory=dict[str, int])
    pictures_late: int = 0
    """How many pictures later than it came a picture leaves, because denoising steps share a batch."""
    load_seconds_left: float | None = None
    """Of what `lane.percent` counts; None where nobody can tell."""
    next_tries: tuple[datetime | None, ...] = ()
    """Of each of `lane.missing` when it is tried again, None for only when somebody asks."""


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """Something that happened to a stream, in order. `name` is one of `EVENT_NAMES`; `data` is JSON-safe."""

    sequence: int
    name: str
    at: datetime
    stream_id: str
    data: Mapping[str, Any]


EVENT_NAMES = {
    "state": "The computed state changed: {state, previous, reason}.",
    "publisher": "The publisher came, connected or went: {state}.",
    "viewers": "The number of viewers changed: {count}.",
    "updated": "An update was accepted: {revision, applied, changed}.",
    "effective": "An update is in force: {revision, effective_frame}.",
    "acceleration": "Something else runs the networks from now on, or says why it is nothing faster: {acceleration, "
    "detail}.",
    "loading": "A load goes on: {detail, percent, seconds_left}.",
    "late": "Pictures began to leave too old, or no longer do: {late, age_ms, stage, message}.",
    "error": "Something failed: {code, message}.",
    "output": "A push to an RTMP server changed: {target, state, error}; the target is shown without its key.",
    "recording": "A recording began, or stopped because of a problem: {name, state, problem}.",
    "worker": "The worker process changed: {phase, restarts}.",
    "deleted": "The stream is gone; the last event: {reason}.",
}


@dataclass(frozen=True, slots=True)
class KindCapacity:
    """Streams of one kind, as far as they were measured. `model_id` is empty for image processors alone, which
    `processors` names.

    `frame_seconds` is the mean time of a call by the number of streams in it, `room` how many more of this kind fit,
    None when nothing is promised.
    """

    model_id: str
    width: int
    height: int
    steps: int
    processors: Sequence[str]
    publishing: int
    frame_seconds: Mapping[str, float]
    room: int | None


@dataclass(frozen=True, slots=True)
class Capacity:
    """How much more this server takes, for `GET /v1/capacity`."""

    streams: int
    max_streams: int
    publishing: int
    viewers: int
    max_viewers: int
    accepting: bool
    reason: str
    """Why not `accepting`; empty when it is."""
    worker_phase: str
    device: str
    memory_used: int | None
    memory_total: int | None
    frame_rate: float = 0.0
    """Pictures a second that each stream is promised; 0 when nothing is promised."""
    load: float = 0.0
    """The share of the worker's time that its streams ask for, by what was measured."""
    kinds: tuple[KindCapacity, ...] = ()
    """The kinds of streams that were measured; the one that ran last comes last."""


__all__ = [
    "EVENT_NAMES",
    "Applied",
    "Capacity",
    "CreateOutcome",
    "KindCapacity",
    "LatencySummary",
    "SessionOpened",
    "StreamEvent",
    "StreamRecord",
    "StreamState",
    "StreamStatus",
    "UpdateOutcome",
]
