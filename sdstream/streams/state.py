"""What state a stream is in: a pure function of moments and of the state before, never a variable that somebody sets.

Rules are tried in order, and the first that holds gives state and reason: nobody publishes, cannot work at all, not
ready yet, the input is poor, the output is poor, trouble not long ago, all is well. Causes come before effects, so a
stalled camera is not blamed on the worker.
"""

from dataclasses import dataclass
from typing import NamedTuple

from sdstream.media.ports import PublisherState
from sdstream.streams.views import StreamState
from sdstream.worker.ports import LanePhase, LaneStatus, WorkerPhase

FIRST_PICTURE = "The first picture is being made; it takes longest."


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where one state ends and the next begins: seconds, and pictures a second."""

    input_idle: float = 2.0
    input_rate: float = 15.0
    output_idle: float = 2.0
    output_rate: float = 10.0
    output_share: float = 0.8
    """The output may be this share of the input where that is less than `output_rate`."""
    rate_window: float = 2.0
    """A rate is judged only once pictures have flowed this long: the meters look back as far."""
    rate_tolerance: float = 0.5
    """A meter over two seconds counts one picture more or less, and a 15 fps camera is not a poor one. Who was called
    poor has to do without it, or rates about a limit would be told anew with every picture."""
    error_memory: float = 15.0
    restart_memory: float = 60.0
    ready_deadline: float = 180.0
    """Without news of a lane until it is ready, and once more until its first picture is made."""
    max_frame_rate: float = 60.0
    """Pictures above this rate are dropped on purpose before the worker, so no more can come out."""


@dataclass(frozen=True, slots=True)
class Moments:
    """All that the state of a stream depends on; times are monotonic seconds, None for what never happened.

    `first_input_at` and `first_output_at` start anew after a pause in the flow, `publisher_at` with each WHIP offer.
    """

    publisher: PublisherState = PublisherState.ABSENT
    publisher_at: float | None = None
    publisher_problem: str = ""
    """Why the last publisher never connected, where that is so."""
    first_input_at: float | None = None
    last_input_at: float | None = None
    first_output_at: float | None = None
    last_output_at: float | None = None
    input_fps: float = 0.0
    output_fps: float = 0.0
    worker: WorkerPhase = WorkerPhase.STARTING
    worker_error: str | None = None
    lane: LaneStatus | None = None
    load_seconds_left: float | None = None
    """Of what the percents of the lane count; None where nobody can tell."""
    reloading: bool = False
    """New params were given to the lane that it must load anew for, and it has not said yet that they are in force."""
    lane_changed_at: float | None = None
    """When the lane last became ready, stopped being it, or came further on its way there."""
    error: str | None = None
    error_at: float | None = None
    restart_at: float | None = None


class Verdict(NamedTuple):
    """A state and why, in one sentence for a person; the reason is empty when ONLINE."""

    state: StreamState
    reason: str


def compute_state(moments: Moments, now: float, thresholds: Thresholds, before: StreamState | None = None) -> Verdict:
    """The state at `now` (monotonic seconds). Total: every combination of moments has one.

    `before` is the state at the last look, if there was one: a rate that was too low is so until it is right.
    """
    if moments.publisher is PublisherState.ABSENT:
        return Verdict(StreamState.OFFLINE, f"Nobody publishes to this stream. {moments.publisher_problem}".rstrip())
    return (
        _hopeless(moments, now, thresholds)
        or _unready(moments)
        or _poor_input(moments, now, thresholds, before is StreamState.DEGRADED_INPUT)
        or _poor_output(moments, now, thresholds, before is StreamState.DEGRADED_INFERENCE)
        or _recent_trouble(moments, now, thresholds)
        or Verdict(StreamState.ONLINE, "")
    )


def is_ready(moments: Moments) -> bool:
    """Whether a picture given to the worker now would come back processed, and with the params that were asked for."""
    lane_ready = moments.lane is not None and moments.lane.phase is LanePhase.READY
    return lane_ready and moments.worker is WorkerPhase.READY and not moments.reloading


def _hopeless(moments: Moments, now: float, thresholds: Thresholds) -> Verdict | None:
    if moments.worker is WorkerPhase.FAILED:
        return Verdict(StreamState.ERROR, f"The worker does not start: {moments.worker_error or 'see the log'}.")
    if moments.worker is WorkerPhase.STOPPED:
        return Verdict(StreamState.ERROR, "The worker has been stopped.")
    if moments.lane is not None and moments.lane.phase is LanePhase.FAILED:
        return Verdict(StreamState.ERROR, moments.lane.error_message or "The stream cannot be processed.")
    if not is_ready(moments):
        since = latest(moments.publisher_at, moments.lane_changed_at)
        if since is not None and now - since > thresholds.ready_deadline:
            return Verdict(StreamState.ERROR, f"Not ready, and nothing new of it for {thresholds.ready_deadline:g} s.")
    return None


def _unready(moments: Moments) -> Verdict | None:
    if moments.worker is WorkerPhase.RESTARTING:
        return Verdict(StreamState.DEGRADED_INFERENCE, "The worker ended and is being started again.")
    if is_ready(moments):
        return None
    if moments.worker is WorkerPhase.STARTING:
        return Verdict(StreamState.LOADING, "The worker is starting.")
    if moments.lane is None:
        return Verdict(StreamState.LOADING, "The stream is being given to the worker.")
    if moments.reloading:
        return Verdict(StreamState.LOADING, load_words(moments.lane) or "The new parameters are being loaded.")
    return Verdict(StreamState.LOADING, moments.lane.detail or "The stream is being loaded.")


def load_words(lane: LaneStatus) -> str:
    """What a load says of itself; empty until it has said something: a ready lane's `detail` is of what runs."""
    return "" if lane.phase is LanePhase.READY and lane.percent is None else lane.detail


