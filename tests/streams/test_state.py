"""The state of a stream as a table, and as properties."""

import itertools
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdstream.media.ports import PublisherState
from sdstream.streams.state import Moments, Thresholds, compute_state, least_output_rate
from sdstream.streams.views import StreamState
from sdstream.worker.ports import LanePhase, LaneStatus, WorkerPhase

NOW = 1000.0
THRESHOLDS = Thresholds()
READY = LaneStatus(LanePhase.READY, revision=1, effective_sequence=1)
FRESH = replace(READY, effective_sequence=None)
"""It has made no picture under its params yet."""
GOOD = Moments(
    publisher=PublisherState.CONNECTED,
    publisher_at=NOW - 100,
    first_input_at=NOW - 99,
    last_input_at=NOW - 0.03,
    first_output_at=NOW - 98,
    last_output_at=NOW - 0.02,
    input_fps=30.0,
    output_fps=30.0,
    worker=WorkerPhase.READY,
    lane=READY,
    lane_changed_at=NOW - 99.5,
)
"""All is well."""


def state_of(before: StreamState | None = None, /, **changes: object) -> StreamState:
    return compute_state(replace(GOOD, **changes), NOW, THRESHOLDS, before).state  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, StreamState.ONLINE),
        ({"publisher": PublisherState.ABSENT}, StreamState.OFFLINE),
        # Input: idle above 2 s, rate below 15.
        ({"last_input_at": NOW - 2.0}, StreamState.ONLINE),
        ({"last_input_at": NOW - 2.1}, StreamState.DEGRADED_INPUT),
        ({"input_fps": 14.9, "output_fps": 14.9}, StreamState.ONLINE),  # a camera of 15, measured
        ({"input_fps": 14.4, "output_fps": 14.4}, StreamState.DEGRADED_INPUT),
        ({"input_fps": 5.0, "first_input_at": NOW - 1.9}, StreamState.ONLINE),  # too early to judge
        # Output: idle above 2 s, rate below min(10, 80 % of the input).
        ({"last_output_at": NOW - 2.0}, StreamState.ONLINE),
        ({"last_output_at": NOW - 2.1}, StreamState.DEGRADED_INFERENCE),
        ({"output_fps": 9.6}, StreamState.ONLINE),
        ({"output_fps": 9.4}, StreamState.DEGRADED_INFERENCE),
        ({"output_fps": 1.0, "first_output_at": NOW - 1.9}, StreamState.ONLINE),
        # Trouble not long ago: 15 s after an error, 60 s after a restart.
        ({"error_at": NOW - 15.0, "error": "x"}, StreamState.DEGRADED_INFERENCE),
        ({"error_at": NOW - 15.1, "error": "x"}, StreamState.ONLINE),
        ({"restart_at": NOW - 60.0}, StreamState.DEGRADED_INFERENCE),
        ({"restart_at": NOW - 60.1}, StreamState.ONLINE),
        # Loading, and its end after 180 s.
        (
            {"lane": LaneStatus(LanePhase.LOADING), "lane_changed_at": NOW - 180, "publisher_at": NOW - 500},
            StreamState.LOADING,
        ),
        (
            {"lane": LaneStatus(LanePhase.LOADING), "lane_changed_at": NOW - 181, "publisher_at": NOW - 10},
            StreamState.LOADING,  # a new publisher is given time of its own
        ),
        (
            {"lane": LaneStatus(LanePhase.LOADING), "lane_changed_at": NOW - 181, "publisher_at": NOW - 181},
            StreamState.ERROR,
        ),
        ({"lane": LaneStatus(LanePhase.WAITING), "worker": WorkerPhase.STARTING}, StreamState.LOADING),
        ({"lane": None, "lane_changed_at": None}, StreamState.LOADING),
        ({"lane": LaneStatus(LanePhase.WAITING), "worker": WorkerPhase.RESTARTING}, StreamState.DEGRADED_INFERENCE),
        ({"lane": LaneStatus(LanePhase.FAILED, error_message="no")}, StreamState.ERROR),
        ({"worker": WorkerPhase.FAILED}, StreamState.ERROR),
        ({"worker": WorkerPhase.STOPPED}, StreamState.ERROR),
        # A stream that has just begun.
        ({"last_input_at": None, "first_input_at": None, "publisher_at": NOW - 1}, StreamState.LOADING),
        ({"last_input_at": None, "first_input_at": None, "publisher_at": NOW - 3}, StreamState.DEGRADED_INPUT),
        ({"last_input_at": NOW - 50, "publisher_at": NOW - 1}, StreamState.LOADING),  # the input of the one before
        ({"last_output_at": None, "first_output_at": None, "first_input_at": NOW - 1}, StreamState.LOADING),
        ({"last_output_at": None, "first_output_at": None, "first_input_at": NOW - 3}, StreamState.DEGRADED_INFERENCE),
        ({"last_output_at": NOW - 9, "lane_changed_at": NOW - 1}, StreamState.LOADING),  # a reload has just ended
        # The first picture of its params is compiled and captured for: that is part of getting ready.
        ({"lane": FRESH, "last_output_at": None, "first_output_at": None}, StreamState.LOADING),
        ({"lane": FRESH, "last_output_at": NOW - 150, "lane_changed_at": NOW - 90}, StreamState.LOADING),
        ({"lane": FRESH, "last_output_at": NOW - 3}, StreamState.DEGRADED_INFERENCE),  # a knob, of a stream that ran
        (
            {
                "lane": FRESH,
                "last_output_at": None,
                "first_output_at": None,
                "publisher_at": NOW - 500,
                "first_input_at": NOW - 499,
                "lane_changed_at": NOW - 181,
            },
            StreamState.DEGRADED_INFERENCE,
        ),
        # Causes before effects.
        ({"last_input_at": NOW - 5, "last_output_at": NOW - 5}, StreamState.DEGRADED_INPUT),
        ({"last_input_at": NOW - 5, "lane": LaneStatus(LanePhase.LOADING)}, StreamState.LOADING),
        ({"publisher": PublisherState.ABSENT, "worker": WorkerPhase.FAILED}, StreamState.OFFLINE),
    ],
)
def test_the_table(changes: dict[str, object], expected: StreamState) -> None:
    assert state_of(**changes) is expected


