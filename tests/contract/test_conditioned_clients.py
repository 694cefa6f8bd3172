"""What the real clients send about all that steers the picture, carried out by tiny models.

The SDKs are the published ones. What OBS, TouchDesigner and Unity send is rebuilt from the contract (2.9).
"""

import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import pytest

from tests.support.bodies import data_uri
from tests.support.peers import CardTrack, Publisher
from tests.support.pictures import TestCard
from tests.support.rest import Rest
from tests.support.sdks import ZOD_VERSIONS, NodeSdk, PythonSdk, Sdk
from tests.support.server import LiveServer
from tests.support.waiting import eventually
from tests.worker.faces import image_of

pytestmark = pytest.mark.slow

SECONDS = 120
SDXL_NETS = [
    {
        "model_id": "xinsir/controlnet-depth-sdxl-1.0",
        "conditioning_scale": 0.12,
        "preprocessor": "depth",
        "enabled": True,
    },
    {
        "model_id": "xinsir/controlnet-canny-sdxl-1.0",
        "conditioning_scale": 0.6,
        "preprocessor": "canny",
        "enabled": True,
        "preprocessor_params": {"low_threshold": 90},
        "control_guidance_start": 0.0,
        "control_guidance_end": 1.0,
    },
]
SDK_CREATE: dict[str, Any] = {
    "model_id": "stabilityai/sdxl-turbo",
    "prompt": "a paper city",
    "width": 512,
    "height": 512,
    "t_index_list": [2],
    "acceleration": "tensorrt",
    "use_safety_checker": False,
    "controlnets": SDXL_NETS,
    "ip_adapter": {"enabled": True, "scale": 0.6, "type": "regular", "weight_type": "style transfer"},
    "ip_adapter_style_image_url": data_uri(),
    "cached_attention": {"enabled": True, "max_frames": 1, "interval": 2},
    "image_preprocessing": {"enabled": True, "processors": [{"type": "blur", "enabled": True, "params": {}}]},
    "image_postprocessing": {"enabled": True, "processors": [{"type": "sharpen", "enabled": True}]},
    "latent_postprocessing": {"enabled": True, "processors": [{"type": "latent_feedback", "enabled": True}]},
}
SDK_UPDATE: dict[str, Any] = {
    "model_id": "stabilityai/sdxl-turbo",
    "controlnets": [SDXL_NETS[0] | {"conditioning_scale": 0.5}, SDXL_NETS[1] | {"conditioning_scale": 0.3}],
    "ip_adapter": {"enabled": True, "scale": 0.9, "type": "regular", "weight_type": "ease in-out"},
    "cached_attention": {"enabled": True, "max_frames": 1, "interval": 5},
    "image_preprocessing": {"enabled": True, "processors": [{"type": "canny", "enabled": True}]},
    "latent_preprocessing": {"enabled": True, "processors": [{"type": "latent_feedback", "enabled": True}]},
}


@dataclass(frozen=True)
class Plugin:
    """What a plugin sends: a create body and then updates."""

    name: str
    create: str
    updates: tuple[dict[str, Any], ...]


