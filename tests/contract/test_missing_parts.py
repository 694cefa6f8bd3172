"""A part of the params that cannot be had leaves the picture, and every other knob in the hands of the person."""

import json
import pickle
from collections.abc import Iterator
from typing import Any

import pytest

from sdstream.diffusion.libraries import diffusers
from sdstream.diffusion.tiny import write_tiny_lora
from sdstream.diffusion.tiny_conditions import write_tiny_controlnet
from tests.support.events import event_log
from tests.support.peers import Publisher, Viewer, preserved
from tests.support.rest import Rest
from tests.support.server import LiveServer
from tests.support.transparent import write_transparent_model
from tests.support.waiting import eventually

NET = "thibaud/controlnet-sd21-canny-diffusers"
PICKLED = "thibaud/controlnet-sd21-depth-diffusers"
TURBO: dict[str, Any] = {
    "model_id": "stabilityai/sd-turbo",
    "t_index_list": [49],
    "width": 384,
    "height": 384,
    "use_safety_checker": False,
}
OTHER = "tiny/other"
"""A model that no stream has in memory."""
WORKING = ("ONLINE", "DEGRADED_INPUT", "DEGRADED_INFERENCE")
"""Pictures come out. A busy machine need not make as many as the camera sends, nor send as many as it should."""
CANNY = {"model_id": NET, "preprocessor": "canny", "conditioning_scale": 0.5}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("parts")
    write_transparent_model(folder / "model")
    write_transparent_model(folder / "other")
    models = {
        "stabilityai/sd-turbo": str(folder / "model"),
        OTHER: {"source": str(folder / "other"), "family": "sd-turbo"},
    }
    live = LiveServer(folder, models=json.dumps(models), offline="true")
    live.start()
    yield live
    live.stop()


@pytest.mark.slow
async def test_knobs_work_while_a_controlnet_is_missing_and_it_comes_when_it_is_asked_for_again(
    server: LiveServer, rest: Rest
) -> None:
    stream = await rest.create(TURBO)

    async def lane() -> dict[str, Any]:
        return (await rest.status(stream["id"]))["lane"]

    async def is_whole() -> bool:
        return not (await lane())["missing"]

    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        await rest.wait_state(stream["id"], *WORKING, seconds=60)
        with preserved(publisher, viewer):
            async with event_log(rest, stream["id"]) as log:
                answer = await rest.change(stream["id"], {"controlnets": [CANNY]})
                await log.wait("error", code="MODELS/UNAVAILABLE")
                for params in ({"prompt": "new"}, {"seed": 7}, {"guidance_scale": 1.5}):
                    answer = await rest.change(stream["id"], params)
                    assert answer["applied"] == "hot"
                    await log.wait("effective", revision=answer["revision"])
                assert len(log.named("error")) == 1, "what is known to be missing is not told anew with each knob"
            told = await lane()
            assert (told["phase"], told["revision"]) == ("ready", answer["revision"])
            (missing,) = told["missing"]
            assert (missing["place"], missing["name"], missing["code"]) == (
                "controlnets[0]",
                NET,
                "MODELS/UNAVAILABLE",
            )
            assert told["error_message"] == missing["message"]
            assert (missing["tries"], missing["next_try_time"]) == (1, None)
            answer = await rest.change(stream["id"], {"prompt": "newer", "controlnets": [{**CANNY, "enabled": True}]})
            (warning,) = answer["warnings"]
            assert NET in warning
            assert "is not in force" in warning
            tried = await rest.http.patch(
                f"/v1/streams/{stream['id']}", params={"dry_run": "true"}, json={"params": {"controlnets": [CANNY]}}
            )
            assert any(NET in each for each in tried.json()["warnings"]), tried.text
            kind: Any = diffusers.UNet2DConditionModel
            unet = kind.from_pretrained(server.folder / "model" / "unet")
            write_tiny_controlnet(server.data_dir / "models" / NET, unet)
            answer = await rest.change(stream["id"], {"controlnets": [CANNY]})
            assert answer["applied"] == "unchanged"
            await eventually(is_whole, seconds=60, what="the ControlNet")
            told = await lane()
            assert (told["error_message"], told["revision"]) == (None, answer["revision"])
            assert [each["place"] for each in told["processors"]] == ["controlnets[0]"]


