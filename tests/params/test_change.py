"""Table 3.1 of the contract, row by row: what a change means for a running stream."""

from typing import Any

import pytest

from sdstream.params import ChangeKind, SdxlTurboParams, StreamParams, classify
from sdstream.params.change import HOT_FIELDS
from tests.params.requests import DREAMSHAPER, SD_TURBO, SDXL_CANNY, SDXL_DEPTH, SDXL_TILE, SDXL_TURBO, created, updated

DEPTH: dict[str, Any] = {"model_id": SDXL_DEPTH, "preprocessor": "depth_tensorrt"}
CANNY: dict[str, Any] = {"model_id": SDXL_CANNY, "preprocessor": "canny"}
TILE: dict[str, Any] = {"model_id": SDXL_TILE, "preprocessor": "feedback"}
START: dict[str, Any] = {
    "controlnets": [DEPTH, CANNY],
    "ip_adapter": {"enabled": True},
    "cached_attention": {"enabled": True},
    "image_postprocessing": {"processors": [{"type": "sharpen"}]},
}
HOT: list[dict[str, Any]] = [
    {"prompt": "x"},
    {"prompt": [["x", 1], ["y", 1]]},
    {"prompt_interpolation_method": "linear"},
    {"normalize_prompt_weights": False},
    {"negative_prompt": "x"},
    {"guidance_scale": 1.3},
    {"delta": 0.2},
    {"num_inference_steps": 60},
    {"t_index_list": [10]},
    {"t_index_list": [10, 20]},
    {"seed": 5},
    {"seed": [[5, 1], [6, 1]]},
    {"seed_interpolation_method": "slerp"},
    {"normalize_seed_weights": False},
    {"use_safety_checker": False},
    {"do_add_noise": False},
    {"enable_similar_image_filter": True},
    {"similar_image_filter_threshold": 0.5},
    {"similar_image_filter_max_skip_frame": 5},
    {"lcm_lora_id": "x"},
    {"controlnets": [{**DEPTH, "conditioning_scale": 0}, CANNY]},
    {"controlnets": [{**TILE, "conditioning_scale": 0}, DEPTH, {**CANNY, "conditioning_scale": 0.1}]},
    {"controlnets": [DEPTH, CANNY, {**TILE, "enabled": False}]},
    {"ip_adapter": {"enabled": False}},
    {"ip_adapter": {"scale": 0.2}},
    {"ip_adapter": {"weight_type": "composition"}},
    {"ip_adapter_style_image_url": "https://example.org/x.png"},
    {"image_preprocessing": {"processors": [{"type": "blur"}]}},
    {"image_postprocessing": {"processors": [{"type": "sharpen", "params": {"detail_boost": 1}}]}},
    {"image_postprocessing": {"enabled": False}},
    {"latent_preprocessing": {"processors": [{"type": "latent_feedback"}]}},
    {"latent_postprocessing": {"processors": [{"type": "latent_feedback"}]}},
    {"cached_attention": {"max_frames": 2}},
    {"cached_attention": {"interval": 5}},
]
RELOAD: list[dict[str, Any]] = [
    {"controlnets": [{**DEPTH, "enabled": False}, CANNY]},
    {"controlnets": [DEPTH, {**CANNY, "preprocessor_params": {"low_threshold": 50}}]},
    {"controlnets": [DEPTH, {**CANNY, "preprocessor": "hed"}]},
    {"controlnets": [DEPTH, {**CANNY, "control_guidance_start": 0.5}]},
    {"controlnets": [DEPTH, {**CANNY, "control_guidance_end": 0.5}]},
    {"controlnets": [DEPTH]},
    {"controlnets": [DEPTH, CANNY, TILE]},
    {"controlnets": [CANNY, DEPTH]},
    {"controlnets": []},
    {"ip_adapter": {"type": "faceid"}},
    {"cached_attention": {"enabled": False}},
    {"skip_diffusion": True},
    {"model_id": DREAMSHAPER},
    {"model_id": SD_TURBO},
    {"lora_dict": {"owner/repo": 1}},
    {"use_lcm_lora": False},
    {"acceleration": "none", "cached_attention": {"enabled": False}},
    {"use_denoising_batch": False},
]
SIZE: list[dict[str, Any]] = [
    {"width": 640},
    {"height": 384},
    {"image_postprocessing": {"processors": [{"type": "upscale"}]}},
    {"image_postprocessing": {"processors": [{"type": "realesrgan_trt"}]}},
]


def _start(**params: Any) -> StreamParams:
    return created(SDXL_TURBO, **{**START, **params})


