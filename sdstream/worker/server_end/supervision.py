"""When to ping, kill and restart the worker: pure decisions over what is known at one moment."""

from dataclasses import dataclass, replace
from enum import StrEnum

from sdstream.settings import Settings
from sdstream.worker.messages import Pong
from sdstream.worker.ports import WorkerPhase

PING_PARTS = 4
"""A ping is due every `ping_timeout / PING_PARTS` seconds."""
LONGEST_PING_INTERVAL = 0.5
QUICK_SECONDS = 10.0
"""A worker that ends before it was ready for this long has failed quickly."""
FIRST_DELAY = 0.25
LONGEST_DELAY = 8.0
QUICK_FAILURES_LIMIT = 6
"""So many quick failures in a row make the phase FAILED."""
SLOW_RETRY = 30.0
SPARE_DELAY = 2.0
"""Seconds the first worker must have been ready before a spare is started: they do not compete for the cores, and a
server that lives only briefly starts none. After a restart the next spare starts at once, as trouble comes in rows."""
BLIND_GAP = 1.0
"""A supervisor that did not run for this many seconds cannot say that the worker was mute meanwhile."""
LOADING_PATIENCE = 15.0
"""Seconds that a worker which loads may be silent: an import of large libraries holds every one of its threads up, for
seconds where the machine is busy."""
PICTURE_LIMIT = 60.0
"""Seconds after which one picture counts as hung although the process answers pings."""
USUAL_TIMES = 5.0
"""How many times as long as such pictures take one may take: on a CPU a large one takes a minute by itself."""
FIRST_PICTURE_LIMIT = 300.0
"""The limit of the first of its kind, of which nothing is known: kernels are compiled, graphs captured for it."""
LOAD_LIMIT = 900.0
"""The limit of a load, as a large model on a network volume takes minutes; and of the first picture of a kind where
torch.compile looks at whole networks for it."""


class Action(StrEnum):
    """What the supervisor does now."""

    WAIT = "wait"
    START = "start"
    PING = "ping"
    KILL_MUTE = "mute"
    KILL_SLOW_START = "slow start"
    KILL_HUNG = "hung"


@dataclass(frozen=True, slots=True)
class Limits:
    """The settings that supervision needs, in seconds."""

    ping_timeout: float
    start_timeout: float
    loading_patience: float = LOADING_PATIENCE
    picture_limit: float = PICTURE_LIMIT
    first_picture_limit: float = FIRST_PICTURE_LIMIT
    load_limit: float = LOAD_LIMIT

    @classmethod
    def from_settings(cls, settings: Settings) -> "Limits":
        first = LOAD_LIMIT if settings.compile_networks else FIRST_PICTURE_LIMIT
        return cls(settings.worker_ping_timeout, settings.worker_start_timeout, first_picture_limit=first)

    @property
    def ping_interval(self) -> float:
        return min(LONGEST_PING_INTERVAL, self.ping_timeout / PING_PARTS)


@dataclass(frozen=True, slots=True)
class SupervisionState:
    """All that a decision needs. Moments are monotonic seconds; those of an earlier process are forgotten."""

    phase: WorkerPhase = WorkerPhase.STOPPED
    running: bool = False
    """A process exists."""
    next_start_at: float = 0.0
    started_at: float = 0.0
    ready_at: float | None = None
    heard_at: float = 0.0
    """The last sign of life: any message."""
    pinged_at: float = 0.0
    checked_at: float = 0.0
    """When the supervisor last looked."""
    awake_at: float = 0.0
    """When it looked again after its last gap, such as a suspended machine."""
    gap_seconds: float = 0.0
    """How long that gap was."""
    busy_seconds: float = 0.0
    """How long the present call took at the last pong."""
    usual_seconds: float | None = 0.0
    """What such calls take; None when it is the first of its kind."""
    loading_seconds: float = 0.0
    """How long a load beside it had told of no progress."""
    is_loading: bool = False
    """Whether it loads anything for a lane."""
    quick_failures: int = 0
    next_spare_at: float = 0.0
    restarts: int = 0


def decide(state: SupervisionState, now: float, limits: Limits) -> Action:
    """The one thing to do at `now`."""
    if state.phase is WorkerPhase.STOPPED:
        return Action.WAIT
    if not state.running:
        return Action.START if now >= state.next_start_at else Action.WAIT
    if state.ready_at is None:
        return Action.KILL_SLOW_START if now - state.started_at > limits.start_timeout else Action.WAIT
    # Silence counts only from the first ping after the last sign of life: whoever was not asked need not answer.
    if state.pinged_at > state.heard_at and now - state.heard_at > silence_limit(state, limits):
        return Action.KILL_MUTE
    if without_gap(state.busy_seconds, state, now) > busy_limit(state, limits):
        return Action.KILL_HUNG
    if without_gap(state.loading_seconds, state, now) > limits.load_limit:
        return Action.KILL_HUNG
    return Action.PING if now - state.pinged_at >= limits.ping_interval else Action.WAIT


def silence_limit(state: SupervisionState, limits: Limits) -> float:
    """Seconds without an answer to a ping after which the worker counts as mute."""
    return max(limits.ping_timeout, limits.loading_patience) if state.is_loading else limits.ping_timeout