SD21_NETS = [
    {
        "conditioning_scale": scale,
        "control_guidance_end": 1.0,
        "control_guidance_start": 0.0,
        "enabled": True,
        "model_id": f"thibaud/controlnet-sd21-{kind}-diffusers",
        "preprocessor": preprocessor,
        "preprocessor_params": {},
    }
    for kind, preprocessor, scale in (
        ("openpose", "openpose", 0.0),
        ("hed", "hed", 0.0),
        ("canny", "canny", 0.3),
        ("depth", "depth_tensorrt", 0.45),
        ("color", "passthrough", 0.0),
    )
]
OBS = Plugin(
    "obs",
    json.dumps(
        {
            "pipeline": "streamdiffusion",
            "params": {
                "model_id": "stabilityai/sd-turbo",
                "prompt": "oil painting",
                "negative_prompt": "blurry, low quality, flat, 2d",
                "width": 512,
                "height": 512,
                "num_inference_steps": 25,
                "seed": 42,
                "t_index_list": [11],
                "guidance_scale": 1.0,
                "delta": 0.7,
                "do_add_noise": True,
                "controlnets": SD21_NETS,
                "ip_adapter": {"enabled": True, "scale": 1.0, "type": "regular"},
            },
        }
    ),
    (
        {"controlnets": [net | {"conditioning_scale": net["conditioning_scale"] and 0.6} for net in SD21_NETS]},
        {"ip_adapter": {"enabled": False, "scale": 0.5, "type": "regular"}, "guidance_scale": 1.2},
    ),
)
SD15_NETS = [
    {
        "model_id": f"lllyasviel/{name}",
        "conditioning_scale": scale,
        "preprocessor": preprocessor,
        "preprocessor_params": {},
        "enabled": True,
    }
    for name, preprocessor, scale in (
        ("control_v11f1p_sd15_depth", "depth_tensorrt", 0.5),
        ("control_v11p_sd15_canny", "canny", 0.2),
        ("control_v11f1e_sd15_tile", "feedback", 0.0),
    )
]
TOUCHDESIGNER = Plugin(
    "touchdesigner",
    json.dumps(
        {
            "pipeline": "streamdiffusion",
            "params": {
                "model_id": "Lykon/dreamshaper-8",
                "prompt": [["strawberry", 1.0], ["moss", 0.5]],
                "prompt_interpolation_method": "slerp",
                "normalize_prompt_weights": True,
                "seed": [[42, 1.0], [7, 0.25]],
                "seed_interpolation_method": "linear",
                "width": 384,
                "height": 384,
                "t_index_list": [11],
                "controlnets": SD15_NETS,
                "ip_adapter": {"enabled": True, "scale": 0.5, "type": "regular"},
                "ip_adapter_style_image_url": data_uri("blue"),
            },
        }
    ),
    (
        {"controlnets": [net | {"conditioning_scale": 0.1} for net in SD15_NETS]},
        {
            "ip_adapter": {"enabled": True, "scale": 0.8, "type": "regular"},
            "ip_adapter_style_image_url": data_uri("green"),
        },
    ),
)
UNITY_PARAMS: dict[str, Any] = {
    "model_id": "stabilityai/sdxl-turbo",
    "prompt": "a garden",
    "negative_prompt": "blurry",
    "width": 512,
    "height": 512,
    "num_inference_steps": 50,
    "t_index_list": [16],
    "seed": 1,
    "guidance_scale": 1.0,
    "delta": 0.7,
    "enable_similar_image_filter": False,
    "similar_image_filter_threshold": 0.98,
    "similar_image_filter_max_skip_frame": 10,
    "controlnets": [
        SDXL_NETS[0],
        SDXL_NETS[1],
        {
            "model_id": "xinsir/controlnet-tile-sdxl-1.0",
            "conditioning_scale": 0.2,
            "preprocessor": "passthrough",
            "enabled": True,
        },
    ],
    "ip_adapter": {"enabled": False, "scale": 0.5, "type": "regular", "weight_type": "linear"},
    "image_preprocessing": {"enabled": True, "processors": [{"type": "blur", "enabled": True, "params": {}}]},
    "latent_preprocessing": {"enabled": False, "processors": []},
}
UNITY = Plugin(
    "unity",
    json.dumps({"pipeline": "streamdiffusion", "params": UNITY_PARAMS}),
    (
        UNITY_PARAMS | {"prompt": "a garden at night"},  # the full set each time
        UNITY_PARAMS | {"image_preprocessing": {"enabled": True, "processors": [{"type": "sharpen", "enabled": True}]}},
    ),
)


@pytest.fixture
async def tiny_rest(conditioned: LiveServer) -> AsyncIterator[Rest]:
    async with Rest(conditioned) as client:
        yield client


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("python", id="python"),
        *(pytest.param(copy, id=copy.removeprefix("sdk-with-"), marks=pytest.mark.node) for copy in ZOD_VERSIONS),
    ],
)
async def test_an_sdk_creates_and_turns_everything_that_steers(
    name: str, tiny_rest: Rest, node_sdk: Callable[[str], NodeSdk]
) -> None:
    sdk: Sdk = PythonSdk() if name == "python" else node_sdk(name)
    server = tiny_rest.server
    created = await sdk.call(server.url, server.key, "create", pipeline="streamdiffusion", params=SDK_CREATE)
    stream = created.expect()
    tiny_rest.remember(stream)
    async with publishing(stream):
        await in_force(tiny_rest, stream["id"], 1)
        body = {"pipeline": "streamdiffusion", "params": SDK_UPDATE}
        updated = await sdk.call(server.url, server.key, "update", id=stream["id"], body=body)
        nets = updated.expect()["params"]["controlnets"]
        assert [net["conditioning_scale"] for net in nets] == [0.5, 0.3]
        await in_force(tiny_rest, stream["id"], 2)
        read = (await sdk.call(server.url, server.key, "get_by_id", id=stream["id"])).expect()["params"]
        assert read["cached_attention"]["interval"] == 5
        assert read["ip_adapter"]["weight_type"] == "ease in-out"
        assert read["image_preprocessing"]["processors"][0]["type"] == "canny"
        status = await tiny_rest.status(stream["id"])
        told = {state["place"]: (state["name"], state["phase"]) for state in status["lane"]["processors"]}
        assert told["controlnets[0]"] == ("depth", "working")
        assert told["image_preprocessing[0]"] == ("canny", "working")


