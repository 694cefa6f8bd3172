"""Requests for one stream that come while another is under way."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sdstream.errors import Unavailable
from sdstream.frames import PictureSize
from sdstream.media.ports import MediaListener, SessionAnswer
from sdstream.metrics import ServerStatistics
from tests.streams.conftest import Scene, SceneMaker
from tests.streams.fakes import OFFER, FakeMediaStream
from tests.support.waiting import eventually

ONE, OTHER = "rtmp://one.example/app/key", "rtmp://other.example/app/key"


async def test_of_two_deliveries_at_once_the_later_one_stays(make_scene: SceneMaker, tmp_path: Path) -> None:
    scene = await make_scene()
    record = await scene.create_live()
    update = scene.service.update
    await asyncio.gather(
        update(record.id, {"params": {"prompt": "rain"}, "output_rtmp_url": ONE}),
        update(record.id, {"output_rtmp_url": OTHER}),
    )
    assert scene.media_of(record).pushes == (OTHER,)
    shown = scene.service.get(record.id)
    assert (shown.params.prompt, shown.delivery.output_rtmp_url) == ("rain", OTHER)
    await update(record.id, {"params": {"prompt": "snow"}})
    assert scene.service.get(record.id).delivery.output_rtmp_url == OTHER
    await scene.service.close()
    again = await make_scene()
    assert again.service.get(record.id).delivery.output_rtmp_url == OTHER


async def test_an_update_that_the_disk_refuses_undoes_no_delivery_beside_it(scene: Scene) -> None:
    record = await scene.create_live()
    store: Any = scene.service._store
    update, refused = store.update, asyncio.Event()
    deliver = store.deliver

    async def refuse(*given: Any) -> bool:
        refused.set()
        raise Unavailable("The stream cannot be stored.")

    async def deliver_later(*given: Any) -> bool:
        await refused.wait()
        await asyncio.sleep(0)
        return await deliver(*given)

    store.update, store.deliver = refuse, deliver_later
    delivering = asyncio.create_task(scene.service.update(record.id, {"output_rtmp_url": ONE}))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await scene.service.update(record.id, {"params": {"prompt": "rain"}})
    await delivering
    store.update, store.deliver = update, deliver
    outcome = await scene.service.update(record.id, {"outputs": [OTHER]})
    assert outcome.record.delivery.targets == (ONE, OTHER)
    assert outcome.record.params.prompt != "rain"


async def test_a_delivery_that_comes_while_the_publisher_is_answered_is_carried_out(scene: Scene) -> None:
    record = await scene.create()
    publish = FakeMediaStream.publish
    answering, go_on = asyncio.Event(), asyncio.Event()
    opened = scene.media.open_stream

    async def open_slowly(stream_id: str, size: PictureSize, listener: MediaListener) -> FakeMediaStream:
        stream = await opened(stream_id, size, listener)

        async def answer(offer: str) -> SessionAnswer:
            answering.set()
            await go_on.wait()
            return await publish(stream, offer)

        stream.publish = answer  # type: ignore[method-assign]
        return stream

    scene.media.open_stream = open_slowly  # type: ignore[method-assign]
    publishing = asyncio.create_task(scene.service.publish(record.stream_key, OFFER))
    await answering.wait()
    await scene.service.update(record.id, {"output_rtmp_url": ONE})
    go_on.set()
    await publishing
    assert scene.media_of(record).pushes == (ONE,)


async def test_an_update_whose_caller_goes_away_comes_into_force(scene: Scene) -> None:
    record = await scene.create_live(prompt="sun")
    updating = asyncio.create_task(scene.service.update(record.id, {"params": {"prompt": "rain"}}))
    await asyncio.sleep(0)  # what is to be stored is on its way to the disk
    updating.cancel()
    await asyncio.gather(updating, return_exceptions=True)
    await eventually(lambda: scene.service.get(record.id).params.prompt == "rain", what="the update")
    await eventually(lambda: scene.lane_of(record).params.prompt == "rain", what="the update of the lane")


async def test_counters_do_not_fall_while_a_stream_ends(scene: Scene) -> None:
    record = await scene.create_live()
    await scene.flow(record, 1.0)
    before = scene.service.statistics()
    seen: list[ServerStatistics] = []
    media = scene.media_of(record)
    close = media.close

    async def close_slowly() -> None:
        seen.append(scene.service.statistics())
        await close()
        await asyncio.sleep(0)

    media.close = close_slowly  # type: ignore[method-assign]
    await scene.service.delete(record.id)
    seen.append(scene.service.statistics())
    assert [each.frames_in for each in seen] == [before.frames_in] * 2
