"""Pictures that leave too old: when that is told, once, and of which stage."""

from typing import Any

import pytest
from structlog.testing import capture_logs

from sdstream.media.ports import MediaStatistics
from sdstream.streams.lateness import AgeLimits, Lateness, age_of, judge_age, slowest_stage
from sdstream.streams.views import LatencySummary, StreamRecord
from tests.streams.conftest import Scene
from tests.streams.fakes import picture

LIMITS = AgeLimits(late=0.5, timely=0.4, patience=3.0)


def both(seconds: float) -> LatencySummary:
    return LatencySummary(seconds, 2 * seconds)


def judged(*ages: float | None, before: Lateness = Lateness()) -> list[bool]:
    """Whether lateness is told after each of these ages, one a second."""
    told: list[bool] = []
    for second, age in enumerate(ages):
        before = judge_age(before, age, float(second), LIMITS)
        told.append(before.told)
    return told


def test_an_age_above_the_limit_is_told_once_it_has_lasted() -> None:
    assert judged(0.51, 0.9, 0.6, 0.51) == [False, False, False, True]


def test_an_age_at_the_limit_is_not_late() -> None:
    assert judged(*[0.5] * 10) == [False] * 10


def test_a_moment_within_the_limit_begins_the_patience_anew() -> None:
    assert judged(0.6, 0.6, 0.45, 0.6, 0.6, 0.6, 0.6) == [False] * 6 + [True]


def test_what_was_told_stays_until_the_age_is_well_below_the_limit() -> None:
    assert judged(0.45, 0.55, 0.4, 0.39, 0.45, before=Lateness(0.0, told=True)) == [True, True, True, False, False]


def test_seconds_without_a_picture_change_nothing() -> None:
    assert judged(0.6, None, None, 0.6) == [False, False, False, True]
    assert judged(None, None, before=Lateness(0.0, told=True)) == [True, True]


def test_the_age_counts_from_the_last_packet_on() -> None:
    assert age_of({"receive": both(0.2), "total": both(0.4), "queue": both(0.3)}) == pytest.approx(0.6)
    assert age_of({"total": both(0.4)}) == 0.4
    assert age_of({"receive": both(0.2)}) is None


@pytest.mark.parametrize(
    ("medians", "stage"),
    [
        ({"receive": 0.9, "queue": 0.1, "worker": 0.1}, "receive"),
        ({"queue": 0.9, "wait": 0.1, "worker": 0.5}, "hand_over"),
        ({"queue": 0.9, "wait": 0.8, "worker": 0.5}, "wait"),
        ({"queue": 0.1, "wait": 0.1, "worker": 0.5, "total": 0.6}, "worker"),
        ({"encode": 0.6, "worker": 0.5}, "encode"),
        ({"send": 0.7, "encode": 0.6}, "send"),
    ],
)
def test_the_stage_that_takes_most_is_named(medians: dict[str, float], stage: str) -> None:
    found, seconds = slowest_stage({hop: both(value) for hop, value in medians.items()})
    assert found.name == stage
    assert seconds > 0.4


async def flow_late(scene: Scene, record: StreamRecord, seconds: float, age: float) -> None:
    """Pictures one after the other, each as old as `age` seconds when it leaves: all of that is the worker's time."""
    for _ in range(round(seconds / age)):
        scene.media_of(record).listener.on_video(picture(scene.clock, scene.frames))
        scene.frames += 1
        scene.clock.advance(age)
        scene.lane_of(record).give_back(worker_seconds=age)
        await scene.service.tick()


def warnings_of(scene: Scene, record: StreamRecord) -> tuple[str, ...]:
    return scene.service.status(record.id).media.warnings


async def told_of(scene: Scene, record: StreamRecord) -> list[dict[str, Any]]:
    """All `late` events of a stream, which is deleted for that."""
    events = scene.service.events(record.id, after=0)
    await scene.service.delete(record.id)
    return [dict(event.data) async for event in events if event.name == "late"]


async def test_a_slow_model_is_told_once_however_long_it_goes_on(scene: Scene) -> None:
    record = await scene.create_live()
    with capture_logs() as logs:
        await flow_late(scene, record, 60, 1.0)
    (warning,) = warnings_of(scene, record)
    assert "1000 ms" in warning
    assert "t_index_list" in warning
    assert len([line for line in logs if line["event"] == "stream lateness"]) == 1
    (event,) = await told_of(scene, record)
    assert event == {"late": True, "age_ms": 1000, "stage": "worker", "message": warning}


async def test_pictures_that_become_quick_again_are_told_too(scene: Scene) -> None:
    record = await scene.create_live()
    await flow_late(scene, record, 20, 1.0)
    await flow_late(scene, record, 20, 0.1)
    assert warnings_of(scene, record) == ()
    began, ended = await told_of(scene, record)
    assert began["late"] is True
    assert (ended["late"], ended["stage"], ended["message"]) == (False, "", "")
    assert ended["age_ms"] < 400


async def test_a_publisher_that_left_leaves_no_warning(scene: Scene) -> None:
    record = await scene.create_live()
    await flow_late(scene, record, 20, 1.0)
    assert warnings_of(scene, record)
    scene.media_of(record).lose_publisher()
    await scene.wait(0.2)
    assert warnings_of(scene, record) == ()
    assert [event["late"] for event in await told_of(scene, record)] == [True, False]


async def test_quick_pictures_are_not_told(scene: Scene) -> None:
    record = await scene.create_live()
    await flow_late(scene, record, 20, 0.1)
    assert warnings_of(scene, record) == ()
    assert await told_of(scene, record) == []


async def test_the_warnings_of_the_media_stay_beside_it(scene: Scene) -> None:
    record = await scene.create_live()
    media = scene.media_of(record)
    media.facts = MediaStatistics(warnings=("The publisher sends B-frames.",))
    await flow_late(scene, record, 20, 1.0)
    first, second = warnings_of(scene, record)
    assert first == "The publisher sends B-frames."
    assert "1000 ms" in second
