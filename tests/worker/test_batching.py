"""Who rides in the next call: fair turns by deadline, short gatherings, and nobody who waits for the absent."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdstream.worker.scheduling.batching import (
    LONGEST_INTERVAL,
    SHORTEST_INTERVAL,
    Call,
    Pause,
    Rider,
    Trial,
    choose,
    may_try,
    next_interval,
)

NOW = 100.0
moments = st.one_of(st.none(), st.floats(NOW - 1, NOW))
riders = st.builds(
    Rider,
    lane=st.integers(0, 10**6),
    group=st.sampled_from("abc"),
    since=moments,
    interval=st.floats(SHORTEST_INTERVAL, LONGEST_INTERVAL),
    expected_at=st.one_of(st.none(), st.floats(NOW - 1, NOW + 1)),
    served=st.integers(0, 50),
    alone=st.booleans(),
)
crowds = st.lists(riders, max_size=12, unique_by=lambda rider: rider.lane)


@given(crowds, st.floats(0, 0.1), st.integers(1, 8))
def test_a_call_is_of_waiting_lanes_of_one_group_and_no_larger_than_allowed(
    crowd: list[Rider], window: float, most: int
) -> None:
    choice = choose(crowd, NOW, window, most)
    waiting = {rider.lane: rider for rider in crowd if rider.since is not None}
    assert (choice is None) == (not waiting)
    if isinstance(choice, Call):
        riding = [waiting[lane] for lane in choice.lanes]
        assert len({rider.group for rider in riding}) == 1
        assert 1 <= len(set(choice.lanes)) == len(choice.lanes) <= most
        assert len(riding) == 1 or not any(rider.alone for rider in riding)
    if isinstance(choice, Pause):
        assert NOW < choice.until <= NOW + window


@given(crowds, st.integers(1, 8))
def test_without_a_window_the_most_urgent_lane_is_always_called(crowd: list[Rider], most: int) -> None:
    waiting = [rider for rider in crowd if rider.since is not None]
    choice = choose(crowd, NOW, 0.0, most)
    if waiting:
        assert isinstance(choice, Call)
        first = min(waiting, key=lambda rider: rider.urgency)
        assert next(rider for rider in waiting if rider.lane == choice.lanes[0]).urgency == first.urgency


@given(
    st.lists(st.tuples(st.integers(0, 2), st.floats(SHORTEST_INTERVAL, LONGEST_INTERVAL)), min_size=2, max_size=6),
    st.floats(0.001, 0.5),
)
def test_no_lane_that_has_always_a_picture_is_left_out(lanes: list[tuple[int, float]], turn: float) -> None:
    """An overloaded worker: everybody waits again at once. Nobody waits longer than the slowest interval and one round
    of everybody else's turns in that time."""
    crowd = {number: Rider(number, f"group {group}", NOW, interval) for number, (group, interval) in enumerate(lanes)}
    longest = max(interval for _, interval in lanes)
    now = NOW
    for call in range(1, 60):
        choice = choose(crowd.values(), now, 0.002, 2)
        assert isinstance(choice, Call)
        for lane in choice.lanes:
            since = crowd[lane].since
            assert since is not None
            assert now - since <= longest + (len(lanes) + 1) * turn
            crowd[lane] = replace(crowd[lane], since=now + turn, served=call)
        now += turn


@pytest.mark.parametrize(
    ("others", "waits"),
    [
        ([], False),
        ([Rider(2, "a", None, expected_at=NOW + 0.001)], True),
        ([Rider(2, "b", None, expected_at=NOW + 0.001)], False),
        ([Rider(2, "a", None, expected_at=NOW + 0.5)], False),
        ([Rider(2, "a", None, expected_at=NOW - 0.5)], False),
        ([Rider(2, "a", None, expected_at=None)], False),
    ],
    ids=["alone", "about to come", "of another group", "slow", "silent", "without room"],
)
def test_a_call_is_held_only_for_who_is_about_to_come(others: list[Rider], waits: bool) -> None:
    first = Rider(1, "a", NOW)
    choice = choose([first, *others], NOW, 0.002, 8)
    assert choice == (Pause(NOW + 0.002) if waits else Call((1,)))
    assert choose([first, *others], NOW, 0.0, 8) == Call((1,))
    assert choose([first, *others], NOW + 0.002, 0.002, 8) == Call((1,))


def test_a_full_call_is_not_held() -> None:
    crowd = [Rider(lane, "a", NOW) for lane in range(4)] + [Rider(9, "a", None, expected_at=NOW)]
    assert isinstance(choose(crowd, NOW, 0.01, 4), Call)


def test_while_one_group_gathers_another_is_served() -> None:
    gathering = [Rider(1, "a", NOW - 0.001, 0.01), Rider(2, "a", None, expected_at=NOW)]
    assert choose([*gathering, Rider(3, "b", NOW, 0.5)], NOW, 0.01, 8) == Call((3,))


@pytest.mark.parametrize(
    ("trial", "alone", "may"),
    [
        (Trial(any_under_way=False, alone_under_way=False, alone_waits=False), False, True),
        (Trial(any_under_way=True, alone_under_way=False, alone_waits=False), False, True),
        (Trial(any_under_way=True, alone_under_way=True, alone_waits=False), False, False),
        (Trial(any_under_way=False, alone_under_way=False, alone_waits=True), False, False),
        (Trial(any_under_way=False, alone_under_way=False, alone_waits=True), True, True),
        (Trial(any_under_way=True, alone_under_way=False, alone_waits=True), True, False),
    ],
)
def test_untried_work_of_a_suspect_is_done_while_no_other_is(trial: Trial, alone: bool, may: bool) -> None:
    assert may_try(trial, alone) == may


def test_the_expected_interval_follows_the_pictures_within_limits() -> None:
    assert next_interval(None, 0.04) == 0.04
    assert next_interval(None, 0.0) == SHORTEST_INTERVAL
    assert next_interval(None, 9.0) == LONGEST_INTERVAL
    interval = 0.04
    for _ in range(40):
        interval = next_interval(interval, 0.02)
    assert abs(interval - 0.02) < 0.001
