"""The service over fakes: records, sessions and what survives what."""

import asyncio
import io
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from sdstream.clock import ManualClock
from sdstream.errors import (
    CapacityReached,
    Conflict,
    InvalidParams,
    InvalidSdp,
    NoPictureYet,
    SessionNotFound,
    ShuttingDown,
    StreamNotFound,
    WorkerUnavailable,
)
from sdstream.media.ports import MediaStatistics, Placard
from sdstream.streams.views import Applied, StreamRecord, StreamState
from sdstream.worker.ports import LanePhase, WorkerPhase
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


async def test_an_update_keeps_what_it_does_not_name(scene: Scene) -> None:
    record = await scene.create(prompt="a cat", seed=5)
    outcome = await scene.service.update(record.id, {"params": {"prompt": "a dog"}})
    assert (outcome.record.params.prompt, outcome.record.params.seed) == ("a dog", 5)
    assert scene.service.get(record.id) == outcome.record
    assert outcome.record.revision == record.revision + 1


async def test_an_update_reaches_the_lane_of_a_live_stream(scene: Scene) -> None:
    record = await scene.create_live()
    outcome = await scene.service.update(record.id, {"params": {"prompt": "rain"}})
    assert outcome.applied is Applied.HOT
    assert scene.lane_of(record).params == outcome.record.params
    assert scene.lane_of(record).updates == [outcome.record.revision]


async def test_an_update_before_the_publisher_is_in_force_when_it_comes(scene: Scene) -> None:
    record = await scene.create()
    await scene.service.update(record.id, {"params": {"prompt": "snow"}})
    await scene.publish(record)
    assert scene.lane_of(record).params.prompt == "snow"


async def test_the_same_values_again_change_nothing(scene: Scene) -> None:
    record = await scene.create_live(prompt="sun")
    outcome = await scene.service.update(record.id, {"params": {"prompt": "sun", "width": 512}})
    assert outcome.applied is Applied.UNCHANGED
    assert outcome.record.revision == record.revision
    assert scene.lane_of(record).updates == []


async def test_a_dry_run_tells_and_does_nothing(scene: Scene) -> None:
    record = await scene.create_live()
    outcome = await scene.service.update(record.id, {"params": {"prompt": "fog"}}, dry_run=True)
    assert (outcome.applied, outcome.changed) == (Applied.HOT, ("prompt",))
    assert outcome.record.params.prompt == "fog"
    assert scene.service.get(record.id) == record
    assert scene.lane_of(record).updates == []


async def test_a_dry_run_of_a_create_stores_nothing(scene: Scene) -> None:
    outcome = await scene.service.create({"params": {"prompt": "fog", "nonsense": 1}}, "ann", dry_run=True)
    assert outcome.record.params.prompt == "fog"
    assert outcome.warnings
    assert scene.service.list_streams(None) == []


async def test_a_live_stream_refuses_another_size_and_stays_as_it_was(scene: Scene) -> None:
    record = await scene.create_live()
    with pytest.raises(Conflict) as caught:
        await scene.service.update(record.id, {"params": {"width": 640, "prompt": "new"}})
    assert "params.width" in {detail["field"] for detail in caught.value.details}
    assert scene.service.get(record.id) == record
    assert scene.lane_of(record).updates == []


async def test_the_fixed_name_sent_again_is_no_warning(scene: Scene) -> None:
    record = await scene.create()
    same = await scene.service.update(record.id, {"name": record.name, "params": {"prompt": "x"}})
    other = await scene.service.update(record.id, {"name": "another", "params": {"prompt": "x"}})
    assert same.warnings == ()
    assert other.warnings == ("name is fixed when a stream is created and was ignored",)


async def test_an_idle_stream_takes_another_size(scene: Scene) -> None:
    record = await scene.create()
    await scene.service.update(record.id, {"params": {"width": 640}})
    await scene.publish(record)
    assert str(scene.media_of(record).size) == "640x512"


async def test_a_stream_whose_publisher_went_takes_another_size_and_viewers_see_it(scene: Scene) -> None:
    record = await scene.create_live()
    await scene.watch(record)
    scene.media_of(record).lose_publisher()
    await scene.service.update(record.id, {"params": {"height": 768}})
    assert str(scene.media_of(record).size) == "512x768"


async def test_updates_made_at_once_all_count(scene: Scene) -> None:
    record = await scene.create_live()
    bodies = [{"prompt": "p"}, {"seed": 9}, {"delta": 0.3}, {"guidance_scale": 2.0}]
    await asyncio.gather(*(scene.service.update(record.id, {"params": body}) for body in bodies))
    params = scene.service.get(record.id).params
    assert (params.prompt, params.seed, params.delta, params.guidance_scale) == ("p", 9, 0.3, 2.0)
    assert scene.lane_of(record).params == params


