"""The ticker goes on, whatever one stream, the worker's handle or a whole tick raises."""

import asyncio
from pathlib import Path

import pytest
import structlog.testing

from sdstream.clock import ManualClock
from sdstream.params import ModelTable
from sdstream.settings import load_settings
from sdstream.streams.keeper import StreamKeeper
from sdstream.streams.service import StreamService
from sdstream.streams.stream import Stream
from tests.streams.conftest import CREATE, Scene
from tests.streams.fakes import FakeMedia, FakeWorker
from tests.support.waiting import eventually


def broken(*_: object) -> None:
    raise LookupError("a defect")


async def test_a_stream_that_cannot_be_told_of_a_restart_leaves_the_others_told(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await scene.create_live(), await scene.create_live()
    await scene.service.tick()
    told = Stream.note_worker

    def note(stream: Stream, *facts: object) -> None:
        if stream.saved.id == first.id:
            broken()
        told(stream, *facts)  # type: ignore[arg-type]

    monkeypatch.setattr(Stream, "note_worker", note)
    scene.worker.die()
    scene.worker.revive()
    await scene.service.tick()
    assert scene.service.status(second.id).restart_count == 1
    assert scene.service.faults() == 1


async def test_a_broken_handle_of_the_worker_stops_no_duties(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    record = await scene.create_live()
    scene.media_of(record).lose_publisher()
    health = scene.worker.health
    monkeypatch.setattr(scene.worker, "health", broken)
    with structlog.testing.capture_logs() as lines:
        await scene.wait(120, step=10)
    assert scene.lane_of(record).closed
    assert {line["what"] for line in lines if line["event"] == "stream keeper fault"} >= {"worker"}
    monkeypatch.setattr(scene.worker, "health", health)
    assert scene.service.faults() >= 12


async def test_a_stream_whose_duty_cannot_be_decided_leaves_the_others_theirs(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = await scene.create_live(), await scene.create_live()
    usage = Stream.usage
    monkeypatch.setattr(Stream, "usage", lambda self: broken() if self.saved.id == first.id else usage(self))
    scene.media_of(second).lose_publisher()
    await scene.wait(120, step=10)
    assert scene.lane_of(second).closed
    assert not scene.lane_of(first).closed


async def test_the_ticker_outlives_a_tick_that_raises(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ManualClock()
    settings = load_settings({}, {})
    service = StreamService(
        settings,
        media=FakeMedia(),
        worker=FakeWorker(clock),
        models=ModelTable.from_settings(settings),
        data_dir=tmp_path,
        clock=clock,
        tick_seconds=0.01,
    )
    tick = StreamKeeper.tick
    ticks = 0

    async def sometimes(self: StreamKeeper) -> None:
        nonlocal ticks
        ticks += 1
        if ticks == 2:
            broken()
        await tick(self)

    monkeypatch.setattr(StreamKeeper, "tick", sometimes)
    await service.start()
    await service.create(CREATE, "author")
    await eventually(lambda: ticks > 4, what="further ticks")
    assert service.faults() == 1
    async with asyncio.timeout(30):
        await service.close()


async def test_a_duty_that_fails_is_tried_again(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    record = await scene.create_live()
    scene.media_of(record).lose_publisher()
    with monkeypatch.context() as defect:
        defect.setattr(Stream, "close_lane", broken)
        defect.setattr(Stream, "close_live", broken)
        await scene.wait(90, step=1)
        assert not scene.lane_of(record).closed
    assert scene.service.faults() > 0
    await scene.wait(1)
    assert scene.lane_of(record).closed