def _poor_input(moments: Moments, now: float, thresholds: Thresholds, was_poor: bool) -> Verdict | None:
    since = latest(moments.publisher_at, moments.last_input_at)
    idle = 0.0 if since is None else now - since
    if idle > thresholds.input_idle:
        missing = "No picture from the publisher for"
        if moments.publisher is PublisherState.CONNECTING:
            missing = "The publisher was answered and has not connected for"
        return Verdict(StreamState.DEGRADED_INPUT, f"{missing} {idle:.0f} s.")
    if not _input_began(moments):
        return Verdict(StreamState.LOADING, "Waiting for the first picture from the publisher.")
    steady = moments.first_input_at is not None and now - moments.first_input_at >= thresholds.rate_window
    if not steady and was_poor:
        return Verdict(StreamState.DEGRADED_INPUT, "Pictures come again, too few yet to tell how many a second.")
    if steady and moments.input_fps < thresholds.input_rate - (0.0 if was_poor else thresholds.rate_tolerance):
        return Verdict(
            StreamState.DEGRADED_INPUT,
            f"The publisher sends {moments.input_fps:.1f} pictures a second, fewer than {thresholds.input_rate:g}.",
        )
    return None


def makes_first_picture(moments: Moments, now: float, thresholds: Thresholds) -> bool:
    """Whether a lane that is ready is at the first picture of its params, which may take as long as getting ready: what
    makes pictures is compiled, captured or tried then."""
    lane, due_since = moments.lane, _output_due_since(moments)
    if lane is None or lane.phase is not LanePhase.READY or lane.effective_sequence is not None:
        return False
    in_time = due_since is None or now - due_since <= thresholds.ready_deadline
    return in_time and not _output_began(moments)


def _poor_output(moments: Moments, now: float, thresholds: Thresholds, was_poor: bool) -> Verdict | None:
    if makes_first_picture(moments, now, thresholds):
        return Verdict(StreamState.LOADING, FIRST_PICTURE)
    due_since = _output_due_since(moments)
    since = latest(due_since, moments.last_output_at)
    idle = 0.0 if since is None else now - since
    if idle > thresholds.output_idle:
        return Verdict(StreamState.DEGRADED_INFERENCE, f"No processed picture for {idle:.0f} s.")
    if not _output_began(moments):
        return Verdict(StreamState.LOADING, "The first processed picture is on its way.")
    judged_since = latest(due_since, moments.first_output_at)
    if judged_since is not None and now - judged_since >= thresholds.rate_window:
        least = least_output_rate(moments.input_fps, thresholds)
        if moments.output_fps < least - (0.0 if was_poor else thresholds.rate_tolerance):
            return Verdict(
                StreamState.DEGRADED_INFERENCE,
                f"{moments.output_fps:.1f} pictures a second come out of {moments.input_fps:.1f}.",
            )
    return None


def _recent_trouble(moments: Moments, now: float, thresholds: Thresholds) -> Verdict | None:
    if moments.error_at is not None and now - moments.error_at <= thresholds.error_memory:
        return Verdict(StreamState.DEGRADED_INFERENCE, moments.error or "There was an error.")
    if moments.restart_at is not None and now - moments.restart_at <= thresholds.restart_memory:
        ago = now - moments.restart_at
        return Verdict(StreamState.DEGRADED_INFERENCE, f"The worker was started again {ago:.0f} s ago.")
    return None


def least_output_rate(input_fps: float, thresholds: Thresholds) -> float:
    """Pictures a second that must come out for the output to be called good."""
    return min(thresholds.output_rate, thresholds.output_share * min(input_fps, thresholds.max_frame_rate))


def latest(*times: float | None) -> float | None:
    """The last of the moments that happened."""
    return max((time for time in times if time is not None), default=None)


def _output_due_since(moments: Moments) -> float | None:
    return latest(moments.publisher_at, moments.first_input_at, moments.lane_changed_at)


def _output_began(moments: Moments) -> bool:
    due_since = _output_due_since(moments)
    return moments.last_output_at is not None and (due_since is None or moments.last_output_at >= due_since)


def _input_began(moments: Moments) -> bool:
    if moments.last_input_at is None:
        return False
    return moments.publisher_at is None or moments.last_input_at >= moments.publisher_at


__all__ = [
    "FIRST_PICTURE",
    "Moments",
    "Thresholds",
    "Verdict",
    "compute_state",
    "is_ready",
    "latest",
    "least_output_rate",
    "load_words",
    "makes_first_picture",
]