async def test_of_300_updates_the_last_wins_everywhere(scene: Scene) -> None:
    record = await scene.create_live()
    bodies = ({"params": {"prompt": f"prompt {number}"}} for number in range(300))
    outcomes = await asyncio.gather(*(scene.service.update(record.id, body) for body in bodies))
    assert [outcome.record.params.prompt for outcome in outcomes] == [f"prompt {number}" for number in range(300)]
    assert scene.service.get(record.id).params.prompt == "prompt 299"
    assert scene.lane_of(record).params.prompt == "prompt 299"


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


async def test_the_state_is_that_of_the_status_and_unknown_for_a_stream_that_is_not_there(scene: Scene) -> None:
    record = await scene.create_live()
    await scene.flow(record, 3)
    assert scene.service.state(record.id) is scene.service.status(record.id).state is StreamState.ONLINE
    await scene.service.delete(record.id)
    with pytest.raises(StreamNotFound):
        scene.service.state(record.id)


async def test_a_watched_stream_is_not_collected(make_scene: SceneMaker) -> None:
    scene = await make_scene(idle_stream_timeout=100)
    record = await scene.create_live()
    await scene.watch(record)
    scene.media_of(record).lose_publisher()
    await scene.wait(300, step=1)
    assert scene.service.list_streams(None) == [record]


async def test_a_stream_goes_from_loading_to_online(scene: Scene) -> None:
    scene.worker.ready_lanes = False
    record = await scene.create_live()
    lane = scene.lane_of(record)
    lane.report(LanePhase.LOADING, detail="weights", percent=40.0)
    await scene.flow(record, 3, processed=False)
    assert scene.service.status(record.id).state is StreamState.LOADING
    lane.report(LanePhase.READY)
    await scene.flow(record, 3)
    assert scene.service.status(record.id).state is StreamState.ONLINE


async def test_a_reload_is_loading_until_the_lane_has_the_new_params(scene: Scene) -> None:
    record = await scene.create_live()
    await scene.flow(record, 3)
    media, lane = scene.media_of(record), scene.lane_of(record)
    events = scene.service.events(record.id)
    assert (await scene.service.update(record.id, {"params": {"acceleration": "none"}})).applied is Applied.RELOAD
    assert scene.service.status(record.id).state is StreamState.LOADING
    await scene.flow(record, 2)  # the worker still gives pictures of the old params
    assert scene.service.status(record.id).state is StreamState.LOADING
    assert media.placard is None
    lane.report(LanePhase.READY)
    await scene.flow(record, 1)
    assert scene.service.status(record.id).state is StreamState.ONLINE
    assert media.publisher is not None
    await scene.service.delete(record.id)
    states = [event.data["state"] async for event in events if event.name == "state"]
    assert states == ["LOADING", "ONLINE", "OFFLINE"]


async def test_a_reload_that_fails_leaves_the_old_params_running(scene: Scene) -> None:
    record = await scene.create_live()
    await scene.flow(record, 3)
    await scene.service.update(record.id, {"params": {"acceleration": "none"}})
    refuse(scene, record, "no room")
    await scene.flow(record, 1)
    status = scene.service.status(record.id)
    assert (status.state, status.reason, status.last_error) == (StreamState.DEGRADED_INFERENCE, "no room", "no room")
    assert scene.media_of(record).placard is None
    await scene.flow(record, 15)
    assert scene.service.status(record.id).state is StreamState.ONLINE
    assert scene.service.status(record.id).last_error == "no room"


async def test_params_that_load_after_some_that_did_not_clear_the_error(scene: Scene) -> None:
    record = await scene.create_live()
    await scene.flow(record, 3)
    await scene.service.update(record.id, {"params": {"acceleration": "none"}})
    refuse(scene, record, "no room")
    await scene.flow(record, 1)
    await scene.service.update(record.id, {"params": {"acceleration": "tensorrt"}})
    scene.lane_of(record).report(LanePhase.READY)
    await scene.flow(record, 1)
    status = scene.service.status(record.id)
    assert (status.state, status.last_error, status.last_error_at) == (StreamState.ONLINE, None, None)


async def test_an_error_of_another_cause_outlives_the_lanes_recovery(scene: Scene) -> None:
    record = await scene.create_live()
    await scene.service.update(record.id, {"params": {"acceleration": "none"}})
    refuse(scene, record, "no room")
    scene.worker.die()
    await scene.service.tick()
    scene.worker.revive()
    await scene.flow(record, 1)
    assert scene.service.status(record.id).last_error == "The worker was killed by SIGKILL."


