"""Merging update bodies: what is kept, what is replaced, and what happens when the model changes."""

from dataclasses import replace
from typing import Any

import pytest

from sdstream.errors import InvalidParams
from sdstream.params import (
    CONTROLNETS,
    ChangeKind,
    ModelTable,
    SdTurboParams,
    SdxlTurboParams,
    apply_update,
    classify,
    wire_params,
)
from tests.params.requests import (
    DREAMSHAPER,
    MODELS,
    PUBLIC_IDS,
    SD_TURBO,
    SDXL_CANNY,
    SDXL_DEPTH,
    SDXL_TILE,
    SDXL_TURBO,
    created,
    refusal,
    updated,
)

FULL: dict[str, Any] = {
    "prompt": [["a", 1], ["b", 2]],
    "seed": [[1, 1], [2, 1]],
    "t_index_list": [4, 9],
    "width": 640,
    "lora_dict": {"owner/repo": 0.5},
    "controlnets": [
        {"model_id": SDXL_DEPTH, "conditioning_scale": 0.4, "preprocessor": "depth_tensorrt"},
        {"model_id": SDXL_CANNY, "conditioning_scale": 0.1, "preprocessor": "canny"},
    ],
    "ip_adapter": {"type": "faceid", "enabled": True, "scale": 0.7, "weight_type": "composition"},
    "ip_adapter_style_image_url": "https://example.org/style.png",
    "image_preprocessing": {"enabled": False, "processors": [{"type": "blur", "params": {"blur_intensity": 3}}]},
}


def test_a_prompt_alone_changes_nothing_else() -> None:
    before = created(SDXL_TURBO, **FULL)
    after = updated(before, prompt="new").params
    assert wire_params(after) == {**wire_params(before), "prompt": "new"}


@pytest.mark.parametrize(
    "body",
    [
        {"pipeline": "streamdiffusion", "params": {"model_id": SDXL_TURBO, "prompt": "new"}},
        {"params": {"prompt": "new"}},
        {"prompt": "new"},
        {"model_id": SDXL_TURBO, "params": {"prompt": "new"}},
        {"pipeline_id": "pip_SD15", "pipeline_params": {"prompt": "new"}},
    ],
)
def test_every_shape_of_an_update_is_taken(body: Any) -> None:
    after = apply_update(created(SDXL_TURBO), body, MODELS).params
    assert (after.model_id, after.prompt) == (SDXL_TURBO, "new")


@pytest.mark.parametrize("body", [{}, {"params": {}}, {"params": None}, {"params": {"prompt": None}}])
def test_an_update_of_nothing_changes_nothing(body: Any) -> None:
    before = created(SDXL_TURBO, **FULL)
    assert apply_update(before, body, MODELS).params == before


@pytest.mark.parametrize("model_id", PUBLIC_IDS)
def test_the_full_set_sent_back_changes_nothing(model_id: str) -> None:
    before = created(model_id)
    update = updated(before, **wire_params(before))
    assert (update.params, update.warnings) == (before, ())


def test_the_stream_it_was_made_from_stays_as_it_was() -> None:
    before = created(SDXL_TURBO, **FULL)
    text = before.model_dump_json()
    updated(before, prompt="x", ip_adapter={"scale": 0.1}, lora_dict=None, controlnets=[])
    assert before.model_dump_json() == text


def test_a_scale_alone_keeps_the_other_members_of_the_adapter() -> None:
    after = updated(created(SDXL_TURBO, **FULL), ip_adapter={"scale": 0.3}).params
    assert wire_params(after)["ip_adapter"] == {**FULL["ip_adapter"], "scale": 0.3}


def test_a_merge_into_an_adapter_that_is_off_leaves_it_off() -> None:
    after = updated(created(SDXL_TURBO), ip_adapter={"scale": 0.3}).params
    assert wire_params(after)["ip_adapter"]["enabled"] is False


def test_cached_attention_merges() -> None:
    after = updated(created(SDXL_TURBO, cached_attention={"max_frames": 3}), cached_attention={"interval": 9}).params
    assert wire_params(after)["cached_attention"] == {"enabled": True, "max_frames": 3, "interval": 9}


