"""What is refused: limits of single values and rules between them, each with its field and a way out."""

from typing import Any

import pytest

from sdstream.errors import InvalidParams
from sdstream.params import SdTurboParams, parse_create
from sdstream.params.controlnets import CONTROLNETS
from tests.params.requests import (
    DREAMSHAPER,
    MODELS,
    SD_TURBO,
    SDXL_CANNY,
    SDXL_DEPTH,
    SDXL_TEMPORAL,
    SDXL_TILE,
    SDXL_TURBO,
    created,
    refusal,
    refused_fields,
)

FLOATS = {"guidance_scale": (0, 100), "delta": (0, 10), "similar_image_filter_threshold": (0, 1)}
INTEGERS = {
    "num_inference_steps": (1, 100),
    "similar_image_filter_max_skip_frame": (0, 10_000),
    "seed": (-(2**53 - 1), 2**53 - 1),
}


@pytest.mark.parametrize(("name", "limits"), [*FLOATS.items(), *INTEGERS.items()])
def test_limits_themselves_are_accepted(name: str, limits: tuple[int, int]) -> None:
    for value in limits:
        assert getattr(created(SD_TURBO, t_index_list=[0], **{name: value}), name) == value


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, limits[0] - 0.01) for name, limits in FLOATS.items()),
        *((name, limits[1] + 0.01) for name, limits in FLOATS.items()),
        *((name, limits[0] - 1) for name, limits in INTEGERS.items()),
        *((name, limits[1] + 1) for name, limits in INTEGERS.items()),
    ],
)
def test_values_beyond_their_limits_are_refused(name: str, value: float) -> None:
    assert refused_fields(SD_TURBO, **{name: value}) == {f"params.{name}"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompt", 5),
        ("prompt", {"a": 1}),
        ("prompt", []),
        ("prompt", "x" * 8001),
        ("prompt_interpolation_method", "cubic"),
        ("normalize_prompt_weights", "maybe"),
        ("negative_prompt", 5),
        ("negative_prompt", ["a"]),
        ("guidance_scale", "high"),
        ("guidance_scale", True),
        ("guidance_scale", float("nan")),
        ("guidance_scale", float("inf")),
        ("guidance_scale", "inf"),
        ("num_inference_steps", 4.5),
        ("seed", 1.5),
        ("seed", True),
        ("seed", {}),
        ("seed", []),
        ("t_index_list", []),
        ("t_index_list", [1, 2, 3, 4, 5]),
        ("t_index_list", 5),
        ("t_index_list", "1"),
        ("width", 512.5),
        ("width", True),
        ("acceleration", "warp"),
        ("lora_dict", []),
        ("lora_dict", "x"),
        ("lora_dict", {f"r{number}": 1 for number in range(17)}),
        ("lcm_lora_id", 5),
        ("image_preprocessing", []),
        ("controlnets", {}),
        ("controlnets", "x"),
        ("skip_diffusion", 2),
    ],
)
def test_wrong_types_are_refused(name: str, value: object) -> None:
    assert refused_fields(SD_TURBO, **{name: value}) == {f"params.{name}"}


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"prompt": [["", 1]]}, "prompt[0][0]"),
        ({"prompt": [["a"]]}, "prompt[0][1]"),
        ({"prompt": [["a", "b"]]}, "prompt[0][1]"),
        ({"prompt": [["a", 1], "b"]}, "prompt[1]"),
        ({"prompt": [["a", 1, 2]]}, "prompt[0]"),
        ({"seed": [[1.5, 1]]}, "seed[0][0]"),
        ({"seed": [[1, None]]}, "seed[0][1]"),
        ({"t_index_list": [1, "x"]}, "t_index_list[1]"),
        ({"t_index_list": [-1]}, "t_index_list[0]"),
        ({"lora_dict": {"a/b": "heavy"}}, "lora_dict.a/b"),
        ({"lora_dict": {"file:///x": 1}}, "lora_dict.file:///x"),
        ({"lora_dict": {"": 1}}, 'lora_dict[""]'),
        ({"image_preprocessing": {"processors": [{"type": "cany"}]}}, "image_preprocessing.processors[0].type"),
        ({"image_preprocessing": {"processors": [{}]}}, "image_preprocessing.processors[0].type"),
        ({"latent_preprocessing": {"processors": [{"type": "blur"}]}}, "latent_preprocessing.processors[0].type"),
        (
            {"image_postprocessing": {"processors": [{"type": "blur", "params": {"blur_intensity": 11}}]}},
            "image_postprocessing.processors[0].params.blur_intensity",
        ),
        ({"controlnets": [{}]}, "controlnets[0].model_id"),
    ],
)
def test_a_problem_inside_names_its_place(params: dict[str, Any], field: str) -> None:
    assert refused_fields(SD_TURBO, **params) == {f"params.{field}"}


