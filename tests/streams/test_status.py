"""What a stream's status, snapshot and events tell of its pictures."""

import io

import pytest
from PIL import Image

from sdstream.errors import NoPictureYet, StreamNotFound
from sdstream.media.ports import MediaStatistics
from sdstream.streams.views import StreamState
from sdstream.worker.ports import LanePhase
from tests.streams.conftest import Scene, SceneMaker


async def test_the_state_is_that_of_the_status_and_unknown_for_a_stream_that_is_not_there(scene: Scene) -> None:
    record = await scene.create_live()
    await scene.flow(record, 3)
    assert scene.service.state(record.id) is scene.service.status(record.id).state is StreamState.ONLINE
    await scene.service.delete(record.id)
    with pytest.raises(StreamNotFound):
        scene.service.state(record.id)


async def test_pictures_above_the_frame_rate_are_dropped_and_counted(make_scene: SceneMaker) -> None:
    scene = await make_scene(max_frame_rate=20)
    record = await scene.create_live()
    await scene.flow(record, 4, fps=60)
    status = scene.service.status(record.id)
    assert status.output_fps == pytest.approx(20, abs=1)
    assert status.drops["over_frame_rate"] == pytest.approx(160, abs=5)
    assert status.state is StreamState.ONLINE


async def test_a_status_has_rates_and_latencies(scene: Scene) -> None:
    record = await scene.create_live()
    await scene.flow(record, 4)
    status = scene.service.status(record.id)
    assert status.input_fps == pytest.approx(30, abs=0.6)
    assert status.output_fps == pytest.approx(30, abs=0.6)
    assert status.latencies["worker"].p50 == pytest.approx(0.004)


async def test_drops_are_counted_anew_for_a_new_publisher(scene: Scene) -> None:
    record = await scene.create_live()
    scene.media_of(record).facts = MediaStatistics(drops={"encoder_busy": 7})
    assert scene.service.status(record.id).drops == {"encoder_busy": 7}
    await scene.publish(record)
    assert scene.service.status(record.id).drops == {}


async def test_a_snapshot_is_a_jpeg_of_the_newest_picture(scene: Scene) -> None:
    record = await scene.create_live()
    with pytest.raises(NoPictureYet):
        await scene.service.snapshot(record.id)
    await scene.flow(record, 0.1)
    with Image.open(io.BytesIO(await scene.service.snapshot(record.id))) as image:
        assert (image.format, image.size) == ("JPEG", (64, 64))


async def test_events_tell_the_story_in_order(scene: Scene) -> None:
    record = await scene.create()
    events = scene.service.events(record.id)
    await scene.publish(record)
    await scene.watch(record)
    await scene.flow(record, 3)
    outcome = await scene.service.update(record.id, {"params": {"prompt": "x"}})
    scene.lane_of(record).report(LanePhase.READY, effective_sequence=95)
    await scene.service.delete(record.id)
    story = [event async for event in events]
    assert [event.sequence for event in story] == list(range(1, len(story) + 1))
    assert {event.name for event in story} >= {"publisher", "state", "viewers", "updated", "effective", "deleted"}
    assert story[-1].name == "deleted"
    effective = next(event for event in story if event.name == "effective")
    assert effective.data == {"revision": outcome.record.revision, "effective_frame": 95}
    assert ("OFFLINE", "LOADING") in [(e.data["previous"], e.data["state"]) for e in story if e.name == "state"]


async def test_a_status_tells_how_much_later_than_they_came_pictures_leave(scene: Scene) -> None:
    record = await scene.create_live(t_index_list=[10, 20, 30])
    assert scene.service.status(record.id).pictures_late == 2
    await scene.service.update(record.id, {"params": {"t_index_list": [20]}})
    assert scene.service.status(record.id).pictures_late == 0


async def test_a_status_tells_what_is_left_of_a_load(scene: Scene) -> None:
    record = await scene.create_live()
    lane = scene.lane_of(record)
    lane.report(LanePhase.LOADING, detail="downloading a/b", percent=20.0)
    assert scene.service.status(record.id).load_seconds_left is None
    scene.clock.advance(10)
    lane.report(LanePhase.LOADING, detail="downloading a/b", percent=60.0)
    assert scene.service.status(record.id).load_seconds_left == pytest.approx(10.0)
    lane.report(LanePhase.READY)
    assert scene.service.status(record.id).load_seconds_left is None