async def test_each_refused_update_is_an_error_event_and_a_repeated_report_is_none(scene: Scene) -> None:
    record = await scene.create_live()
    events = scene.service.events(record.id)
    for prompt in ("one", "two"):
        await scene.service.update(record.id, {"params": {"prompt": prompt}})
        for _ in range(2):
            refuse(scene, record, "depth is not here")
    await scene.service.delete(record.id)
    errors = [event.data async for event in events if event.name == "error"]
    assert errors == [{"code": "MODELS/UNAVAILABLE", "message": "depth is not here"}] * 2


async def test_a_refusal_of_an_older_update_does_not_end_the_loading_of_a_newer_one(scene: Scene) -> None:
    record = await scene.create_live()
    await scene.flow(record, 3)
    await scene.service.update(record.id, {"params": {"acceleration": "none"}})
    first = scene.lane_of(record).revision
    await scene.service.update(record.id, {"params": {"acceleration": "tensorrt"}})
    refuse(scene, record, "no room", revision=first)
    await scene.flow(record, 1)
    assert scene.service.status(record.id).state is StreamState.LOADING


def refuse(scene: Scene, record: StreamRecord, message: str, revision: int | None = None) -> None:
    """The lane could not load the newest params, or those of `revision`, and goes on with those it was opened with."""
    lane = scene.lane_of(record)
    lane.report(
        LanePhase.READY,
        revision=1,
        error_code="MODELS/UNAVAILABLE",
        error_message=message,
        refused_revision=lane.revision if revision is None else revision,
    )


async def test_words_come_with_the_answer_to_the_publisher(scene: Scene) -> None:
    scene.worker.ready_lanes = False
    record = await scene.create()
    await scene.publish(record)
    assert isinstance(scene.media_of(record).placard, Placard)


async def test_loading_is_shown_with_phase_and_percent(scene: Scene) -> None:
    scene.worker.ready_lanes = False
    record = await scene.create_live()
    scene.lane_of(record).report(LanePhase.LOADING, detail="reading weights", percent=40.0)
    await scene.service.tick()
    placard = scene.media_of(record).placard
    assert placard is not None
    assert (placard.detail, placard.percent) == ("reading weights", 40.0)


async def test_no_words_between_good_pictures(scene: Scene) -> None:
    record = await scene.create_live()
    await scene.flow(record, 1)
    sent = scene.media_of(record).sent
    first = next(index for index, item in enumerate(sent) if not isinstance(item, Placard))
    assert not [item for item in sent[first:] if isinstance(item, Placard)]


async def test_a_killed_worker_shows_words_and_pictures_come_back(scene: Scene) -> None:
    record = await scene.create_live()
    viewer = await scene.watch(record)
    await scene.flow(record, 3)
    scene.worker.die()
    await scene.flow(record, 1, processed=False)
    media = scene.media_of(record)
    assert media.placard is not None
    assert media.placard.title == "Restarting"
    assert scene.service.status(record.id).state is StreamState.DEGRADED_INFERENCE
    scene.worker.revive()
    await scene.flow(record, 3)
    assert media.placard is None
    assert viewer in media.watchers
    status = scene.service.status(record.id)
    assert (status.state, status.restart_count) == (StreamState.DEGRADED_INFERENCE, 1)
    await scene.flow(record, 60, fps=20)
    assert scene.service.status(record.id).state is StreamState.ONLINE


async def test_a_lane_that_fails_makes_an_error_with_its_reason(scene: Scene) -> None:
    record = await scene.create_live()
    scene.lane_of(record).report(
        LanePhase.FAILED, error_code="MODELS/UNAVAILABLE", error_message="No weights for stabilityai/sd-turbo."
    )
    await scene.flow(record, 1, processed=False)
    status = scene.service.status(record.id)
    assert (status.state, status.reason) == (StreamState.ERROR, "No weights for stabilityai/sd-turbo.")
    assert status.last_error == "No weights for stabilityai/sd-turbo."
    placard = scene.media_of(record).placard
    assert placard is not None
    assert placard.detail == "No weights for stabilityai/sd-turbo."


async def test_a_failed_lane_can_be_updated_out_of_it(scene: Scene) -> None:
    record = await scene.create_live()
    lane = scene.lane_of(record)
    lane.report(LanePhase.FAILED, error_code="MODELS/UNAVAILABLE", error_message="no weights")
    await scene.service.update(record.id, {"params": {"skip_diffusion": True}})
    assert lane.params.skip_diffusion
    lane.report(LanePhase.READY)
    await scene.flow(record, 20)
    assert scene.service.status(record.id).state is StreamState.ONLINE


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