@pytest.mark.parametrize("side", ["width", "height"])
@pytest.mark.parametrize(("value", "near"), [(100, 384), (500, 512), (1088, 1024), (-64, 384), (383, 384)])
def test_a_side_off_the_grid_is_refused_with_the_nearest(side: str, value: int, near: int) -> None:
    detail = refusal({"params": {side: value}})[f"params.{side}"]
    assert detail["problem"] == f"must be a multiple of 64 from 384 to 1024, not {value}"
    assert detail["suggestion"] == f"use {near}"


@pytest.mark.parametrize("side", [*range(384, 1025, 64)])
def test_every_side_of_the_grid_is_accepted(side: int) -> None:
    size = created(SD_TURBO, width=side, height=1024 + 384 - side).output_size
    assert (size.width, size.height) == (side, 1408 - side)


@pytest.mark.parametrize("steps", [[3, 2], [0, 50, 49], [12, 20, 32, 31]])
def test_decreasing_steps_are_refused_with_their_order(steps: list[int]) -> None:
    detail = refusal({"params": {"t_index_list": steps}})
    assert list(detail) == [f"params.t_index_list[{len(steps) - 1}]"]
    assert str(sorted(steps)) in str(next(iter(detail.values()))["suggestion"])


@pytest.mark.parametrize("steps", [[0], [50], [0, 0, 0, 0], [7, 7, 50, 50]])
def test_steps_may_repeat_and_reach_the_end(steps: list[int]) -> None:
    assert created(SD_TURBO, t_index_list=steps).t_index_list == tuple(steps)


def test_a_step_above_the_schedule_is_refused() -> None:
    assert refused_fields(SD_TURBO, t_index_list=[10, 31], num_inference_steps=30) == {"params.t_index_list[1]"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompt", [["a", 0], ["b", 0]]),
        ("seed", [[1, 0]]),
        ("prompt", [["a", 1], ["b", -1]]),
        ("prompt", [["a", 100], ["b", -99.9999]]),
        ("seed", [[1, 0.5], [2, -0.4951]]),
    ],
)
def test_weights_that_cannot_be_normalised_are_refused(name: str, value: object) -> None:
    assert refused_fields(SD_TURBO, **{name: value}) == {f"params.{name}"}


def test_weights_that_can_just_be_normalised_are_taken() -> None:
    assert created(SD_TURBO, prompt=[["a", 1e-300], ["b", 0]], seed=[[1, 50], [2, -49.5]])


def test_weights_of_nothing_are_fine_when_they_stay_as_they_are() -> None:
    assert created(SD_TURBO, prompt=[["a", 0]], normalize_prompt_weights=False).prompt == (("a", 0.0),)


@pytest.mark.parametrize("controlnet_id", CONTROLNETS)
@pytest.mark.parametrize("model_id", [SD_TURBO, SDXL_TURBO, DREAMSHAPER])
def test_a_controlnet_goes_with_its_own_family_only(controlnet_id: str, model_id: str) -> None:
    entry = {"model_id": controlnet_id}
    if created(model_id).family == CONTROLNETS[controlnet_id].family:
        assert created(model_id, controlnets=[entry]).controlnets[0].model_id == controlnet_id
    else:
        assert refused_fields(model_id, controlnets=[entry]) == {"params.controlnets[0].model_id"}