@pytest.mark.slow
async def test_a_stream_goes_on_without_its_models_files_and_one_that_needs_them_starts_when_they_are_back(
    server: LiveServer, rest: Rest
) -> None:
    running, second = await rest.create(TURBO), await rest.create(TURBO)
    late = await rest.create({**TURBO, "model_id": OTHER})
    places = [server.folder / "model", server.folder / "other"]
    hidden = [place.with_suffix(".away") for place in places]
    async with Publisher(running["whip_url"]):
        await rest.wait_state(running["id"], *WORKING, seconds=60)
        for place, away in zip(places, hidden, strict=True):
            place.rename(away)
        try:
            async with Publisher(late["whip_url"]):
                await rest.wait_state(late["id"], "ERROR", seconds=60)
                lane = (await rest.status(late["id"]))["lane"]
                assert (lane["error_code"], lane["phase"]) == ("MODELS/UNAVAILABLE", "failed")
                async with event_log(rest, running["id"]) as log:
                    answer = await rest.change(running["id"], {"prompt": "new"})
                    await log.wait("effective", revision=answer["revision"])
                async with Publisher(second["whip_url"]):  # what it needs is in memory
                    await rest.wait_state(second["id"], *WORKING, seconds=60)
                hidden[1].rename(places[1])
                answer = await rest.change(late["id"], {"model_id": OTHER})
                assert answer["applied"] == "unchanged"
                await rest.wait_state(late["id"], *WORKING, seconds=60)
        finally:
            for place, away in zip(places, hidden, strict=True):
                if away.exists():
                    away.rename(place)


@pytest.mark.slow
async def test_a_stream_starts_without_a_lora_that_is_not_here(server: LiveServer, rest: Rest) -> None:
    stream = await rest.create({**TURBO, "lora_dict": {"nobody/none": 0.5}})
    (warning,) = stream["warnings"]
    assert "nobody/none is not on this machine" in warning
    async with Publisher(stream["whip_url"]):
        await rest.wait_state(stream["id"], *WORKING, seconds=60)
        lane = (await rest.status(stream["id"]))["lane"]
    assert [(part["place"], part["code"]) for part in lane["missing"]] == [("lora_dict", "MODELS/LORA_UNUSABLE")]
    assert lane["phase"] == "ready"


@pytest.mark.slow
async def test_a_stream_starts_without_parts_whose_files_are_none_of_its_model(server: LiveServer, rest: Rest) -> None:
    kind: Any = diffusers.UNet2DConditionModel
    unet = kind.from_pretrained(server.folder / "model" / "unet")
    config = {**unet.config, "cross_attention_dim": 2 * unet.config.cross_attention_dim}
    write_tiny_lora(server.data_dir / "loras" / "foreign.safetensors", kind.from_config(config))
    ran = server.folder / "ran"
    content = f"cos\nmkdir\n(S'{ran}'\ntR.".encode()  # who opens it as one makes that folder
    (server.data_dir / "loras" / "pickled.ckpt").write_bytes(content)
    net = server.data_dir / "models" / PICKLED
    write_tiny_controlnet(net, unet)
    (weights,) = net.glob("*.safetensors")
    (net / "diffusion_pytorch_model.bin").write_bytes(content)
    weights.unlink()
    pickled_net = {"model_id": PICKLED, "preprocessor": "canny", "conditioning_scale": 0.5}
    stream = await rest.create(
        {**TURBO, "lora_dict": {"foreign": 0.5, "pickled.ckpt": 0.5}, "controlnets": [pickled_net]}
    )
    async with Publisher(stream["whip_url"]):
        await rest.wait_state(stream["id"], *WORKING, seconds=60)
        lane = (await rest.status(stream["id"]))["lane"]
    assert lane["phase"] == "ready"
    told = sorted((part["place"], part["code"], part["message"]) for part in lane["missing"])
    assert [part[:2] for part in told] == [
        ("controlnets[0]", "MODELS/UNAVAILABLE"),
        ("lora_dict", "MODELS/LORA_UNUSABLE"),
        ("lora_dict", "MODELS/LORA_UNUSABLE"),
    ]
    assert "its weights are a pickle" in told[0][2]
    assert "the LoRA foreign was made for another base model and not for this sd-turbo" in told[1][2]
    assert "the LoRA pickled.ckpt is a pickle" in told[2][2]
    assert not ran.exists(), "a pickle was opened"
    pickle.loads(content)
    assert ran.exists(), "what was not opened would not have told"
