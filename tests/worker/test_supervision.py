"""What the supervisor decides, as tables."""

from dataclasses import replace

import pytest

from sdstream.worker.ports import WorkerPhase
from sdstream.worker.server_end.supervision import (
    BLIND_GAP,
    FIRST_DELAY,
    LONGEST_DELAY,
    QUICK_FAILURES_LIMIT,
    QUICK_SECONDS,
    SLOW_RETRY,
    SPARE_DELAY,
    Action,
    Limits,
    SupervisionState,
    became_ready,
    checked,
    decide,
    ended,
    seconds_until_next,
    spare_ended,
    started,
    wants_spare,
)

LIMITS = Limits(ping_timeout=2.0, start_timeout=120.0, picture_limit=60.0)
STARTING = started(SupervisionState(phase=WorkerPhase.STARTING), 100.0)
READY = became_ready(STARTING, 100.0)


@pytest.mark.parametrize(
    ("state", "now", "action"),
    [
        (SupervisionState(), 100.0, Action.WAIT),
        (SupervisionState(phase=WorkerPhase.STARTING), 100.0, Action.START),
        (SupervisionState(phase=WorkerPhase.RESTARTING, next_start_at=101.0), 100.9, Action.WAIT),
        (SupervisionState(phase=WorkerPhase.RESTARTING, next_start_at=101.0), 101.0, Action.START),
        (SupervisionState(phase=WorkerPhase.FAILED, next_start_at=101.0), 101.0, Action.START),
        (STARTING, 219.0, Action.WAIT),
        (STARTING, 220.5, Action.KILL_SLOW_START),
        (READY, 100.4, Action.WAIT),
        (READY, 100.5, Action.PING),
        (replace(READY, pinged_at=100.5, heard_at=100.1), 102.0, Action.PING),
        (replace(READY, pinged_at=101.9, heard_at=100.1), 102.0, Action.WAIT),
        (replace(READY, pinged_at=101.9, heard_at=100.1), 102.2, Action.KILL_MUTE),
        (replace(READY, pinged_at=101.9, heard_at=100.1, is_loading=True), 102.2, Action.WAIT),
        (replace(READY, pinged_at=114.9, heard_at=100.1, is_loading=True), 115.2, Action.KILL_MUTE),
        (replace(READY, pinged_at=100.0, heard_at=100.1), 110.0, Action.PING),
        (replace(READY, busy_seconds=59.0), 100.1, Action.WAIT),
        (replace(READY, busy_seconds=61.0), 100.1, Action.KILL_HUNG),
        (replace(READY, busy_seconds=61.0, usual_seconds=12.0), 100.1, Action.KILL_HUNG),
        (replace(READY, busy_seconds=99.0, usual_seconds=20.0), 100.1, Action.WAIT),
        (replace(READY, busy_seconds=101.0, usual_seconds=20.0), 100.1, Action.KILL_HUNG),
        (replace(READY, busy_seconds=299.0, usual_seconds=None), 100.1, Action.WAIT),
        (replace(READY, busy_seconds=301.0, usual_seconds=None), 100.1, Action.KILL_HUNG),
        (replace(READY, loading_seconds=899.0), 100.1, Action.WAIT),
        (replace(READY, loading_seconds=901.0), 100.1, Action.KILL_HUNG),
        (replace(READY, phase=WorkerPhase.STOPPED), 500.0, Action.WAIT),
    ],
)
def test_the_decision(state: SupervisionState, now: float, action: Action) -> None:
    assert decide(state, now, LIMITS) is action


def test_a_worker_that_was_never_asked_is_not_mute() -> None:
    silent = replace(READY, heard_at=100.0, pinged_at=100.0)
    assert decide(silent, 1000.0, LIMITS) is Action.PING


def test_a_mute_worker_is_killed_no_later_than_the_timeout_after_its_last_sign() -> None:
    state, now = replace(READY, heard_at=100.0, pinged_at=100.0, checked_at=100.0), 100.0
    while (action := decide(state, now, LIMITS)) is not Action.KILL_MUTE:
        if action is Action.PING:
            state = replace(state, pinged_at=now)
        now += seconds_until_next(state, now, LIMITS)
        state = checked(state, now)
        assert now < 110
    assert now - 100.0 == pytest.approx(2.0, abs=0.05)


def test_after_a_gap_of_its_own_the_supervisor_asks_again_before_it_kills() -> None:
    asked = replace(READY, heard_at=100.0, pinged_at=100.5, checked_at=100.5)
    awake = checked(asked, 100.5 + BLIND_GAP + 10)
    assert decide(awake, awake.checked_at, LIMITS) is Action.PING
    still = replace(awake, pinged_at=awake.checked_at + 0.1)
    assert decide(still, awake.checked_at + 2.1, LIMITS) is Action.KILL_MUTE


