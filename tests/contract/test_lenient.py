"""Acceptance statements 19 to 23 of the contract: what is accepted although no schema asks for it."""

from typing import Any

import pytest

from tests.contract.conftest import SdkOnServer
from tests.support.rest import SMALL, Rest
from tests.support.server import LiveServer
from tests.support.waiting import eventually

DREAMCAM = {
    "pipeline_id": "pip_SD15",
    "pipeline_params": {
        "model_id": "Lykon/dreamshaper-8",
        "prompt": "portrait as a marble statue",
        "prompt_interpolation_method": "slerp",
        "normalize_prompt_weights": True,
        "normalize_seed_weights": True,
        "negative_prompt": "blurry, low quality",
        "num_inference_steps": 50,
        "seed": 42,
        "t_index_list": [6, 12, 18],
        "controlnets": [
            {
                "conditioning_scale": 0.6,
                "control_guidance_end": 1,
                "control_guidance_start": 0,
                "enabled": True,
                "model_id": "lllyasviel/control_v11f1p_sd15_depth",
                "preprocessor": "depth_tensorrt",
                "preprocessor_params": {},
            },
            {
                "conditioning_scale": 0.2,
                "control_guidance_end": 1,
                "control_guidance_start": 0,
                "enabled": True,
                "model_id": "lllyasviel/control_v11p_sd15_canny",
                "preprocessor": "canny",
                "preprocessor_params": {},
            },
        ],
        "acceleration": "tensorrt",
        "do_add_noise": True,
        "enable_similar_image_filter": True,
        "guidance_scale": 1,
        "delta": 0.7,
        "height": 512,
        "width": 512,
        "lora_dict": None,
        "lcm_lora_id": "latent-consistency/lcm-lora-sdv1-5",
        "use_lcm_lora": True,
        "use_safety_checker": False,
        "use_denoising_batch": True,
        "similar_image_filter_threshold": 0.98,
        "similar_image_filter_max_skip_frame": 10,
        "seed_interpolation_method": "linear",
        "ip_adapter": {"enabled": False, "scale": 0.5, "type": "regular", "weight_type": "linear"},
        "ip_adapter_style_image_url": "",
    },
}
"""The older envelope in the form the Chrome extension uses: two names for the two members, and thirty params."""


async def test_19_weighted_prompts_and_seeds_are_echoed_as_pairs(sdk: SdkOnServer, rest: Rest) -> None:
    weighted = {"prompt": [["a", 1], ["b", 0.5]], "seed": [[1, 0.5], [2, 0.5]]}
    created = await rest.create({"model_id": "stabilityai/sdxl-turbo"} | weighted)
    for stream in (created, await rest.get(created["id"])):
        assert {name: stream["params"][name] for name in weighted} == weighted
    read = (await sdk.call("get_by_id", id=created["id"])).expect()["params"]
    assert "is_unknown" not in read
    assert [list(pair) for pair in read["prompt"]] == weighted["prompt"]
    assert [list(pair) for pair in read["seed"]] == weighted["seed"]


@pytest.mark.parametrize("loras", [None, {}, {"repo": 0.8}])
async def test_20_every_form_of_lora_dict_is_accepted(sdk: SdkOnServer, rest: Rest, loras: object) -> None:
    stream = await rest.create({"model_id": "stabilityai/sdxl-turbo", "lora_dict": loras})
    assert (stream["params"]["lora_dict"] or {}) == (loras or {})
    assert "is_unknown" not in (await sdk.call("get_by_id", id=stream["id"])).expect()["params"]


async def test_21_an_ip_adapter_on_sd_turbo_is_ignored_and_logged(rest: Rest, server: LiveServer) -> None:
    start = server.log_size()
    obs = {"ip_adapter": {"enabled": True, "scale": 0.5, "type": "regular"}, "t_index_list": [11], "seed": 42}
    stream = await rest.create({"model_id": "stabilityai/sd-turbo"} | obs)
    assert not (stream["params"].get("ip_adapter") or {}).get("enabled")
    await eventually(lambda: "ip_adapter" in server.log_tail(start), what="the line of the log")


