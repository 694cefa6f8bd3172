"""The warm start: not ready before the default model has made a picture, and ready all the same where it cannot."""

import asyncio

import pytest
from structlog.testing import capture_logs

from sdstream.frames import I420Frame
from sdstream.model_errors import ModelUnavailable
from sdstream.streams.warming import LANE
from tests.streams.conftest import SceneMaker
from tests.streams.fakes import FakeLane


class Attempt:
    """What becomes of the picture: `end` is a result, or what is raised in its place."""

    def __init__(self) -> None:
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.frames: list[I420Frame] = []

    async def process(self, frame: I420Frame) -> I420Frame:
        self.frames.append(frame)
        await self.end
        return frame


@pytest.fixture
async def attempt(monkeypatch: pytest.MonkeyPatch) -> Attempt:
    attempt = Attempt()
    monkeypatch.setattr(FakeLane, "process", lambda _, frame: attempt.process(frame))
    return attempt


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_server_is_warm_once_the_default_model_has_made_a_picture(
    make_scene: SceneMaker, attempt: Attempt
) -> None:
    scene = await make_scene(warm_start=True, default_model="stabilityai/sdxl-turbo")
    await settle()
    lane = scene.worker.lanes[LANE]
    assert (lane.params.model_id, lane.params.skip_diffusion) == ("stabilityai/sdxl-turbo", False)
    assert [str(frame.size) for frame in attempt.frames] == ["512x512"]
    assert scene.service.worker_health().is_warming
    assert not lane.closed
    attempt.end.set_result(None)
    await settle()
    assert not scene.service.worker_health().is_warming
    assert lane.closed, "the worker keeps the model; another one may take its memory"


async def test_a_model_that_cannot_be_had_is_logged_and_keeps_no_server_from_being_ready(
    make_scene: SceneMaker, attempt: Attempt
) -> None:
    scene = await make_scene(warm_start=True)
    await settle()
    with capture_logs() as lines:
        attempt.end.set_exception(ModelUnavailable("nothing is here"))
        await settle()
    assert [(line["log_level"], line["problem"]) for line in lines] == [("error", "nothing is here")]
    assert not scene.service.worker_health().is_warming


async def test_a_server_that_closes_waits_for_no_model(make_scene: SceneMaker, attempt: Attempt) -> None:
    scene = await make_scene(warm_start=True)
    await settle()
    await scene.service.close()
    assert scene.worker.lanes[LANE].closed


async def test_without_the_setting_nothing_is_loaded(make_scene: SceneMaker, attempt: Attempt) -> None:
    scene = await make_scene()
    await settle()
    assert (scene.worker.lanes, attempt.frames) == ({}, [])
    assert not scene.service.worker_health().is_warming
