"""How many streams there may be, and which of them take a place."""

import asyncio

import pytest

from sdstream.errors import CapacityReached
from tests.streams.conftest import Scene, SceneMaker


async def test_capacity_is_refused_with_the_number(make_scene: SceneMaker) -> None:
    scene = await make_scene(max_streams=2)
    await scene.create()
    await scene.create()
    with pytest.raises(CapacityReached, match="takes 2"):
        await scene.create()
    capacity = scene.service.capacity()
    assert (capacity.streams, capacity.accepting) == (2, False)
    assert "takes 2" in capacity.reason


async def test_unused_streams_do_not_take_a_place_for_ever(make_scene: SceneMaker) -> None:
    scene = await make_scene(max_streams=1)
    await scene.create()
    scene.clock.advance(61)
    await scene.create()
    assert len(scene.service.list_streams(None)) == 2


async def test_a_deleted_stream_gives_its_place_back_at_once(make_scene: SceneMaker) -> None:
    scene = await make_scene(max_streams=1)
    record = await scene.create_live()
    await scene.service.delete(record.id)
    await scene.create()


async def test_a_publishing_stream_keeps_its_place(make_scene: SceneMaker) -> None:
    scene = await make_scene(max_streams=1)
    record = await scene.create_live()
    await scene.flow(record, 70, fps=2)
    with pytest.raises(CapacityReached):
        await scene.create()


async def test_an_old_stream_comes_back_only_when_there_is_a_place(make_scene: SceneMaker) -> None:
    scene = await make_scene(max_streams=1)
    old = await scene.create()
    scene.clock.advance(61)
    new = await scene.create()
    with pytest.raises(CapacityReached):
        await scene.publish(old)
    await scene.service.delete(new.id)
    await scene.publish(old)


async def test_creating_at_once_does_not_pass_the_limit(make_scene: SceneMaker) -> None:
    scene = await make_scene(max_streams=3)
    results = await asyncio.gather(*(scene.create() for _ in range(8)), return_exceptions=True)
    assert sum(isinstance(result, CapacityReached) for result in results) == 5
    assert len(scene.service.list_streams(None)) == 3


async def test_a_full_store_refuses_new_streams_but_not_publishers_of_those_it_has(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sdstream.streams.directory.MAX_RECORDS", 2)
    first = await scene.create()
    await scene.create()
    with pytest.raises(CapacityReached, match="on record"):
        await scene.create()
    assert not scene.service.capacity().accepting
    await scene.wait(120, step=10)
    await scene.publish(first)
    assert scene.service.capacity().publishing == 1
