"""The scheduler: fair turns, newest first, params before pictures."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from sdstream.clock import ManualClock
from sdstream.frames import PictureSize
from sdstream.worker.messages import PictureIn
from sdstream.worker.ring import FrameRing, memory_prefix
from sdstream.worker.scheduler import Scheduler, WaitingPicture, WantedParams

SIZE = PictureSize(2, 2)


def picture(sequence: int, keep: bool = False) -> WaitingPicture:
    ring = FrameRing.create(f"{memory_prefix()}test-", 1, SIZE.byte_count)
    ring.unlink()
    message = PictureIn(1, 1, 0, 2, 2, sequence, 0.0, 0.0, False, False, keep, 0, [])
    return WaitingPicture(message, ring)


def open_lanes(*lanes: int) -> Scheduler:
    """A scheduler with lanes whose first params have been taken."""
    scheduler = Scheduler(ManualClock())
    for lane in lanes:
        scheduler.open(lane, WantedParams("", 1))
    for _ in lanes:
        scheduler.take()
    return scheduler


def taken(scheduler: Scheduler) -> list[tuple[int, int]]:
    """All turns until there is nothing to do: lane and sequence."""
    turns: list[tuple[int, int]] = []
    while (turn := scheduler.take()) is not None:
        assert turn.picture is not None
        turns.append((turn.lane, turn.picture.message.sequence))
    return turns


def test_the_newest_picture_replaces_one_that_waits_and_hands_it_back() -> None:
    scheduler = open_lanes(1)
    first, second = picture(1), picture(2)
    assert scheduler.put(1, first) is None
    assert scheduler.put(1, second) is first
    assert taken(scheduler) == [(1, 2)]


def test_pictures_to_keep_come_first_in_order_and_are_never_replaced() -> None:
    scheduler = open_lanes(1)
    scheduler.put(1, picture(1))
    for sequence in (2, 3, 4):
        assert scheduler.put(1, picture(sequence, keep=True)) is None
    assert taken(scheduler) == [(1, 2), (1, 3), (1, 4), (1, 1)]


@given(st.lists(st.integers(0, 4), max_size=40))
def test_between_two_turns_of_a_lane_no_other_has_two(arrivals: list[int]) -> None:
    scheduler = open_lanes(0, 1, 2, 3, 4)
    for sequence, lane in enumerate(arrivals):
        scheduler.put(lane, picture(sequence, keep=True))
    served = [lane for lane, _ in taken(scheduler)]
    assert sorted(served) == sorted(arrivals)
    left = {lane: arrivals.count(lane) for lane in range(5)}
    since: dict[int, list[int]] = {lane: [] for lane in range(5)}
    for lane in served:
        for waiting, others in since.items():
            if left[waiting] and waiting != lane:
                assert lane not in others, f"lane {waiting} waited for two turns of lane {lane}"
                others.append(lane)
        since[lane] = []
        left[lane] -= 1


def test_params_come_before_pictures_and_the_newest_win() -> None:
    scheduler = open_lanes(1)
    scheduler.put(1, picture(1))
    for revision in (2, 4, 3):
        scheduler.update(1, WantedParams(f"params {revision}", revision))
    turn = scheduler.take()
    assert turn is not None
    assert (turn.params, turn.picture) == (WantedParams("params 4", 4), None)
    assert taken(scheduler) == [(1, 1)]


def test_a_lane_without_room_is_passed_over_until_it_has_some() -> None:
    scheduler = open_lanes(1, 2)
    scheduler.put(1, picture(1))
    scheduler.put(2, picture(2))
    scheduler.set_room(1, False)
    assert taken(scheduler) == [(2, 2)]
    scheduler.set_room(1, True)
    assert taken(scheduler) == [(1, 1)]


def test_a_lane_without_room_still_takes_params() -> None:
    scheduler = open_lanes(1)
    scheduler.set_room(1, False)
    scheduler.update(1, WantedParams("new", 2))
    turn = scheduler.take()
    assert turn is not None
    assert turn.params == WantedParams("new", 2)


def test_a_picture_of_an_unknown_lane_comes_back() -> None:
    scheduler = open_lanes(1)
    scheduler.close(1)
    lost = picture(1)
    assert scheduler.put(1, lost) is lost
    assert scheduler.take() is None


def test_draining_takes_everything_that_waits() -> None:
    scheduler = open_lanes(1)
    pictures = [picture(1, keep=True), picture(2)]
    for waiting in pictures:
        scheduler.put(1, waiting)
    assert scheduler.drain(1) == pictures
    assert scheduler.take() is None


def test_a_wake_before_the_wait_is_not_lost() -> None:
    scheduler = open_lanes(1)
    scheduler.wake()
    waiting = threading.Thread(target=scheduler.wait)
    waiting.start()
    waiting.join(5)
    assert not waiting.is_alive()


def test_an_arrival_ends_the_wait() -> None:
    scheduler = open_lanes(1)
    waiting = threading.Thread(target=scheduler.wait)
    waiting.start()
    scheduler.put(1, picture(1))
    waiting.join(5)
    assert not waiting.is_alive()


def test_busy_seconds_count_the_present_turn_only() -> None:
    clock = ManualClock()
    scheduler = Scheduler(clock)
    scheduler.open(1, WantedParams("", 1))
    assert scheduler.busy_seconds == 0.0
    scheduler.take()
    clock.advance(3.0)
    assert scheduler.busy_seconds == 3.0
    scheduler.take()
    assert scheduler.busy_seconds == 0.0


def test_a_turn_for_params_is_a_load_and_one_for_a_picture_is_not() -> None:
    scheduler = Scheduler(ManualClock())
    scheduler.open(1, WantedParams("", 1))
    assert not scheduler.is_loading
    scheduler.take()
    assert scheduler.is_loading
    scheduler.put(1, picture(1))
    scheduler.take()
    assert not scheduler.is_loading