def test_a_controlnet_of_another_family_suggests_its_counterpart() -> None:
    detail = refusal({"params": {"controlnets": [{"model_id": SDXL_DEPTH}]}})["params.controlnets[0].model_id"]
    assert detail["suggestion"] == "use thibaud/controlnet-sd21-depth-diffusers"


def test_a_controlnet_named_twice_is_refused() -> None:
    entries = [{"model_id": SDXL_DEPTH}, {"model_id": SDXL_CANNY}, {"model_id": SDXL_DEPTH, "enabled": False}]
    assert refused_fields(SDXL_TURBO, controlnets=entries) == {"params.controlnets[2].model_id"}


def test_sdxl_takes_three_enabled_controlnets() -> None:
    four = [{"model_id": name} for name in (SDXL_DEPTH, SDXL_CANNY, SDXL_TILE, SDXL_TEMPORAL)]
    assert refused_fields(SDXL_TURBO, controlnets=four) == {"params.controlnets"}
    assert len(created(SDXL_TURBO, controlnets=[{**four[0], "enabled": False}, *four[1:]]).controlnets) == 4


def test_other_families_take_all_their_controlnets() -> None:
    six = [{"model_id": name} for name, facts in CONTROLNETS.items() if facts.family == "sd-turbo"]
    assert len(created(SD_TURBO, controlnets=six).controlnets) == 6


@pytest.mark.parametrize(("value", "good"), [(-0.1, False), (0, True), (1.5, True), (2, True), (2.1, False)])
def test_a_conditioning_scale_lies_between_nothing_and_two(value: float, good: bool) -> None:
    entry = {"model_id": SDXL_DEPTH, "conditioning_scale": value}
    if good:
        assert created(SDXL_TURBO, controlnets=[entry]).controlnets[0].conditioning_scale == value
    else:
        assert refused_fields(SDXL_TURBO, controlnets=[entry]) == {"params.controlnets[0].conditioning_scale"}


def test_control_must_not_end_before_it_starts() -> None:
    entry = {"model_id": SDXL_DEPTH, "control_guidance_start": 0.8, "control_guidance_end": 0.2}
    assert refused_fields(SDXL_TURBO, controlnets=[entry]) == {"params.controlnets[0].control_guidance_start"}


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"acceleration": "none"}, "cached_attention.enabled"),
        ({"width": 576}, "cached_attention.enabled"),
        ({"height": 448}, "cached_attention.enabled"),
    ],
)
@pytest.mark.parametrize("model_id", [SDXL_TURBO, DREAMSHAPER])
def test_cached_attention_needs_tensorrt_and_512(model_id: str, params: dict[str, Any], field: str) -> None:
    assert refused_fields(model_id, cached_attention={"enabled": True}, **params) == {f"params.{field}"}


@pytest.mark.parametrize(("steps", "most"), [(1, 4), (2, 2), (3, 1)])
def test_sdxl_keeps_fewer_pictures_with_more_steps(steps: int, most: int) -> None:
    params: dict[str, Any] = {"t_index_list": [10] * steps}
    assert created(SDXL_TURBO, cached_attention={"max_frames": most}, **params)
    if most < 4:
        refused = refused_fields(SDXL_TURBO, cached_attention={"max_frames": most + 1}, **params)
        assert refused == {"params.cached_attention.max_frames"}


def test_sdxl_with_four_steps_has_no_cached_attention() -> None:
    refused = refused_fields(SDXL_TURBO, cached_attention={"enabled": True}, t_index_list=[1, 2, 3, 4])
    assert refused == {"params.cached_attention.enabled"}