async def test_22_the_chrome_extensions_legacy_body_is_accepted(sdk: SdkOnServer, rest: Rest) -> None:
    response = await rest.post_stream(DREAMCAM)
    assert response.status_code == 201, response.text
    stream = response.json()
    sent: dict[str, Any] = DREAMCAM["pipeline_params"]  # pyright: ignore[reportAssignmentType]
    assert stream["pipeline"] == "streamdiffusion"
    for name in ("model_id", "prompt", "seed", "t_index_list", "delta", "enable_similar_image_filter"):
        assert stream["params"][name] == sent[name]
    assert [entry["conditioning_scale"] for entry in stream["params"]["controlnets"]] == [0.6, 0.2]
    assert "is_unknown" not in (await sdk.call("get_by_id", id=stream["id"])).expect()["params"]


@pytest.mark.parametrize(
    ("body", "model"),
    [
        ({"pipeline_id": "pip_SD-turbo"}, "stabilityai/sd-turbo"),
        ({"pipeline_id": "pip_SDXL-turbo"}, "stabilityai/sdxl-turbo"),
        ({"pipeline_id": "pip_SDXL-turbo-faceid"}, "stabilityai/sdxl-turbo"),
        ({"pipeline_id": "pip_SD15"}, "Lykon/dreamshaper-8"),
        ({"pipeline_id": "pip_unheard_of"}, "stabilityai/sd-turbo"),
        ({"pipeline_params": {"pipeline_id": "pip_SD15"}}, None),
        ({"name": "only a name"}, "stabilityai/sd-turbo"),
        ({}, "stabilityai/sd-turbo"),
        (
            {"pipeline": "streamdiffusion-sdxl", "params": {"model_id": "stabilityai/sdxl-turbo"}},
            "stabilityai/sdxl-turbo",
        ),
    ],
)
async def test_22_other_older_shapes_are_accepted(rest: Rest, body: dict[str, Any], model: str | None) -> None:
    response = await rest.post_stream(body)
    assert response.status_code == 201, response.text
    assert response.json()["pipeline"] == "streamdiffusion"
    if model is not None:
        assert response.json()["params"]["model_id"] == model


async def test_22_the_faceid_pipeline_sets_the_adapter_type(rest: Rest) -> None:
    response = await rest.post_stream({"pipeline_id": "pip_SDXL-turbo-faceid"})
    assert response.json()["params"]["ip_adapter"]["type"] == "faceid"


async def test_23_unknown_members_are_ignored_everywhere(sdk: SdkOnServer, rest: Rest) -> None:
    params: dict[str, Any] = SMALL | {
        "model_id": "stabilityai/sdxl-turbo",
        "no_such_param": 1,
        "controlnets": [
            {
                "model_id": "xinsir/controlnet-canny-sdxl-1.0",
                "conditioning_scale": 0.2,
                "preprocessor": "canny",
                "enabled": True,
                "surprise": [1, 2],
                "preprocessor_params": {"low_threshold": 90, "unheard_of": True},
            }
        ],
        "image_preprocessing": {"processors": [{"type": "blur", "colour": "blue"}], "speed": 3},
        "ip_adapter": {"enabled": False, "insightface_model_name": "buffalo_l"},
    }
    stream = await rest.create(params, prompt="loose", unheard_of={"a": 1})
    assert "no_such_param" not in stream["params"]
    response = await rest.patch(stream["id"], {"no_such_param": 2, "prompt": "new"}, unheard_of=1)
    assert response.status_code == 200
    assert response.json()["params"]["prompt"] == "new"
    assert "is_unknown" not in (await sdk.call("get_by_id", id=stream["id"])).expect()["params"]
