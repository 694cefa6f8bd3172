"""The service over fakes: records, and what survives what."""

import asyncio
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from sdstream.clock import ManualClock
from sdstream.errors import InvalidParams, ShuttingDown, StreamNotFound
from sdstream.streams.views import StreamState
from sdstream.worker.ports import WorkerPhase
from tests.streams.conftest import CREATE, Scene, SceneMaker
from tests.streams.fakes import OFFER, FakeWorker

NAME = re.compile(r"(str|stk|pb)_[A-Za-z0-9_-]{22,}")


async def test_a_new_stream_is_offline_and_found(scene: Scene) -> None:
    record = await scene.create()
    assert scene.service.get(record.id) == record
    status = scene.service.status(record.id)
    assert (status.state, status.publisher_accepted) == (StreamState.OFFLINE, False)


async def test_names_are_long_and_url_safe(scene: Scene) -> None:
    record = await scene.create()
    for name in (record.id, record.stream_key, record.output_playback_id):
        assert NAME.fullmatch(name)


async def test_a_refused_create_leaves_nothing(scene: Scene) -> None:
    with pytest.raises(InvalidParams):
        await scene.create(width=100)
    assert scene.service.list_streams(None) == []


async def test_a_list_holds_one_authors_streams_newest_first(scene: Scene) -> None:
    first = (await scene.service.create(CREATE, "ann")).record
    scene.clock.advance(1)
    second = (await scene.service.create(CREATE, "ann")).record
    await scene.service.create(CREATE, "bob")
    assert scene.service.list_streams("ann") == [second, first]
    assert len(scene.service.list_streams(None)) == 3


@pytest.mark.parametrize("method", ["get", "status", "events"])
async def test_a_view_of_an_unknown_stream_is_refused(scene: Scene, method: str) -> None:
    with pytest.raises(StreamNotFound):
        getattr(scene.service, method)("str_unknown")


@pytest.mark.parametrize(
    ("method", "arguments"),
    [("update", ({},)), ("delete", ()), ("publish", (OFFER,)), ("watch", (OFFER,)), ("snapshot", ())],
)
async def test_a_change_of_an_unknown_stream_is_refused(
    scene: Scene, method: str, arguments: tuple[object, ...]
) -> None:
    with pytest.raises(StreamNotFound):
        await getattr(scene.service, method)("unknown", *arguments)


async def test_a_deleted_stream_is_gone_with_its_sessions(scene: Scene) -> None:
    record = await scene.create_live()
    await scene.watch(record)
    media, lane = scene.media_of(record), scene.lane_of(record)
    await scene.service.delete(record.id)
    assert media.closed
    assert lane.closed
    with pytest.raises(StreamNotFound):
        scene.service.get(record.id)
    with pytest.raises(StreamNotFound):
        await scene.service.publish(record.stream_key, OFFER)
    with pytest.raises(StreamNotFound):
        await scene.service.delete(record.id)


async def test_of_two_deletes_at_once_one_wins(scene: Scene) -> None:
    record = await scene.create_live()
    outcomes = await asyncio.gather(
        scene.service.delete(record.id), scene.service.delete(record.id), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == ["NoneType", "StreamNotFound"]


async def test_an_update_that_meets_a_delete_brings_nothing_back(scene: Scene) -> None:
    record = await scene.create()
    deletion = asyncio.create_task(scene.service.delete(record.id))
    await asyncio.sleep(0)  # the deletion is on its way to the disk
    results = await asyncio.gather(
        deletion, scene.service.update(record.id, {"params": {"seed": 3}}), return_exceptions=True
    )
    assert results[0] is None
    assert isinstance(results[1], StreamNotFound)
    assert scene.service.list_streams(None) == []


async def test_after_close_new_work_is_refused(scene: Scene) -> None:
    record = await scene.create_live()
    media = scene.media_of(record)
    await scene.service.close()
    assert media.closed
    assert not scene.media.running
    assert not scene.worker.running
    for work in (
        scene.create(),
        scene.service.update(record.id, {}),
        scene.service.publish(record.stream_key, OFFER),
        scene.service.watch(record.output_playback_id, OFFER),
        scene.service.delete(record.id),
    ):
        with pytest.raises(ShuttingDown):
            await work
    assert "shutting down" in scene.service.capacity().reason


async def test_a_restart_gives_back_the_same_streams(make_scene: SceneMaker) -> None:
    before = await make_scene()
    record = await before.create_live(prompt="kept", seed=[[1, 0.5], [2, 0.5]])
    outcome = await before.service.update(record.id, {"params": {"delta": 0.4}})
    gone = await before.create()
    await before.service.delete(gone.id)
    await before.service.close()
    after = await make_scene()
    assert after.service.list_streams(None) == [outcome.record]
    await after.publish(after.service.get(record.id))
    assert after.lane_of(record).params == outcome.record.params


async def test_a_restart_leaves_out_what_it_cannot_read_and_keeps_the_row(
    make_scene: SceneMaker, tmp_path: Path
) -> None:
    before = await make_scene()
    good, bad = await before.create(), await before.create()
    await before.service.close()
    with closing(sqlite3.connect(tmp_path / "state.sqlite")) as database, database:
        database.execute("UPDATE streams SET params = '[]' WHERE id = ?", (bad.id,))
    after = await make_scene()
    assert after.service.list_streams(None) == [good]
    await after.service.close()
    with closing(sqlite3.connect(tmp_path / "state.sqlite")) as database:
        assert database.execute("SELECT count(*) FROM streams").fetchone() == (2,)


async def test_a_cold_worker_says_so_and_is_not_accepting_once_it_gave_up(make_scene: SceneMaker) -> None:
    clock = ManualClock()
    scene = await make_scene(clock=clock, worker=FakeWorker(clock, phase=WorkerPhase.FAILED))
    capacity = scene.service.capacity()
    assert not capacity.accepting
    assert "worker" in capacity.reason
    record = await scene.create_live()
    assert scene.service.status(record.id).state is StreamState.ERROR


async def test_the_statistics_of_deleted_streams_stay(scene: Scene) -> None:
    record = await scene.create_live()
    await scene.flow(record, 2)
    before = scene.service.statistics()
    assert (before.frames_in, before.frames_out, before.publishers) == (60, 60, 1)
    assert before.states["ONLINE"] == 1
    await scene.service.delete(record.id)
    after = scene.service.statistics()
    assert (after.frames_in, after.frames_out, after.publishers) == (60, 60, 0)
    assert after.latencies == before.latencies