def test_conditions_of_cached_attention_hold_only_while_it_is_on() -> None:
    params = created(SDXL_TURBO, cached_attention={"enabled": False, "max_frames": 4}, width=640, acceleration="none")
    assert params.width == 640


@pytest.mark.parametrize(("interval", "good"), [(0, False), (1, True), (240, True), (1440, True), (1441, False)])
def test_interval_limits(interval: int, good: bool) -> None:
    if good:
        assert created(SDXL_TURBO, cached_attention={"interval": interval})
    else:
        assert refused_fields(SDXL_TURBO, cached_attention={"interval": interval})


def _upscale(*factors: float, enabled: bool = True) -> dict[str, Any]:
    return {
        "image_postprocessing": {
            "enabled": enabled,
            "processors": [{"type": "upscale", "params": {"scale_factor": factor}} for factor in factors],
        }
    }


@pytest.mark.parametrize(
    ("params", "size"),
    [
        ({}, "512x512"),
        (_upscale(2), "1024x1024"),
        (_upscale(1.5, 2), "1536x1536"),
        (_upscale(2, enabled=False), "512x512"),
        ({"image_postprocessing": {"processors": [{"type": "realesrgan_trt"}]}}, "1024x1024"),
        ({"image_postprocessing": {"processors": [{"type": "upscale", "enabled": False}]}}, "512x512"),
        ({"image_preprocessing": {"processors": [{"type": "upscale"}]}}, "512x512"),
        ({"width": 576, "height": 384, **_upscale(1.3)}, "748x498"),
    ],
)
def test_output_size_counts_the_upscalers_in_force(params: dict[str, Any], size: str) -> None:
    assert str(created(SD_TURBO, **params).output_size) == size


@pytest.mark.parametrize(
    ("field", "processors"),
    [
        ("image_preprocessing", [{"type": "upscale", "params": {"scale_factor": 4}}] * 5),
        ("image_preprocessing", [{"type": "upscale", "params": {"scale_factor": 4, "image_resolution": 4096}}]),
        ("image_postprocessing", [{"type": "upscale", "params": {"scale_factor": 4, "image_resolution": 4096}}]),
    ],
)
def test_pictures_between_processors_beyond_4096_are_refused(field: str, processors: list[dict[str, Any]]) -> None:
    problems = refusal({"params": {field: {"processors": processors}}})
    assert "4096 is the most" in str(problems[f"params.{field}"]["problem"])
    created(SD_TURBO, **{field: {"processors": processors, "enabled": False}})


def test_processors_at_large_sizes_are_bounded_together() -> None:
    large = {"type": "canny", "params": {"detect_resolution": 4096}}
    created(SD_TURBO, image_preprocessing={"processors": [large] * 2}, image_postprocessing={"processors": [large] * 2})
    body = {"image_preprocessing": {"processors": [large] * 3}, "image_postprocessing": {"processors": [large] * 2}}
    assert "together" in str(refusal({"params": body})["params.image_preprocessing"]["problem"])


def test_an_output_beyond_4096_is_refused() -> None:
    assert str(created(SD_TURBO, width=1024, **_upscale(4)).output_size) == "4096x2048"
    assert refused_fields(SD_TURBO, **_upscale(4, 2.25)) == {"params.image_postprocessing"}


@pytest.mark.parametrize(
    ("value", "near"),
    [
        ("stabilityai/sdxlturbo", "stabilityai/sdxl-turbo"),
        ("sdxl-turbo", "stabilityai/sdxl-turbo"),
        ("lykon/dreamshaper-8", "Lykon/dreamshaper-8"),
        ("openjourney", "prompthero/openjourney-v4"),
    ],
)
def test_an_unknown_model_suggests_a_near_one(value: str, near: str) -> None:
    assert refusal({"params": {"model_id": value}})["params.model_id"]["suggestion"] == f"did you mean '{near}'?"


