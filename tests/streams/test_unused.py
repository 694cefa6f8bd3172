"""What becomes of streams whose publisher is silent or gone, or that nobody uses."""

from sdstream.media.ports import MediaStatistics, Placard
from sdstream.streams.views import StreamState
from tests.streams.conftest import Scene, SceneMaker
from tests.streams.fakes import OFFER


async def test_a_silent_publisher_is_ended(scene: Scene) -> None:
    record = await scene.create_live()
    await scene.flow(record, 3)
    await scene.wait(59)
    assert scene.media_of(record).publisher is not None
    await scene.wait(2)
    assert scene.media_of(record).publisher is None
    assert scene.service.status(record.id).state is StreamState.OFFLINE


async def test_a_publisher_that_never_sends_is_ended(scene: Scene) -> None:
    record = await scene.create_live()
    await scene.wait(61)
    assert scene.media_of(record).publisher is None


async def test_a_publisher_that_could_not_connect_is_told_until_one_comes(scene: Scene) -> None:
    record = await scene.create()
    await scene.service.publish(record.stream_key, OFFER)
    media = scene.media_of(record)
    await scene.wait(3)
    assert "was answered and has not connected for 3 s" in scene.service.status(record.id).reason
    media.facts = MediaStatistics(publisher_problem="It did not connect.")
    media.lose_publisher()
    await scene.wait(1)
    assert scene.service.status(record.id).reason == "Nobody publishes to this stream. It did not connect."
    assert Placard("Waiting for the camera", "The last one could not connect.") in media.sent
    media.facts = MediaStatistics()
    await scene.publish(record)
    media.lose_publisher()
    assert scene.service.status(record.id).reason == "Nobody publishes to this stream."


async def test_a_publisher_may_come_back_within_the_time_and_find_its_lane(scene: Scene) -> None:
    record = await scene.create_live()
    await scene.flow(record, 1)
    lane = scene.lane_of(record)
    scene.media_of(record).lose_publisher()
    await scene.wait(50)
    await scene.publish(record)
    assert scene.lane_of(record) is lane
    assert not lane.closed


async def test_media_and_lane_are_freed_when_nobody_is_left(scene: Scene) -> None:
    record = await scene.create_live()
    scene.media_of(record).lose_publisher()
    await scene.wait(61)
    assert scene.media_of(record).closed
    assert scene.lane_of(record).closed
    assert not scene.service.status(record.id).publisher_accepted
    await scene.publish(record)
    assert not scene.media_of(record).closed
    assert not scene.lane_of(record).closed


async def test_a_viewer_keeps_its_session_when_the_lane_is_freed(scene: Scene) -> None:
    record = await scene.create_live()
    viewer = await scene.watch(record)
    scene.media_of(record).lose_publisher()
    await scene.wait(70)
    assert scene.lane_of(record).closed
    assert viewer in scene.media_of(record).watchers
    await scene.publish(record)
    await scene.flow(record, 3)
    assert viewer in scene.media_of(record).watchers
    assert scene.service.status(record.id).state is StreamState.ONLINE


async def test_an_idle_stream_is_collected(make_scene: SceneMaker) -> None:
    scene = await make_scene(idle_stream_timeout=100)
    record = await scene.create()
    await scene.wait(99, step=1)
    scene.service.get(record.id)
    await scene.wait(99, step=1)
    assert scene.service.list_streams(None) == [record]
    await scene.wait(3, step=1)
    assert scene.service.list_streams(None) == []


async def test_a_stream_that_is_only_listed_is_collected(make_scene: SceneMaker) -> None:
    scene = await make_scene(idle_stream_timeout=100)
    await scene.create()
    for _ in range(150):
        await scene.wait(1, step=1)
        for listed in scene.service.list_streams(None):
            assert scene.service.state(listed.id) is StreamState.OFFLINE
    assert scene.service.list_streams(None) == []


async def test_a_watched_stream_is_not_collected(make_scene: SceneMaker) -> None:
    scene = await make_scene(idle_stream_timeout=100)
    record = await scene.create_live()
    await scene.watch(record)
    scene.media_of(record).lose_publisher()
    await scene.wait(300, step=1)
    assert scene.service.list_streams(None) == [record]
