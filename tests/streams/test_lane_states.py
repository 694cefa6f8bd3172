"""Loads, reloads, failures and deaths of the worker, as states, errors and placards of a stream."""

from sdstream.media.ports import Placard
from sdstream.streams.views import Applied, StreamRecord, StreamState
from sdstream.worker.ports import LanePhase, MissingPart
from tests.streams.conftest import Scene


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


async def test_a_load_that_comes_further_is_never_given_up(scene: Scene) -> None:
    scene.worker.ready_lanes = False
    record = await scene.create_live()
    lane = scene.lane_of(record)
    for percent in range(10):  # gigabytes, over a slow line
        lane.report(LanePhase.LOADING, detail="downloading", percent=float(percent))
        await scene.flow(record, 1, processed=False)
        scene.clock.advance(100)
        await scene.flow(record, 1, processed=False)
        assert scene.service.status(record.id).state is StreamState.LOADING
    scene.clock.advance(100)  # the same percent as 200 s before
    await scene.flow(record, 1, processed=False)
    assert scene.service.status(record.id).state is StreamState.ERROR


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


async def test_what_runs_the_networks_is_an_event_when_it_changes(scene: Scene) -> None:
    record = await scene.create_live()
    lane, events = scene.lane_of(record), scene.service.events(record.id)
    missing = (MissingPart("controlnets[0]", "a/b", "MODELS/DOWNLOAD_FAILED", "no network"),)
    lane.report(LanePhase.READY, acceleration="torch", detail="no engine is here")
    lane.report(LanePhase.READY, acceleration="torch", detail="no engine is here")
    lane.report(LanePhase.READY, acceleration="torch", detail="downloading a/b", missing=missing)
    lane.report(LanePhase.LOADING, detail="preparing")
    lane.report(LanePhase.READY, acceleration="tensorrt-rtx")
    await scene.service.delete(record.id)
    data = [event.data async for event in events if event.name == "acceleration"]
    told = [(each["acceleration"], each["detail"]) for each in data]
    assert told == [("torch", "no engine is here"), ("tensorrt-rtx", "")]


async def test_a_stream_without_networks_has_nothing_to_tell_of_them(scene: Scene) -> None:
    record = await scene.create_live()
    events = scene.service.events(record.id)
    scene.lane_of(record).report(LanePhase.READY)
    await scene.service.delete(record.id)
    assert [event.name async for event in events].count("acceleration") == 0