@pytest.mark.parametrize("value", [5, [], {}, True, "", "x" * 3000])
def test_a_strange_model_lists_what_there_is(value: object) -> None:
    assert SD_TURBO in str(refusal({"params": {"model_id": value}})["params.model_id"]["suggestion"])


@pytest.mark.parametrize(
    ("params", "field", "near"),
    [
        ({"acceleration": "tensort"}, "acceleration", "tensorrt"),
        ({"seed_interpolation_method": "Slerp"}, "seed_interpolation_method", "slerp"),
        ({"ip_adapter": {"weight_type": "ease-in"}}, "ip_adapter.weight_type", "ease in"),
        ({"controlnets": [{"model_id": "xinsir/controlnet-depth"}]}, "controlnets[0].model_id", SDXL_DEPTH),
        (
            {"controlnets": [{"model_id": SDXL_DEPTH, "preprocessor": "depth_tensort"}]},
            "controlnets[0].preprocessor",
            "depth_tensorrt",
        ),
    ],
)
def test_a_misspelt_choice_suggests_the_right_one(params: dict[str, Any], field: str, near: str) -> None:
    details = refusal({"params": {"model_id": SDXL_TURBO, **params}})
    assert details[f"params.{field}"]["suggestion"] == f"did you mean '{near}'?"


def test_all_problems_are_reported_at_once() -> None:
    body = {
        "pipeline": "x",
        "name": 5,
        "output_rtmp_url": "http://x",
        "params": {
            "width": 100,
            "height": 500,
            "prompt": 5,
            "t_index_list": [3, 2],
            "controlnets": [{"model_id": SDXL_DEPTH}, {"model_id": SDXL_DEPTH}],
        },
    }
    assert set(refusal(body)) == {
        "pipeline",
        "name",
        "output_rtmp_url",
        "params.width",
        "params.height",
        "params.prompt",
        "params.t_index_list[1]",
        "params.controlnets[0].model_id",
        "params.controlnets[1].model_id",
    }


def test_a_rule_that_reads_a_wrong_field_is_not_reported_on_top() -> None:
    assert refused_fields(SD_TURBO, num_inference_steps=0, t_index_list=[60]) == {"params.num_inference_steps"}


def test_an_unknown_model_does_not_condemn_the_controlnets() -> None:
    assert refused_fields("no/such", controlnets=[{"model_id": SDXL_DEPTH}]) == {"params.model_id"}


def test_an_array_of_wrong_items_is_not_also_called_empty() -> None:
    assert refused_fields(SD_TURBO, prompt=[["", 1]]) == {"params.prompt[0][0]"}


@pytest.mark.parametrize(
    "body",
    [
        {"params": {"prompt": "x" * 8_001}},
        {"params": {"x" * 2_049: 1}},
        {"params": {"seed": 10**400}},
        {"params": {"\ud800": 1}},
        {"params": {"prompt": "\ud800"}},
        {"params": {"image_preprocessing": {"processors": [{"type": "blur", "params": {"any": float("inf")}}]}}},
        {"params": {"controlnets": [1] * 5001}},
    ],
)
def test_what_no_request_needs_is_refused(body: object) -> None:
    assert refusal(body)


def test_deep_nesting_is_refused_whatever_its_depth() -> None:
    nested: Any = {}
    for _ in range(100_000):
        nested = [nested]
    assert refusal({"params": {"x": nested}})["body"]["problem"] == "is nested more than 12 levels deep"


def test_a_refusal_says_the_first_problem_and_how_many_more() -> None:
    with pytest.raises(InvalidParams, match=r"^params\.prompt: must be a text, .* \(and 1 more, see details\)$"):
        parse_create({"params": {"prompt": 5, "width": 1}}, MODELS)


def test_parameters_cannot_be_changed_in_place() -> None:
    params = SdTurboParams(model_id=SD_TURBO)
    with pytest.raises(ValueError, match="frozen"):
        params.prompt = "x"  # pyright: ignore[reportAttributeAccessIssue]
