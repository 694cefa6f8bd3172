"""Reading create bodies: today's shape, the older ones, and what clients send that is not quite right."""

from typing import Any

import pytest

from sdstream.errors import InvalidParams
from sdstream.params import ModelTable, SdTurboParams, SdxlTurboParams, parse_create, wire_params
from sdstream.settings import Settings
from tests.params.requests import DREAMSHAPER, MODELS, PUBLIC_IDS, SD_TURBO, SDXL_TURBO, created, refusal

COMMON_DEFAULTS = {
    "prompt": "flowers",
    "prompt_interpolation_method": "slerp",
    "normalize_prompt_weights": True,
    "negative_prompt": "blurry, low quality, flat, 2d",
    "guidance_scale": 1.0,
    "delta": 0.7,
    "num_inference_steps": 50,
    "seed": 789,
    "seed_interpolation_method": "linear",
    "normalize_seed_weights": True,
    "width": 512,
    "height": 512,
    "use_safety_checker": True,
    "lora_dict": None,
    "use_lcm_lora": True,
    "acceleration": "tensorrt",
    "use_denoising_batch": True,
    "do_add_noise": True,
    "enable_similar_image_filter": False,
    "similar_image_filter_threshold": 0.98,
    "similar_image_filter_max_skip_frame": 10,
    "skip_diffusion": False,
    "image_preprocessing": None,
    "image_postprocessing": None,
    "latent_preprocessing": None,
    "latent_postprocessing": None,
    "controlnets": [],
}


@pytest.mark.parametrize("model_id", PUBLIC_IDS)
def test_defaults_of_single_values_are_those_of_the_contract(model_id: str) -> None:
    wire = wire_params(created(model_id))
    assert {name: wire[name] for name in COMMON_DEFAULTS} == COMMON_DEFAULTS


@pytest.mark.parametrize(
    ("model_id", "steps"),
    [
        (SD_TURBO, [12, 20, 32]),
        (SDXL_TURBO, [36]),
        (DREAMSHAPER, [5, 15, 32]),
        ("prompthero/openjourney-v4", [5, 15, 32]),
    ],
)
def test_default_steps_are_those_of_the_family(model_id: str, steps: list[int]) -> None:
    assert wire_params(created(model_id))["t_index_list"] == steps


@pytest.mark.parametrize("length", [10, 10.0, "10"])
def test_default_steps_keep_their_proportion_in_a_shorter_schedule(length: object) -> None:
    assert created(SD_TURBO, num_inference_steps=length).t_index_list == (2, 4, 6)


def test_ip_adapter_and_cached_attention_start_off() -> None:
    wire = wire_params(created(SDXL_TURBO))
    assert (wire["ip_adapter"]["enabled"], wire["cached_attention"]["enabled"]) == (False, False)


def test_given_blocks_are_on_unless_they_say_otherwise() -> None:
    wire = wire_params(created(SDXL_TURBO, ip_adapter={"scale": 0.4}, cached_attention={"max_frames": 2}))
    assert (wire["ip_adapter"]["enabled"], wire["cached_attention"]["enabled"]) == (True, True)


@pytest.mark.parametrize(
    ("body", "model_id"),
    [
        ({}, SD_TURBO),
        ({"name": "x"}, SD_TURBO),
        ({"pipeline": "streamdiffusion"}, SD_TURBO),
        ({"params": {}}, SD_TURBO),
        ({"params": {"model_id": None}}, SD_TURBO),
        ({"pipeline_id": "pip_SD-turbo"}, SD_TURBO),
        ({"pipeline_id": "pip_SDXL-turbo"}, SDXL_TURBO),
        ({"pipeline_id": "pip_SDXL-turbo-faceid"}, SDXL_TURBO),
        ({"pipeline_id": "pip_SD15"}, DREAMSHAPER),
        ({"pipeline_id": "pip_unheard_of"}, SD_TURBO),
        ({"pipeline_params": {"pipeline_id": "pip_SD15"}}, DREAMSHAPER),
        ({"pipeline_id": "pip_SD15", "pipeline_params": {"model_id": "prompthero/openjourney-v4"}}, PUBLIC_IDS[3]),
        ({"model_id": SDXL_TURBO, "params": {}}, SDXL_TURBO),
    ],
)
def test_every_shape_in_circulation_finds_its_model(body: Any, model_id: str) -> None:
    assert parse_create(body, MODELS).params.model_id == model_id