@pytest.mark.parametrize(
    ("changes", "before", "expected"),
    [
        ({"input_fps": 14.6}, StreamState.DEGRADED_INPUT, StreamState.DEGRADED_INPUT),
        ({"input_fps": 14.6}, StreamState.DEGRADED_INFERENCE, StreamState.ONLINE),
        ({"input_fps": 15.0}, StreamState.DEGRADED_INPUT, StreamState.ONLINE),
        ({"output_fps": 9.6}, StreamState.DEGRADED_INFERENCE, StreamState.DEGRADED_INFERENCE),
        ({"output_fps": 9.6}, StreamState.DEGRADED_INPUT, StreamState.ONLINE),
        ({"output_fps": 10.0}, StreamState.DEGRADED_INFERENCE, StreamState.ONLINE),
        # Pictures come again: too early to judge, so they are what they were.
        ({"first_input_at": NOW - 1.9}, StreamState.DEGRADED_INPUT, StreamState.DEGRADED_INPUT),
        ({"first_input_at": NOW - 2.0}, StreamState.DEGRADED_INPUT, StreamState.ONLINE),
        ({"first_input_at": NOW - 1.9}, StreamState.LOADING, StreamState.ONLINE),
    ],
)
def test_what_was_poor_is_so_until_it_is_right(
    changes: dict[str, object], before: StreamState, expected: StreamState
) -> None:
    assert state_of(before, **changes) is expected


@given(st.lists(st.floats(14.5, 14.99), min_size=2, max_size=50))
def test_a_rate_about_its_limit_changes_the_state_once_at_most(rates: list[float]) -> None:
    states = [StreamState.ONLINE]
    for rate in (14.4, *rates):
        states.append(state_of(states[-1], input_fps=rate))
    assert states == [StreamState.ONLINE] + [StreamState.DEGRADED_INPUT] * (len(rates) + 1)


