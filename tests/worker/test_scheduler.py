"""The scheduler: fair turns, newest first, params before pictures."""

import threading

from hypothesis import given
from hypothesis import strategies as st

from sdstream.clock import ManualClock
from sdstream.frames import PictureSize
from sdstream.worker.messages import PictureIn
from sdstream.worker.ring import FrameRing, memory_prefix
from sdstream.worker.scheduling.scheduler import Scheduler
from sdstream.worker.scheduling.turns import Batch, Leave, Prepare, Swap, WaitingPicture, WantedParams

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
    for lane in lanes:
        scheduler.take()
        scheduler.settle(lane, None, in_force=False)
    return scheduler


def taken(scheduler: Scheduler) -> list[tuple[int, int]]:
    """All turns until there is nothing to do: lane and sequence."""
    turns: list[tuple[int, int]] = []
    while (turn := scheduler.take()) is not None:
        assert isinstance(turn, Batch)
        turns += [(lane, picture.message.sequence) for lane, picture in turn.pictures.items()]
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
    assert scheduler.take() == Prepare(1, WantedParams("params 4", 4), 2)
    assert taken(scheduler) == [(1, 1)]


def test_a_lane_takes_further_params_only_when_those_before_are_settled() -> None:
    scheduler = open_lanes(1)
    scheduler.update(1, WantedParams("second", 2))
    assert scheduler.take() == Prepare(1, WantedParams("second", 2), 2)
    scheduler.update(1, WantedParams("third", 3))
    assert scheduler.take() is None
    scheduler.settle(1, None, in_force=True)
    assert scheduler.take() == Prepare(1, WantedParams("third", 3), 3)


def test_newer_params_do_not_wait_for_a_load_and_what_it_makes_is_not_taken() -> None:
    scheduler = open_lanes(1)
    scheduler.update(1, WantedParams("second", 2))
    scheduler.take()
    scheduler.load(1, 2)
    scheduler.update(1, WantedParams("third", 3))
    assert scheduler.take() == Prepare(1, WantedParams("third", 3), 3)
    assert not scheduler.offer(1, 2, "second")
    assert scheduler.offer(1, 3, "third")
    assert scheduler.take() == Swap(1, "third", 3)


def test_what_was_prepared_comes_before_pictures_and_only_to_lanes_that_are_open() -> None:
    scheduler = open_lanes(1, 2)
    scheduler.put(1, picture(1))
    scheduler.close(2)
    assert not scheduler.offer(2, 1, "late")
    assert scheduler.offer(1, 1, "made")
    assert [scheduler.take(), scheduler.take()] == [Leave(2), Swap(1, "made", 1)]
    assert taken(scheduler) == [(1, 1)]


def test_pictures_of_a_lane_with_nothing_in_force_wait() -> None:
    scheduler = Scheduler(ManualClock())
    scheduler.open(1, WantedParams("", 1))
    first, second = picture(1), picture(2)
    scheduler.put(1, first)
    assert isinstance(scheduler.take(), Prepare)
    assert scheduler.take() is None
    assert scheduler.put(1, second) is first
    scheduler.settle(1, None, in_force=True)
    assert taken(scheduler) == [(1, 2)]
    scheduler.put(1, picture(3))
    scheduler.hold(1, preparing=False)
    assert scheduler.take() is None


def test_lanes_of_a_group_ride_together_and_no_more_than_are_allowed() -> None:
    scheduler = Scheduler(ManualClock(), most=2)
    for lane in (1, 2, 3):
        scheduler.open(lane, WantedParams("", 1))
        scheduler.take()
        scheduler.settle(lane, "group", in_force=True)
        scheduler.put(lane, picture(lane))
    calls = [scheduler.take(), scheduler.take()]
    assert [list(call.pictures) for call in calls if isinstance(call, Batch)] == [[1, 2], [3]]


def test_a_suspected_lane_is_tried_while_nothing_else_is() -> None:
    scheduler = open_lanes(1, 2)
    scheduler.open(3, WantedParams("suspected", 1), alone=True)
    scheduler.update(1, WantedParams("new", 2))
    assert scheduler.take() == Prepare(3, WantedParams("suspected", 1), 1)
    assert scheduler.take() is None, "other params wait"
    scheduler.put(2, picture(2))
    assert taken(scheduler) == [(2, 2)], "what was tried before goes on"
    scheduler.settle(3, None, in_force=True)
    scheduler.put(3, picture(5))
    assert taken(scheduler) == [(3, 5)]
    assert scheduler.take() is None, "its first picture is being made"
    scheduler.prove(3)
    assert scheduler.take() == Prepare(1, WantedParams("new", 2), 2)


def test_a_suspected_lane_waits_for_its_own_load_no_more_than_others_do() -> None:
    scheduler = open_lanes(1)
    scheduler.open(2, WantedParams("suspected", 1), alone=True)
    assert scheduler.take() == Prepare(2, WantedParams("suspected", 1), 1)
    scheduler.load(2, 1)
    scheduler.update(1, WantedParams("new", 2))
    assert scheduler.take() is None, "others wait while it is tried"
    scheduler.update(2, WantedParams("newer", 2))
    assert scheduler.take() == Prepare(2, WantedParams("newer", 2), 2)


def test_a_lane_is_free_of_suspicion_with_its_first_picture() -> None:
    scheduler = Scheduler(ManualClock())
    for lane in (1, 2):
        scheduler.open(lane, WantedParams("", 1), alone=True)
    for lane in (1, 2):
        assert isinstance(scheduler.take(), Prepare)
        assert scheduler.take() is None, "one suspect at a time"
        scheduler.settle(lane, "group", in_force=True)
    for lane in (1, 2):
        scheduler.put(lane, picture(lane))
    assert [list(call.pictures) for call in [scheduler.take()] if isinstance(call, Batch)] == [[1]]
    assert scheduler.take() is None
    scheduler.prove(1)
    assert taken(scheduler) == [(2, 2)]
    scheduler.prove(2)
    for lane in (1, 2):
        scheduler.put(lane, picture(lane))
    call = scheduler.take()
    assert isinstance(call, Batch)
    assert set(call.pictures) == {1, 2}


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
    assert scheduler.take() == Prepare(1, WantedParams("new", 2), 2)


def test_a_picture_of_an_unknown_lane_comes_back() -> None:
    scheduler = open_lanes(1)
    scheduler.close(1)
    lost = picture(1)
    assert scheduler.put(1, lost) is lost
    assert scheduler.take() == Leave(1)
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
    waiting.join(30)
    assert not waiting.is_alive()


def test_an_arrival_ends_the_wait() -> None:
    scheduler = open_lanes(1)
    waiting = threading.Thread(target=scheduler.wait)
    waiting.start()
    scheduler.put(1, picture(1))
    waiting.join(30)
    assert not waiting.is_alive()


def test_a_wait_ends_when_the_gathering_does() -> None:
    clock = ManualClock()
    scheduler = Scheduler(clock, window=0.05)
    for lane in (1, 2):
        scheduler.open(lane, WantedParams("", 1))
        scheduler.take()
        scheduler.settle(lane, "group", in_force=False)
    for _ in range(2):  # both come every fifth of a second
        for lane in (1, 2):
            scheduler.put(lane, picture(lane))
        while scheduler.take() is not None:
            pass
        clock.advance(0.2)
    scheduler.put(1, picture(3))
    assert scheduler.take() is None, "the other lane is due just now"
    clock.advance(0.05)
    scheduler.wait()
    assert taken(scheduler) == [(1, 3)]