def test_the_switch_of_a_block_merges_and_keeps_its_processors() -> None:
    after = updated(created(SDXL_TURBO, **FULL), image_preprocessing={"enabled": True}).params
    assert after.image_preprocessing is not None
    assert [processor.type for processor in after.image_preprocessing.active] == ["blur"]


def test_processors_are_replaced_whole_and_the_switch_stays() -> None:
    sent = {"processors": [{"type": "canny"}]}
    after = updated(created(SDXL_TURBO, **FULL), image_preprocessing=sent).params
    assert after.image_preprocessing is not None
    assert after.image_preprocessing.enabled is False
    assert [processor.type for processor in after.image_preprocessing.processors] == ["canny"]


@pytest.mark.parametrize("name", ["prompt", "seed", "t_index_list", "controlnets"])
def test_arrays_are_replaced_whole(name: str) -> None:
    new = {"prompt": [["c", 1]], "seed": [[9, 1]], "t_index_list": [7], "controlnets": []}[name]
    after = updated(created(SDXL_TURBO, **FULL), **{name: new}).params
    assert wire_params(after)[name] == new


@pytest.mark.parametrize("value", [None, {}])
def test_null_and_empty_clear_the_loras(value: object) -> None:
    assert updated(created(SDXL_TURBO, **FULL), lora_dict=value).params.lora_dict is None


def test_loras_are_replaced_whole() -> None:
    assert updated(created(SDXL_TURBO, **FULL), lora_dict={"b": 1}).params.lora_dict == {"b": 1.0}


def test_an_empty_style_image_clears_it() -> None:
    after = updated(created(SDXL_TURBO, **FULL), ip_adapter_style_image_url="").params
    assert wire_params(after)["ip_adapter_style_image_url"] is None


def test_seed_minus_one_keeps_the_seed() -> None:
    assert updated(created(SD_TURBO, seed=5), seed=-1).params.seed == 5


@pytest.mark.parametrize("length", [25, 25.0, "25"])
def test_a_shorter_schedule_cuts_the_steps_with_a_warning(length: object) -> None:
    update = updated(created(SD_TURBO), num_inference_steps=length)
    assert update.params.t_index_list == (12, 20, 25)
    assert update.warnings == ("params.t_index_list was cut to [12, 20, 25] to fit num_inference_steps 25",)


def test_a_shorter_schedule_with_steps_that_do_not_fit_is_refused() -> None:
    body = {"params": {"num_inference_steps": 25, "t_index_list": [30]}}
    assert set(refusal(body, created(SD_TURBO))) == {"params.t_index_list[0]"}


@pytest.mark.parametrize("length", [0, 101, "x", True, 2.5, "2e1", [25]])
def test_a_wrong_schedule_is_refused_and_nothing_else(length: object) -> None:
    assert set(refusal({"params": {"num_inference_steps": length}}, created(SD_TURBO))) == {
        "params.num_inference_steps"
    }


def test_rules_look_at_the_merged_parameters() -> None:
    before = created(SDXL_TURBO, cached_attention={"enabled": True})
    assert set(refusal({"params": {"width": 640}}, before)) == {"params.cached_attention.enabled"}


def test_the_regular_type_that_sdks_add_counts_and_is_noted() -> None:
    update = updated(created(SDXL_TURBO, **FULL), ip_adapter={"type": "regular", "scale": 0.2})
    assert isinstance(update.params, SdxlTurboParams)
    assert update.params.ip_adapter.type == "regular"
    assert "repeat type: faceid" in update.warnings[0]


def test_the_name_is_fixed_after_creation() -> None:
    update = apply_update(created(SD_TURBO), {"name": "x", "params": {}}, MODELS)
    assert update.warnings == ("name is fixed when a stream is created and was ignored",)


def test_a_model_of_the_same_family_keeps_everything() -> None:
    before = created(DREAMSHAPER, prompt="a tree", controlnets=[{"model_id": "lllyasviel/control_v11p_sd15_canny"}])
    after = updated(before, model_id="prompthero/openjourney-v4").params
    assert wire_params(after) == {**wire_params(before), "model_id": "prompthero/openjourney-v4"}


def test_a_model_of_another_family_keeps_what_both_have() -> None:
    after = updated(created(SDXL_TURBO, **FULL), model_id=SD_TURBO).params
    assert isinstance(after, SdTurboParams)
    assert (after.prompt, after.width, after.t_index_list) == ((("a", 1.0), ("b", 2.0)), 640, (4, 9))