def test_a_picture_now_and_then_leaves_the_input_poor() -> None:
    """One every 3.3 seconds, looked at five times a second; the flow begins anew with each, as after every pause."""
    state, seen = StreamState.ONLINE, []
    for tenth in range(0, 300, 2):
        now = NOW + tenth / 10
        last = NOW + 3.3 * int(tenth / 33)
        flow = replace(
            GOOD, first_input_at=last, last_input_at=last, last_output_at=last, input_fps=0.5, output_fps=0.5
        )
        state = compute_state(flow, now, THRESHOLDS, state).state
        seen.append(state)
    changes = [after for before, after in itertools.pairwise(seen) if after is not before]
    assert changes == [StreamState.DEGRADED_INPUT]


def test_a_failed_lane_gives_its_own_reason() -> None:
    lane = LaneStatus(LanePhase.FAILED, error_message="No weights for that model.")
    assert compute_state(replace(GOOD, lane=lane), NOW, THRESHOLDS).reason == "No weights for that model."


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"detail": "no engine is here"}, "The new parameters are being loaded."),  # of what runs, not of the load
        ({"detail": "downloading a/b", "percent": 5.0}, "downloading a/b"),  # a ready lane that tries something again
        ({"phase": LanePhase.LOADING, "detail": "preparing a/b"}, "preparing a/b"),
    ],
)
def test_a_reload_gives_its_own_reason(told: dict[str, object], reason: str) -> None:
    lane = replace(READY, **told)  # type: ignore[arg-type]
    assert compute_state(replace(GOOD, lane=lane, reloading=True), NOW, THRESHOLDS).reason == reason


@pytest.mark.parametrize(("input_fps", "limit", "least"), [(30, 60, 10), (10, 60, 8), (30, 5, 4), (0, 60, 0)])
def test_the_least_output_rate(input_fps: float, limit: float, least: float) -> None:
    assert least_output_rate(input_fps, Thresholds(max_frame_rate=limit)) == least


times = st.none() | st.floats(NOW - 300, NOW)
rates = st.floats(0, 120)
moments = st.builds(
    Moments,
    publisher=st.sampled_from(PublisherState),
    publisher_at=times,
    first_input_at=times,
    last_input_at=times,
    first_output_at=times,
    last_output_at=times,
    input_fps=rates,
    output_fps=rates,
    worker=st.sampled_from(WorkerPhase),
    worker_error=st.none() | st.just("killed"),
    lane=st.none() | st.builds(LaneStatus, phase=st.sampled_from(LanePhase), error_message=st.none() | st.just("no")),
    lane_changed_at=times,
    error=st.none() | st.just("boom"),
    error_at=times,
    restart_at=times,
)


@given(moments, st.none() | st.sampled_from(StreamState))
def test_every_combination_has_one_state_and_only_online_has_no_reason(
    given_moments: Moments, before: StreamState | None
) -> None:
    verdict = compute_state(given_moments, NOW, THRESHOLDS, before)
    assert verdict == compute_state(given_moments, NOW, THRESHOLDS, before)
    assert (verdict.reason == "") is (verdict.state is StreamState.ONLINE)


@given(moments)
def test_without_publisher_a_stream_is_offline_and_with_one_it_is_not(given_moments: Moments) -> None:
    offline = compute_state(given_moments, NOW, THRESHOLDS).state is StreamState.OFFLINE
    assert offline is (given_moments.publisher is PublisherState.ABSENT)


@given(moments)
def test_online_means_ready_with_fresh_pictures_in_and_out(given_moments: Moments) -> None:
    if compute_state(given_moments, NOW, THRESHOLDS).state is not StreamState.ONLINE:
        return
    assert given_moments.worker is WorkerPhase.READY
    assert given_moments.lane is not None
    assert given_moments.lane.phase is LanePhase.READY
    assert given_moments.last_input_at is not None
    assert given_moments.last_output_at is not None
    assert NOW - given_moments.last_output_at <= THRESHOLDS.output_idle


@given(moments)
def test_a_dead_worker_is_an_error_whatever_else_happens(given_moments: Moments) -> None:
    broken = replace(given_moments, publisher=PublisherState.CONNECTED, worker=WorkerPhase.FAILED)
    assert compute_state(broken, NOW, THRESHOLDS).state is StreamState.ERROR


@given(st.floats(0, 500))
def test_a_stream_left_alone_ends_in_degraded_input(later: float) -> None:
    state = compute_state(GOOD, NOW + later, THRESHOLDS).state
    assert state is (StreamState.DEGRADED_INPUT if later - -0.03 > 2.0 else StreamState.ONLINE)