def test_faceid_pipeline_sets_the_adapter_type() -> None:
    params = parse_create({"pipeline_id": "pip_SDXL-turbo-faceid"}, MODELS).params
    assert isinstance(params, SdxlTurboParams)
    assert params.ip_adapter.type == "faceid"


def test_loose_parameters_beside_a_pipeline_id_are_taken() -> None:
    assert parse_create({"pipeline_id": "pip_SD15", "prompt": "a tree"}, MODELS).params.prompt == "a tree"


def test_params_win_over_pipeline_params_and_loose_ones() -> None:
    body = {"prompt": "loose", "pipeline_params": {"prompt": "old", "seed": 1}, "params": {"prompt": "new"}}
    params = parse_create(body, MODELS).params
    assert (params.prompt, params.seed) == ("new", 1)


def test_the_settings_choose_the_default_model() -> None:
    models = ModelTable.from_settings(Settings.model_validate({"default_model": SDXL_TURBO}))
    assert parse_create({}, models).params.model_id == SDXL_TURBO


@pytest.mark.parametrize("value", ["streamdiffusion", "streamdiffusion-sdxl", "StreamDiffusion", "pip_SD15", None])
def test_pipeline_aliases_are_taken(value: str | None) -> None:
    assert parse_create({"pipeline": value}, MODELS).params.model_id == SD_TURBO


@pytest.mark.parametrize("value", ["comfyui", 5, [], ""])
def test_another_pipeline_is_refused(value: object) -> None:
    assert set(refusal({"pipeline": value})) == {"pipeline"}


@pytest.mark.parametrize("body", [None, [], "x", 5, True])
def test_a_body_must_be_an_object(body: object) -> None:
    assert set(refusal(body)) == {"body"}


@pytest.mark.parametrize("member", ["params", "pipeline_params"])
def test_params_must_be_an_object(member: str) -> None:
    assert set(refusal({member: ["prompt"]})) == {member}


def test_name_and_target_are_read() -> None:
    request = parse_create({"name": " my stream ", "output_rtmp_url": "rtmp://example.org/live/key"}, MODELS)
    assert (request.name, request.delivery.output_rtmp_url) == ("my stream", "rtmp://example.org/live/key")
    assert request.warnings == ()


def test_name_and_target_may_be_absent_or_null() -> None:
    request = parse_create({"name": None, "output_rtmp_url": None}, MODELS)
    assert (request.name, request.delivery.output_rtmp_url) == (None, None)


@pytest.mark.parametrize("name", [5, ["x"], "x" * 257, "a\nb", "a\x00b", "\ud800"])
def test_a_bad_name_is_refused(name: object) -> None:
    assert set(refusal({"name": name})) == {"name"}


@pytest.mark.parametrize(
    "target",
    [
        "http://example.org/live",
        "rtmp:/example.org",
        "rtmp://",
        "rtmp:///live",
        "rtmp://example.org",
        "rtmp://example.org/",
        "rtmp://example.org?key=x",
        "rtmp://example.org/live/***",
        "rtmp://exa mple.org/x",
        "rtmp://example.org:99999/x",
        "rtmp://example.org/" + "x" * 3000,
        "rtmp://bücher.example/x",
        "file:///etc/passwd",
        5,
    ],
)
def test_a_target_that_is_not_rtmp_is_refused(target: object) -> None:
    assert set(refusal({"output_rtmp_url": target})) == {"output_rtmp_url"}


def test_unknown_members_are_ignored_with_a_suggestion() -> None:
    request = parse_create({"params": {"promt": "x"}, "outpt_rtmp_url": "y"}, MODELS)
    assert sorted(request.warnings) == [
        "outpt_rtmp_url is not known and was ignored; did you mean 'output_rtmp_url'?",
        "params.promt is not known and was ignored; did you mean 'prompt'?",
    ]