@pytest.mark.parametrize("plugin", [OBS, TOUCHDESIGNER, UNITY], ids=lambda plugin: plugin.name)
async def test_what_a_plugin_sends_is_carried_out(plugin: Plugin, tiny_rest: Rest) -> None:
    headers = {"Content-Type": "application/json", "x-client-source": plugin.name}
    created = await tiny_rest.http.post("/v1/streams", content=plugin.create, headers=headers)
    assert created.status_code == 201, created.text
    stream = created.json()
    tiny_rest.remember(stream)
    async with publishing(stream):
        await in_force(tiny_rest, stream["id"], 1)
        for revision, update in enumerate(plugin.updates, 2):
            body = {"pipeline": "streamdiffusion", "params": {"model_id": stream["params"]["model_id"], **update}}
            answer = await tiny_rest.http.patch(f"/v1/streams/{stream['id']}", json=body, headers=headers)
            assert answer.status_code == 200, answer.text
            await in_force(tiny_rest, stream["id"], revision)


async def test_a_controlnet_of_the_settings_steers(tiny_rest: Rest) -> None:
    models = (await tiny_rest.http.get("/v1/models")).json()
    (entry,) = [net for net in models["controlnets"] if net["id"] == "me/lines"]
    assert (entry["present"], entry["family"], entry["preprocessor"]) == (True, "sd15", "canny")
    net = {"model_id": "me/lines", "conditioning_scale": 0.5, "preprocessor": "canny", "enabled": True}
    params = {"width": 384, "height": 384, "t_index_list": [11], "use_lcm_lora": False, "controlnets": [net]}
    stream = await tiny_rest.create({"model_id": "Lykon/dreamshaper-8", **params})
    async with publishing(stream):
        await in_force(tiny_rest, stream["id"], 1)
    refused = await tiny_rest.post_stream({"params": params | {"model_id": "stabilityai/sd-turbo"}})
    assert refused.status_code == 400
    assert "belongs to the sd15 family" in refused.text


async def test_a_face_steers_and_an_image_without_one_leaves_the_picture(tiny_rest: Rest) -> None:
    adapter = {"ip_adapter": {"enabled": True, "scale": 0.8, "type": "faceid"}}
    face, nobody = ({"ip_adapter_style_image_url": image_of(*faces)} for faces in ([(150, 120, 60)], []))
    params = {"model_id": "stabilityai/sdxl-turbo", "width": 384, "height": 384, "t_index_list": [11]}
    stream = await tiny_rest.create(params | adapter | face)
    async with publishing(stream):
        await in_force(tiny_rest, stream["id"], 1)
        await tiny_rest.change(stream["id"], nobody)

        async def shows(revision: int, error: str | None) -> None:
            async def reached() -> bool:
                lane = (await tiny_rest.status(stream["id"]))["lane"]
                told = (lane["phase"], lane["revision"], lane["error_code"])
                return told == ("ready", revision, error) and lane["effective_frame"] is not None

            await eventually(reached, seconds=SECONDS, what=f"revision {revision} with {error}")

        await shows(1, "STREAMS/NO_FACE")
        await tiny_rest.change(stream["id"], face | {"prompt": "a cat"})
        await shows(3, None)


def publishing(stream: dict[str, Any]) -> Publisher:
    card = TestCard()
    return Publisher(stream["whip_url"], track=CardTrack(lambda number: card.draw(number), fps=4))


async def in_force(rest: Rest, stream_id: str, revision: int) -> None:
    """Wait for a picture made under this revision; nothing may have been refused or left out."""

    async def made() -> bool:
        lane = (await rest.status(stream_id))["lane"]
        assert lane is None or lane["error_code"] is None, lane
        return lane is not None and lane["revision"] == revision and lane["effective_frame"] is not None

    await eventually(made, seconds=SECONDS, what=f"a picture of revision {revision}")