@pytest.mark.parametrize("change", HOT, ids=str)
def test_hot_rows(change: dict[str, Any]) -> None:
    before = _start()
    after = updated(before, **change).params
    assert classify(before, after, live=True).kind is ChangeKind.HOT
    assert classify(before, after, live=True).fields == tuple(change)


@pytest.mark.parametrize("idle", [{"enabled": False}, {"conditioning_scale": 0}], ids=str)
def test_a_controlnet_without_effect_is_removed_hot(idle: dict[str, Any]) -> None:
    before = _start(controlnets=[DEPTH, {**TILE, **idle}, CANNY])
    after = updated(before, controlnets=[{**DEPTH, "conditioning_scale": 0.1}, CANNY]).params
    assert classify(before, after, live=True).kind is ChangeKind.HOT


@pytest.mark.parametrize("change", RELOAD, ids=str)
def test_reload_rows(change: dict[str, Any]) -> None:
    before = _start()
    assert classify(before, updated(before, **change).params, live=True).kind is ChangeKind.RELOAD


@pytest.mark.parametrize("change", SIZE, ids=str)
@pytest.mark.parametrize(("live", "kind"), [(True, ChangeKind.REFUSED), (False, ChangeKind.RELOAD)])
def test_a_change_of_size_is_refused_only_while_live(change: dict[str, Any], live: bool, kind: ChangeKind) -> None:
    before = created(SDXL_TURBO)
    assert classify(before, updated(before, **change).params, live=live).kind is kind


@pytest.mark.parametrize("change", [SIZE[2], SIZE[3]], ids=str)
def test_switching_an_upscaler_off_is_refused_while_live(change: dict[str, Any]) -> None:
    before = created(SD_TURBO, **change)
    after = updated(before, image_postprocessing={"enabled": False}).params
    assert classify(before, after, live=True).kind is ChangeKind.REFUSED


def test_sides_swapped_against_an_upscaler_are_refused_although_the_output_keeps_its_size() -> None:
    upscale = {"processors": [{"type": "upscale", "params": {"scale_factor": 2}}]}
    before = created(SD_TURBO, width=1024, height=1024)
    after = updated(before, width=512, height=512, image_postprocessing=upscale).params
    assert before.output_size == after.output_size
    assert classify(before, after, live=True).kind is ChangeKind.REFUSED


def test_an_upscaler_that_keeps_its_factor_is_hot() -> None:
    def upscale(algorithm: str) -> dict[str, Any]:
        return {"processors": [{"type": "upscale", "params": {"algorithm": algorithm}}]}

    before = created(SD_TURBO, image_postprocessing=upscale("bilinear"))
    after = updated(before, image_postprocessing=upscale("nearest")).params
    assert classify(before, after, live=True).kind is ChangeKind.HOT


def test_the_same_values_again_are_unchanged() -> None:
    before = _start()
    update = updated(before, width=512, height=512, prompt="flowers")
    assert classify(before, update.params, live=True).kind is ChangeKind.UNCHANGED


def test_hot_and_cold_together_are_cold_and_the_reason_names_the_cold_one() -> None:
    before = _start()
    change = classify(before, updated(before, prompt="x", use_denoising_batch=False).params, live=True)
    assert (change.kind, change.fields) == (ChangeKind.RELOAD, ("prompt", "use_denoising_batch"))
    assert change.reason.startswith("use_denoising_batch cannot")


def test_a_model_of_another_family_changes_only_what_differs_on_the_wire() -> None:
    before = created(DREAMSHAPER, ip_adapter={"enabled": True})
    change = classify(before, updated(before, model_id=SDXL_TURBO).params, live=True)
    assert (change.kind, change.fields) == (ChangeKind.RELOAD, ("model_id", "lcm_lora_id"))


def test_a_size_wins_over_everything_else() -> None:
    before = created(SD_TURBO)
    after = updated(before, prompt="x", skip_diffusion=True, width=640).params
    change = classify(before, after, live=True)
    assert change.kind is ChangeKind.REFUSED
    assert "from 512x512 to 640x512" in change.reason


def test_a_forgotten_field_is_cold() -> None:
    class LaterParams(SdxlTurboParams):
        brand_new: int = 1

    old = LaterParams(model_id=SDXL_TURBO)
    new = LaterParams(model_id=SDXL_TURBO, brand_new=2)
    assert classify(old, new, live=True).kind is ChangeKind.RELOAD


def test_hot_fields_exist() -> None:
    assert set(SdxlTurboParams.model_fields) >= HOT_FIELDS