def busy_limit(state: SupervisionState, limits: Limits) -> float:
    """Seconds after which the present call counts as hung."""
    if state.usual_seconds is None:
        return limits.first_picture_limit
    return max(limits.picture_limit, USUAL_TIMES * state.usual_seconds)


def without_gap(seconds: float, state: SupervisionState, now: float) -> float:
    """Of so many seconds up to `now` those in which the supervisor, and so the worker, was not suspended."""
    before_awake = max(0.0, seconds - (now - state.awake_at))
    return seconds - min(state.gap_seconds, before_awake)


def wants_spare(state: SupervisionState, now: float) -> bool:
    """Whether this is a good moment to start a spare process: the working one is settled and leaves cores free."""
    if state.phase is not WorkerPhase.READY or state.ready_at is None:
        return False
    delay = SPARE_DELAY if state.restarts == 0 else 0.0
    return now - state.ready_at >= delay and now >= state.next_spare_at


def spare_ended(state: SupervisionState, now: float) -> SupervisionState:
    """A spare process ended by itself; the next one waits, lest a broken installation starts them without pause."""
    return replace(state, next_spare_at=now + SLOW_RETRY)


def seconds_until_next(state: SupervisionState, now: float, limits: Limits) -> float:
    """How long the supervisor may sleep if nothing happens meanwhile."""
    if not state.running:
        return max(0.0, state.next_start_at - now)
    if state.ready_at is None:
        return max(0.01, state.started_at + limits.start_timeout - now + 0.01)
    next_look = state.pinged_at + limits.ping_interval
    if state.pinged_at > state.heard_at:
        next_look = min(next_look, state.heard_at + silence_limit(state, limits))
    return max(0.01, next_look - now)


def checked(state: SupervisionState, now: float) -> SupervisionState:
    """The supervisor looks at `now`. After a gap, such as a suspended machine, the worker gets a fresh chance."""
    gap = now - state.checked_at
    if state.running and state.ready_at is not None and state.checked_at and gap > BLIND_GAP:
        pinged_at = min(state.pinged_at, now - 1e-6)
        return replace(state, checked_at=now, heard_at=now, pinged_at=pinged_at, awake_at=now, gap_seconds=gap)
    return replace(state, checked_at=now)


def told(state: SupervisionState, heard_at: float, is_loading: bool, pong: Pong | None) -> SupervisionState:
    """The worker was heard at `heard_at`, and its last answer to a ping is `pong`."""
    busy, usual, loading = (0.0, 0.0, 0.0)
    if pong is not None:
        busy, usual, loading = pong.busy_seconds, pong.usual_seconds, pong.loading_seconds
    return replace(
        state,
        heard_at=heard_at,
        is_loading=is_loading,
        busy_seconds=busy,
        usual_seconds=usual,
        loading_seconds=loading,
    )


def started(state: SupervisionState, now: float) -> SupervisionState:
    """A process was started."""
    phase = WorkerPhase.STARTING if state.restarts == 0 else WorkerPhase.RESTARTING
    if state.phase is WorkerPhase.FAILED:
        phase = WorkerPhase.FAILED  # until one is ready
    return replace(
        state,
        phase=phase,
        running=True,
        started_at=now,
        ready_at=None,
        heard_at=now,
        pinged_at=0.0,
        busy_seconds=0.0,
        loading_seconds=0.0,
    )


def became_ready(state: SupervisionState, now: float) -> SupervisionState:
    """The process sent its ready message."""
    return replace(state, phase=WorkerPhase.READY, ready_at=now, heard_at=now, pinged_at=now)


def ended(state: SupervisionState, now: float, *, by_lane: bool = False, by_setting: bool = False) -> SupervisionState:
    """The process is gone, or could not be started: decide when the next one starts.

    The first failure restarts at once, further quick ones wait twice as long each, and after
    `QUICK_FAILURES_LIMIT` the phase is FAILED with a try every `SLOW_RETRY` seconds. One that is held against a lane
    (`by_lane`, see `quarantine.py`) is no failure of the worker: it counts neither for nor against it. One that says
    that a setting is wrong (`by_setting`) would end so each time: FAILED at once.
    """
    quick = state.ready_at is None or now - state.ready_at < QUICK_SECONDS
    failures = state.quick_failures + (not by_lane) if quick else 0
    if by_setting:
        failures = max(failures, QUICK_FAILURES_LIMIT)
    if failures >= QUICK_FAILURES_LIMIT:
        phase, delay = WorkerPhase.FAILED, SLOW_RETRY
    else:
        phase = WorkerPhase.RESTARTING
        delay = 0.0 if failures <= 1 else min(LONGEST_DELAY, FIRST_DELAY * 2 ** (failures - 2))
    return replace(
        state,
        phase=phase,
        running=False,
        ready_at=None,
        next_start_at=now + delay,
        quick_failures=failures,
        restarts=state.restarts + 1,
        busy_seconds=0.0,
        loading_seconds=0.0,
    )


__all__ = [
    "Action",
    "Limits",
    "SupervisionState",
    "became_ready",
    "busy_limit",
    "checked",
    "decide",
    "ended",
    "seconds_until_next",
    "silence_limit",
    "spare_ended",
    "started",
    "told",
    "wants_spare",
    "without_gap",
]