@pytest.mark.parametrize("kind", ["busy_seconds", "loading_seconds"])
def test_seconds_of_a_gap_do_not_make_a_worker_hung(kind: str) -> None:
    """A container that is paused stands still as a whole, and the clock goes on."""
    gap = 2000.0
    awake = checked(replace(READY, pinged_at=100.5, checked_at=100.5), 100.5 + gap)
    told = replace(awake, **{kind: gap + 0.1})
    assert decide(told, awake.checked_at + 0.05, LIMITS) is not Action.KILL_HUNG
    later = awake.checked_at + 1000.0
    assert decide(replace(awake, **{kind: gap + 1000.0}), later, LIMITS) is Action.KILL_HUNG
    assert decide(replace(awake, **{kind: 950.0}), later, LIMITS) is Action.KILL_HUNG


def test_without_a_gap_checking_changes_nothing_else() -> None:
    asked = replace(READY, heard_at=100.0, pinged_at=100.5, checked_at=100.5)
    assert checked(asked, 101.0) == replace(asked, checked_at=101.0)


def test_quick_failures_wait_longer_each_and_end_in_slow_retries() -> None:
    state, delays, phases = STARTING, [], []
    for _ in range(QUICK_FAILURES_LIMIT + 2):
        state = ended(state, 100.0)
        delays.append(state.next_start_at - 100.0)
        phases.append(state.phase)
        state = started(state, 100.0)
    assert delays[:4] == [0.0, FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY]
    assert delays[QUICK_FAILURES_LIMIT - 1 :] == [SLOW_RETRY] * 3
    assert phases[: QUICK_FAILURES_LIMIT - 1] == [WorkerPhase.RESTARTING] * (QUICK_FAILURES_LIMIT - 1)
    assert set(phases[QUICK_FAILURES_LIMIT - 1 :]) == {WorkerPhase.FAILED}
    assert max(delays[: QUICK_FAILURES_LIMIT - 1]) <= LONGEST_DELAY
    assert state.restarts == QUICK_FAILURES_LIMIT + 2


def test_a_wrong_setting_is_no_matter_of_luck_and_is_tried_again_rarely() -> None:
    state = ended(started(SupervisionState(WorkerPhase.STARTING), 10.0), 11.0, by_setting=True)
    assert (state.phase, state.next_start_at) == (WorkerPhase.FAILED, 11.0 + SLOW_RETRY)
    # Whoever puts that right, such as a driver that comes up late, has a worker that is ready.
    assert became_ready(started(state, 41.0), 45.0).phase is WorkerPhase.READY


def test_a_failed_worker_stays_failed_until_one_is_ready() -> None:
    failed = replace(STARTING, phase=WorkerPhase.FAILED, running=False)
    again = started(failed, 130.0)
    assert again.phase is WorkerPhase.FAILED
    assert became_ready(again, 131.0).phase is WorkerPhase.READY


def test_a_long_life_forgives_earlier_failures() -> None:
    old = replace(READY, quick_failures=5)
    after = ended(old, 100.0 + QUICK_SECONDS + 1)
    assert (after.quick_failures, after.next_start_at) == (0, 100.0 + QUICK_SECONDS + 1)


def test_nothing_of_the_former_process_counts_against_the_next() -> None:
    hung = replace(READY, busy_seconds=100.0, heard_at=50.0, pinged_at=99.0)
    fresh = became_ready(started(ended(hung, 200.0), 200.0), 203.0)
    assert decide(fresh, 203.1, LIMITS) is Action.WAIT


@pytest.mark.parametrize(
    ("state", "now", "wanted"),
    [
        (STARTING, 200.0, False),
        (READY, 100.0 + SPARE_DELAY - 0.1, False),
        (READY, 100.0 + SPARE_DELAY, True),
        (replace(READY, restarts=1), 100.0, True),
        (spare_ended(READY, 200.0), 200.0 + SLOW_RETRY - 1, False),
        (spare_ended(READY, 200.0), 200.0 + SLOW_RETRY, True),
        (replace(READY, phase=WorkerPhase.STOPPED), 300.0, False),
    ],
)
def test_when_a_spare_is_started(state: SupervisionState, now: float, wanted: bool) -> None:
    assert wants_spare(state, now) is wanted


def test_the_supervisor_never_spins() -> None:
    for state in (STARTING, READY, replace(READY, heard_at=0.0, pinged_at=1.0)):
        assert seconds_until_next(state, 500.0, LIMITS) >= 0.01


def test_deaths_that_are_held_against_a_lane_bring_the_worker_no_nearer_to_failed() -> None:
    state = ended(STARTING, 100.0)
    for _ in range(2 * QUICK_FAILURES_LIMIT):
        state = ended(became_ready(started(state, 100.0), 101.0), 102.0, by_lane=True)
    assert (state.phase, state.quick_failures, state.next_start_at) == (WorkerPhase.RESTARTING, 1, 102.0)