def test_counterparts_are_those_of_this_server_so_that_sending_them_again_changes_nothing() -> None:
    own = "lllyasviel/control_v11p_sd15_canny"
    table = ModelTable(controlnets={**CONTROLNETS, own: replace(CONTROLNETS[own], source="/models/canny")})
    before = created(SDXL_TURBO, controlnets=[{"model_id": "xinsir/controlnet-canny-sdxl-1.0"}])
    after = apply_update(before, {"params": {"model_id": DREAMSHAPER}}, table).params
    assert [entry.source for entry in after.controlnets] == ["/models/canny"]
    again = apply_update(after, {"params": {"controlnets": wire_params(after)["controlnets"]}}, table).params
    assert classify(after, again, live=True).kind is ChangeKind.UNCHANGED


def test_controlnets_become_their_counterparts_with_their_scales() -> None:
    after = updated(created(SDXL_TURBO, **FULL), model_id=DREAMSHAPER).params
    assert [(entry.model_id, entry.conditioning_scale, entry.preprocessor) for entry in after.controlnets] == [
        ("lllyasviel/control_v11f1p_sd15_depth", 0.4, "depth_tensorrt"),
        ("lllyasviel/control_v11p_sd15_canny", 0.1, "canny"),
    ]


def test_a_controlnet_without_counterpart_is_dropped_with_a_warning() -> None:
    update = updated(created(SDXL_TURBO, controlnets=[{"model_id": SDXL_TILE}]), model_id=SD_TURBO)
    assert update.params.controlnets == ()
    assert any(SDXL_TILE in warning for warning in update.warnings)


def test_a_lost_adapter_is_told_only_when_it_was_on() -> None:
    assert any("ip_adapter" in line for line in updated(created(SDXL_TURBO, **FULL), model_id=SD_TURBO).warnings)
    assert updated(created(SDXL_TURBO), model_id=SD_TURBO).warnings == ()


def test_faceid_becomes_regular_on_sd15() -> None:
    update = updated(created(SDXL_TURBO, **FULL), model_id=DREAMSHAPER)
    assert wire_params(update.params)["ip_adapter"] == {**FULL["ip_adapter"], "type": "regular"}
    assert any("faceid" in warning for warning in update.warnings)


def test_the_lcm_lora_follows_the_family_unless_it_was_chosen() -> None:
    assert updated(created(DREAMSHAPER), model_id=SDXL_TURBO).params.lcm_lora_id == "latent-consistency/lcm-lora-sdxl"
    chosen = created(DREAMSHAPER, lcm_lora_id="me/mine")
    assert updated(chosen, model_id=SDXL_TURBO).params.lcm_lora_id == "me/mine"


def test_a_switch_there_and_back_from_the_defaults_is_no_change_but_the_steps() -> None:
    before = created(SD_TURBO)
    back = updated(updated(before, model_id=SDXL_TURBO).params, model_id=SD_TURBO).params
    assert back == before


def test_an_unknown_model_is_refused() -> None:
    assert set(refusal({"params": {"model_id": "no/such"}}, created(SD_TURBO))) == {"params.model_id"}


def test_a_model_that_left_the_table_can_still_be_updated() -> None:
    orphan = SdxlTurboParams(model_id="gone/model")
    assert updated(orphan, prompt="x").params.model_id == "gone/model"


def test_a_refused_update_is_atomic() -> None:
    before = created(SDXL_TURBO, **FULL)
    text = before.model_dump_json()
    with pytest.raises(InvalidParams):
        updated(before, prompt="good", width=100)
    assert before.model_dump_json() == text


def test_a_shortened_style_image_that_is_sent_back_changes_nothing() -> None:
    picture = "data:image/png;base64,iVBORw0KGgo" + "A" * 4001 + "SUVORA=="
    stream = created(SDXL_TURBO, ip_adapter_style_image_url=picture)
    wire = wire_params(stream, short_images=True)
    assert apply_update(stream, {"params": wire | {"prompt": "new"}}, MODELS).params == stream.model_copy(
        update={"prompt": "new"}
    )
    with pytest.raises(InvalidParams):
        apply_update(created(SDXL_TURBO), {"params": wire}, MODELS)
