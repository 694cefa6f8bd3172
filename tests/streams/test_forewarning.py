"""Who creates a stream, updates one that no worker has, or tries an update out is told what cannot come into force."""

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from sdstream.streams.views import UpdateOutcome
from sdstream.worker.ports import LanePhase, LaneStatus, MissingPart
from tests.streams.conftest import CREATE, Scene, SceneMaker
from tests.support.hollow import write_hollow_model

NET = "thibaud/controlnet-sd21-canny-diffusers"
CANNY = {"model_id": NET, "preprocessor": "canny", "conditioning_scale": 0.5}


@pytest.fixture
async def scene(make_scene: SceneMaker, tmp_path: Path) -> Scene:
    """A server that has an SD-Turbo, which has every file and no weights, and fetches nothing."""
    write_hollow_model(tmp_path / "model", "sd-turbo")
    models = json.dumps({"stabilityai/sd-turbo": str(tmp_path / "model")})
    return await make_scene(models=models, offline=True)


async def created(scene: Scene, **params: Any) -> tuple[str, ...]:
    body = CREATE | {"params": {"model_id": "stabilityai/sd-turbo", **params}}
    return (await scene.service.create(body, "author")).warnings


async def tried(scene: Scene, stream_id: str, **params: Any) -> UpdateOutcome:
    return await scene.service.update(stream_id, {"params": params}, dry_run=True)


async def test_a_new_stream_is_warned_of_each_part_that_is_not_here(scene: Scene) -> None:
    assert await created(scene) == ()
    lora, net = await created(scene, controlnets=[CANNY], lora_dict={"nobody/none": 1.0})
    assert lora.startswith("params.lora_dict cannot come into force now: the LoRA nobody/none is not on this machine")
    assert net.startswith(f"params.controlnets[0] ({NET}) cannot come into force now: ")
    assert "is not on this machine" in net


async def test_a_model_that_is_not_here_is_told(scene: Scene) -> None:
    (warning,) = await created(scene, model_id="stabilityai/sdxl-turbo")
    assert warning.startswith("params.model_id (stabilityai/sdxl-turbo) cannot come into force now: ")


@pytest.mark.parametrize("live", [False, True])
async def test_data_that_are_no_picture_are_told_before_a_worker_sees_them(scene: Scene, live: bool) -> None:
    make = scene.create_live if live else scene.create
    record = await make(model_id="Lykon/dreamshaper-8")
    data = base64.b64encode(b"\x89PNG\r\n\x1a\n" + b"IEND").decode()
    image = f"data:image/png;base64,{data}"
    outcome = await scene.service.update(record.id, {"params": {"ip_adapter_style_image_url": image}})
    assert outcome.warnings == (
        "params.ip_adapter_style_image_url cannot come into force now: it is not a picture that can be read",
    )


async def test_an_update_of_a_stream_without_a_publisher_is_warned_of_what_it_names(scene: Scene) -> None:
    record = await scene.create(controlnets=[CANNY])
    outcome = await scene.service.update(record.id, {"params": {"prompt": "fog"}})
    assert outcome.warnings == ()
    outcome = await scene.service.update(record.id, {"params": {"lora_dict": {"nobody/none": 1.0}}})
    (warning,) = outcome.warnings
    assert "nobody/none" in warning


async def test_the_first_update_of_a_live_stream_that_names_a_missing_part_is_warned_and_later_ones_once(
    scene: Scene,
) -> None:
    record = await scene.create_live()

    async def warned(**params: Any) -> tuple[str, ...]:
        return (await scene.service.update(record.id, {"params": params})).warnings

    (first,) = await warned(controlnets=[CANNY])
    assert first.startswith(f"params.controlnets[0] ({NET}) cannot come into force now: ")
    assert await warned(prompt="fog") == ()
    part = MissingPart("controlnets[0]", NET, "MODELS/UNAVAILABLE", "it is not here")
    scene.lane_of(record).status = LaneStatus(LanePhase.READY, missing=(part,))
    (known,) = await warned(controlnets=[{**CANNY, "conditioning_scale": 0.7}])
    assert known.startswith(f"params.controlnets[0] ({NET}) is not in force: it is not here")
    (other,) = await warned(lora_dict={"nobody/none": 1.0})
    assert "nobody/none" in other


async def test_a_dry_run_is_warned_and_has_nothing_tried(scene: Scene) -> None:
    record = await scene.create_live(controlnets=[CANNY])
    lane = scene.lane_of(record)
    part = MissingPart("controlnets[0]", NET, "MODELS/UNAVAILABLE", "it is a pickle")
    lane.status = LaneStatus(LanePhase.READY, missing=(part,))
    (known,) = (await tried(scene, record.id, controlnets=[CANNY])).warnings
    assert "it is a pickle" in known
    (absent,) = (await tried(scene, record.id, lora_dict={"nobody/none": 1.0})).warnings
    assert "nobody/none" in absent
    assert (await tried(scene, record.id, prompt="fog")).warnings == ()
    assert lane.tries == 0
