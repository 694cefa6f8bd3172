"""The event log and those who follow it."""

import asyncio
import gc

import pytest

from sdstream.clock import ManualClock
from sdstream.errors import CapacityReached
from sdstream.streams.events import KEPT_EVENTS, MOST_FOLLOWERS, EventLog


def make_log() -> EventLog:
    return EventLog("str_a", ManualClock())


def emit(log: EventLog, count: int) -> None:
    for number in range(count):
        log.emit("viewers", {"count": number})


async def test_a_subscriber_sees_what_happens_from_now_on() -> None:
    log = make_log()
    emit(log, 3)
    subscription = log.subscribe()
    emit(log, 2)
    log.close()
    assert [event.sequence async for event in subscription] == [4, 5]


async def test_a_waiting_subscriber_is_woken() -> None:
    log = make_log()
    waiting = asyncio.ensure_future(anext(log.subscribe()))
    await asyncio.sleep(0)
    assert not waiting.done()
    emit(log, 1)
    assert (await asyncio.wait_for(waiting, 30)).name == "viewers"


async def test_a_waiting_subscriber_ends_with_the_log() -> None:
    log = make_log()
    waiting = asyncio.ensure_future(anext(log.subscribe()))
    await asyncio.sleep(0)
    log.close()
    with pytest.raises(StopAsyncIteration):
        await asyncio.wait_for(waiting, 30)


async def test_a_reader_that_comes_back_gets_what_it_missed() -> None:
    log = make_log()
    emit(log, 10)
    subscription = log.subscribe(after=7)
    log.close()
    assert [event.sequence async for event in subscription] == [8, 9, 10]
    assert subscription.missed == 0


async def test_a_reader_from_before_a_restart_gets_all_that_is_kept() -> None:
    log = make_log()
    emit(log, 2)
    subscription = log.subscribe(after=5000)
    log.close()
    assert [event.sequence async for event in subscription] == [1, 2]


async def test_a_slow_reader_loses_the_oldest_and_the_gap_is_counted() -> None:
    log = make_log()
    subscription = log.subscribe()
    emit(log, KEPT_EVENTS + 44)
    log.close()
    sequences = [event.sequence async for event in subscription]
    assert sequences == list(range(45, KEPT_EVENTS + 45))
    assert subscription.missed == 44


async def test_a_reader_that_left_is_forgotten() -> None:
    log = make_log()
    subscription = log.subscribe()
    await subscription.aclose()
    assert not log._subscriptions


async def test_nothing_is_said_after_the_end() -> None:
    log = make_log()
    log.close()
    emit(log, 1)
    assert [event async for event in log.subscribe(after=0)] == []


async def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        make_log().emit("nonsense", {})


async def test_a_follower_who_is_dropped_before_the_first_event_leaves_its_place() -> None:
    log = make_log()
    for _ in range(3 * MOST_FOLLOWERS):
        log.subscribe()
    gc.collect()
    assert len(log._subscriptions) == 0


async def test_followers_are_limited_and_a_place_that_is_left_is_taken_again() -> None:
    log = make_log()
    followers = [log.subscribe() for _ in range(MOST_FOLLOWERS)]
    with pytest.raises(CapacityReached, match="50 event streams"):
        log.subscribe()
    await followers[0].aclose()
    assert log.subscribe() is not None
