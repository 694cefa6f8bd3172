"""Sessions of publishers and viewers: how they open, follow on each other and end."""

import pytest

from sdstream.errors import InvalidSdp, NoPictureYet, SessionNotFound, StreamNotFound, WorkerUnavailable
from sdstream.streams.views import StreamState
from tests.streams.conftest import Scene
from tests.streams.fakes import OFFER


async def test_nothing_can_be_watched_before_somebody_publishes(scene: Scene) -> None:
    record = await scene.create()
    with pytest.raises(NoPictureYet):
        await scene.watch(record)
    await scene.publish(record)
    assert await scene.watch(record) in scene.media_of(record).watchers


async def test_a_bad_offer_opens_nothing(scene: Scene) -> None:
    record = await scene.create()
    with pytest.raises(InvalidSdp):
        await scene.service.publish(record.stream_key, "nonsense")
    assert scene.media_of(record).closed
    assert record.id not in scene.worker.lanes
    assert not scene.service.status(record.id).publisher_accepted


async def test_a_bad_offer_leaves_the_publisher_alone(scene: Scene) -> None:
    record = await scene.create_live()
    session = scene.media_of(record).publisher
    with pytest.raises(InvalidSdp):
        await scene.service.publish(record.stream_key, "nonsense")
    assert scene.media_of(record).publisher == session
    assert not scene.media_of(record).closed


async def test_a_publisher_that_gets_no_lane_is_not_left_behind(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    record = await scene.create_live()
    await scene.watch(record)
    scene.media_of(record).lose_publisher()
    await scene.wait(61)  # the lane is freed, the viewer stays

    async def refuse(*_: object, **__: object) -> None:
        raise WorkerUnavailable("The worker is going away.")

    monkeypatch.setattr(scene.worker, "open_lane", refuse)
    with pytest.raises(WorkerUnavailable):
        await scene.publish(record)
    assert scene.media_of(record).publisher is None
    assert len(scene.media_of(record).watchers) == 1


async def test_a_second_publisher_takes_over_and_viewers_stay(scene: Scene) -> None:
    record = await scene.create()
    first = await scene.publish(record)
    viewer = await scene.watch(record)
    media, lane = scene.media_of(record), scene.lane_of(record)
    second = await scene.publish(record)
    assert scene.media_of(record) is media
    assert scene.lane_of(record) is lane
    assert media.publisher == second != first
    assert viewer in media.watchers


async def test_a_replaced_publisher_cannot_end_the_new_one(scene: Scene) -> None:
    record = await scene.create()
    first = await scene.publish(record)
    second = await scene.publish(record)
    with pytest.raises(SessionNotFound):
        await scene.service.end_publish_session(record.stream_key, first)
    assert scene.media_of(record).publisher == second


async def test_a_publisher_ends_its_session_once(scene: Scene) -> None:
    record = await scene.create()
    session = await scene.publish(record)
    await scene.service.end_publish_session(record.stream_key, session)
    assert scene.service.status(record.id).state is StreamState.OFFLINE
    with pytest.raises(SessionNotFound):
        await scene.service.end_publish_session(record.stream_key, session)


async def test_a_viewer_ends_its_session_and_no_other(scene: Scene) -> None:
    record = await scene.create()
    publisher = await scene.publish(record)
    one, other = await scene.watch(record), await scene.watch(record)
    await scene.service.end_watch_session(record.output_playback_id, one)
    with pytest.raises(SessionNotFound):
        await scene.service.end_watch_session(record.output_playback_id, publisher)
    assert scene.media_of(record).watchers == {other}
    assert scene.media_of(record).publisher == publisher


async def test_candidates_reach_their_session(scene: Scene) -> None:
    record = await scene.create()
    publisher, viewer = await scene.publish(record), await scene.watch(record)
    await scene.service.add_publish_candidates(record.stream_key, publisher, "a=one")
    await scene.service.add_watch_candidates(record.output_playback_id, viewer, "a=two")
    assert scene.media_of(record).candidates == [(publisher, "a=one"), (viewer, "a=two")]
    with pytest.raises(SessionNotFound):
        await scene.service.add_publish_candidates(record.stream_key, viewer, "a=three")
    with pytest.raises(InvalidSdp):
        await scene.service.add_watch_candidates(record.output_playback_id, viewer, "junk")


async def test_a_stream_key_does_not_open_the_view_nor_a_playback_id_the_camera(scene: Scene) -> None:
    record = await scene.create_live()
    with pytest.raises(StreamNotFound):
        await scene.service.watch(record.stream_key, OFFER)
    with pytest.raises(StreamNotFound):
        await scene.service.publish(record.output_playback_id, OFFER)