def test_warnings_name_the_whole_path_of_what_is_unknown() -> None:
    body = {
        "model_id": "stabilityai/sdxl-turbo",
        "ip_adapter": {"enabled": False, "scal": 1},
        "image_preprocessing": {"processors": [{"type": "blur"}, {"type": "canny", "params": {"low": 1}}]},
        "latent_postprocessing": {"speed": 3, "processors": [{"type": "latent_feedback", "colour": "blue"}]},
        "controlnets": [
            {"model_id": "xinsir/controlnet-canny-sdxl-1.0", "surprise": [1], "preprocessor_params": {"x": 1}}
        ],
    }
    assert parse_create({"params": body}, MODELS).warnings == (
        "params.ip_adapter.scal is not known and was ignored; did you mean 'scale'?",
        "params.image_preprocessing.processors[1].params.low is not a parameter of canny; it is kept and has no effect",
        "params.latent_postprocessing.speed is not known and was ignored",
        "params.latent_postprocessing.processors[0].colour is not known and was ignored",
        "params.controlnets[0].surprise is not known and was ignored",
        "params.controlnets[0].preprocessor_params.x is not a parameter of passthrough; it is kept and has no effect",
    )


def test_members_of_the_answer_sent_back_are_ignored_in_silence() -> None:
    body = {"id": "str_x", "whip_url": "http://x", "created_at": "now", "params": {"prompt": "x"}}
    assert parse_create(body, MODELS).warnings == ()


def test_nulls_are_absent() -> None:
    nulls = dict.fromkeys(SdTurboParams.model_fields)
    assert parse_create({"params": nulls}, MODELS).params == created(SD_TURBO)


@pytest.mark.parametrize("value", [None, {}])
def test_null_and_empty_lora_dict_mean_none(value: object) -> None:
    assert created(SD_TURBO, lora_dict=value).lora_dict is None


@pytest.mark.parametrize(
    "name",
    [
        "http://example.org/x.safetensors",
        "https://10.0.0.1/x",
        "https://localhost/x",
        "file:///etc/passwd",
        "ftp://a.b/c",
    ],
)
def test_loras_come_from_public_https_urls_only(name: str) -> None:
    with pytest.raises(InvalidParams, match=r"params\.lora_dict"):
        created(SD_TURBO, lora_dict={name: 1.0})


def test_a_long_signed_url_of_a_lora_is_taken() -> None:
    name = f"https://files.example.org/lora.safetensors?signature={'a' * 1500}"
    assert created(SD_TURBO, lora_dict={name: 1.0}).lora_dict == {name: 1.0}


@pytest.mark.parametrize("length", [8_001, 20_000])
def test_a_prompt_that_is_too_long_is_told_the_limit_that_counts(length: int) -> None:
    problem = refusal({"params": {"prompt": "x" * length}})["params.prompt"]["problem"]
    assert problem == "has more than 8000 characters"


def test_a_lora_dict_is_kept() -> None:
    assert created(SD_TURBO, lora_dict={"owner/repo": 0.8}).lora_dict == {"owner/repo": 0.8}


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ({"width": 640.0}, {"width": 640}),
        ({"seed": 7.0}, {"seed": 7}),
        ({"t_index_list": [1.0, 2.0]}, {"t_index_list": [1, 2]}),
        ({"num_inference_steps": "40"}, {"num_inference_steps": 40}),
        ({"use_lcm_lora": 0}, {"use_lcm_lora": False}),
        ({"skip_diffusion": "true"}, {"skip_diffusion": True}),
        ({"guidance_scale": 2}, {"guidance_scale": 2.0}),
    ],
)
def test_near_types_become_the_right_ones(sent: dict[str, Any], kept: dict[str, Any]) -> None:
    wire = wire_params(created(SD_TURBO, **sent))
    name = next(iter(kept))
    assert wire[name] == kept[name]
    assert type(wire[name]) is type(kept[name])


def test_weighted_prompts_and_seeds_are_echoed_as_sent() -> None:
    wire = wire_params(created(SD_TURBO, prompt=[["a", 1], ["b", 0.5]], seed=[[1, 0.5], [2, 0.5]]))
    assert (wire["prompt"], wire["seed"]) == ([["a", 1], ["b", 0.5]], [[1, 0.5], [2, 0.5]])


def test_seed_minus_one_means_no_choice() -> None:
    assert created(SD_TURBO, seed=-1).seed == 789


def test_an_enabled_ip_adapter_on_sd_turbo_is_ignored_with_a_warning() -> None:
    request = parse_create(
        {"params": {"model_id": SD_TURBO, "ip_adapter": {"enabled": True, "scale": 1, "type": "faceid"}}}, MODELS
    )
    assert request.warnings == ("params.ip_adapter has no effect on sd-turbo models and was ignored",)


def test_a_disabled_ip_adapter_on_sd_turbo_needs_no_warning() -> None:
    assert parse_create({"params": {"ip_adapter": {"enabled": False}}}, MODELS).warnings == ()


def test_faceid_on_sd15_becomes_regular() -> None:
    request = parse_create({"params": {"model_id": DREAMSHAPER, "ip_adapter": {"type": "faceid"}}}, MODELS)
    assert wire_params(request.params)["ip_adapter"]["type"] == "regular"
    assert len(request.warnings) == 1


def test_conditioning_channels_are_derived_whatever_is_sent() -> None:
    controlnet = {"model_id": "xinsir/controlnet-depth-sdxl-1.0", "conditioning_channels": 6}
    request = parse_create({"params": {"model_id": SDXL_TURBO, "controlnets": [controlnet]}}, MODELS)
    assert request.params.controlnets[0].facts.conditioning_channels == 3
    assert request.warnings == ()


def test_the_controlnet_that_sdks_do_not_know_comes_with_a_warning() -> None:
    name = "daydreamlive/TemporalNet2-stable-diffusion-xl-base-1.0"
    request = parse_create({"params": {"model_id": SDXL_TURBO, "controlnets": [{"model_id": name}]}}, MODELS)
    assert request.params.controlnets[0].model_id == name
    assert name in request.warnings[0]


@pytest.mark.parametrize(
    ("sent", "kept"), [(64, 384), (100, 384), (500, 512), (1088, 1024), (99999, 1024), (-5, 384), (416, 448)]
)
def test_clamping_takes_the_nearest_good_side(sent: int, kept: int) -> None:
    request = parse_create({"params": {"width": sent}}, MODELS, size_policy="clamp")
    assert request.params.width == kept
    assert len(request.warnings) == 1


@pytest.mark.parametrize("sent", ["wide", True, [512], float("nan")])
def test_clamping_leaves_what_is_no_number_to_the_checks(sent: object) -> None:
    with pytest.raises(InvalidParams, match=r"params\.width"):
        parse_create({"params": {"width": sent}}, MODELS, size_policy="clamp")


def test_a_further_model_brings_its_family() -> None:
    models = ModelTable.from_settings(
        Settings.model_validate({"models": {"me/mine": {"source": "/models/mine", "family": "sdxl-turbo"}}})
    )
    params = parse_create({"params": {"model_id": "me/mine"}}, models).params
    assert isinstance(params, SdxlTurboParams)
    assert params.model_id == "me/mine"


def test_extension_sends_thirty_members_in_the_legacy_shape() -> None:
    body = {
        "pipeline_id": "pip_SD15",
        "pipeline_params": {
            "model_id": DREAMSHAPER,
            "prompt": "superman",
            "prompt_interpolation_method": "slerp",
            "normalize_prompt_weights": True,
            "normalize_seed_weights": True,
            "negative_prompt": "blurry",
            "num_inference_steps": 50,
            "seed": 42,
            "t_index_list": [0, 8, 17],
            "controlnets": [
                {
                    "conditioning_scale": 0.22,
                    "control_guidance_end": 1,
                    "control_guidance_start": 0,
                    "enabled": True,
                    "model_id": "lllyasviel/control_v11f1p_sd15_depth",
                    "preprocessor": "depth_tensorrt",
                    "preprocessor_params": {},
                }
            ],
            "lora_dict": None,
            "ip_adapter": {"enabled": False, "scale": 0, "type": "regular", "weight_type": "linear"},
            "ip_adapter_style_image_url": "",
            "ip_adapter_mode": "x",
        },
    }
    request = parse_create(body, MODELS)
    assert request.params.t_index_list == (0, 8, 17)


@pytest.mark.parametrize("value", [5, True, ["streamdiffusion"], {"id": "streamdiffusion"}])
def test_a_pipeline_that_is_no_text_is_told_so(value: object) -> None:
    assert refusal({"pipeline": value, "params": {}})["pipeline"]["problem"] == "must be a text"
