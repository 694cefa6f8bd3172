"""What comes into force of params of which a part cannot be had."""

from typing import Any

import pytest

from sdstream.params import StreamParams
from sdstream.params.attainable import (
    LCM,
    Failed,
    attainable,
    controlnet_part,
    lora_part,
    place_of,
    startable,
    with_hot,
)
from tests.params.requests import DREAMSHAPER, SD_TURBO, SDXL_CANNY, SDXL_DEPTH, SDXL_TILE, SDXL_TURBO, created, updated

CANNY: dict[str, Any] = {"model_id": SDXL_CANNY, "preprocessor": "canny", "conditioning_scale": 0.5}
DEPTH: dict[str, Any] = {"model_id": SDXL_DEPTH, "preprocessor": "depth", "conditioning_scale": 0.5}
TILE: dict[str, Any] = {"model_id": SDXL_TILE, "preprocessor": "feedback", "conditioning_scale": 0.5}
STYLE = "data:image/png;base64,iVBORw0KGgo" + "A" * 41 + "SUVORA=="
OTHER_STYLE = "data:image/png;base64,iVBORw0KGgo" + "B" * 41 + "SUVORA=="
NO_DEPTH = controlnet_part(SDXL_DEPTH)


def running(**params: Any) -> StreamParams:
    return created(SDXL_TURBO, **{"prompt": "old", "controlnets": [CANNY], **params})


def patched(params: StreamParams, **sent: Any) -> StreamParams:
    return updated(params, **sent).params


@pytest.mark.parametrize(
    "knob",
    [
        {"prompt": "new"},
        {"seed": 5},
        {"guidance_scale": 1.5},
        {"delta": 0.3},
        {"t_index_list": [20]},
        {"t_index_list": [10, 20]},
        {"lora_dict": {"some/lora": 0.5}},
        {"image_preprocessing": {"processors": [{"type": "blur"}]}},
        {"controlnets": [{**CANNY, "conditioning_scale": 0.9}, DEPTH]},
        {"controlnets": [TILE, DEPTH]},
    ],
    ids=lambda knob: str(next(iter(knob))),
)
def test_all_but_the_missing_controlnet_comes_into_force(knob: dict[str, Any]) -> None:
    old = running()
    wanted = patched(old, controlnets=[CANNY, DEPTH])
    turned = patched(wanted, **knob)
    target = attainable(turned, old, [Failed(wanted, NO_DEPTH)])
    present = [net.model_dump() for net in turned.controlnets if net.model_id != SDXL_DEPTH]
    assert target == patched(turned, controlnets=present)


def test_nothing_is_given_while_only_the_missing_part_changes() -> None:
    old = running()
    wanted = patched(old, controlnets=[CANNY, DEPTH])
    louder = patched(wanted, controlnets=[CANNY, {**DEPTH, "conditioning_scale": 0.9}])
    for params in (wanted, louder):
        assert attainable(params, old, [Failed(wanted, NO_DEPTH)]) == old


@pytest.mark.parametrize("off", [{"enabled": False}, {"conditioning_scale": 0}])
def test_what_is_no_longer_asked_for_holds_nothing_up(off: dict[str, Any]) -> None:
    old = running()
    failed = Failed(patched(old, controlnets=[CANNY, DEPTH]), NO_DEPTH)
    without = patched(failed.params, controlnets=[CANNY, {**DEPTH, **off}])
    assert attainable(without, old, [failed]) == without
    assert not failed.is_asked_by(without)


def test_several_missing_parts_are_left_out_together() -> None:
    old = running()
    wanted = patched(old, controlnets=[CANNY, DEPTH], lora_dict={"bad/one": 1.0, "good/one": 0.3}, prompt="new")
    failed = [Failed(wanted, NO_DEPTH), Failed(wanted, lora_part("bad/one"))]
    assert attainable(wanted, old, failed) == patched(old, lora_dict={"good/one": 0.3}, prompt="new")


def test_a_lora_that_runs_keeps_its_weight_where_the_other_cannot_be_had() -> None:
    old = running(lora_dict={"some/lora": 0.5})
    wanted = patched(old, lora_dict={"some/lora": 0.9}, prompt="new")
    assert attainable(wanted, old, [Failed(wanted, lora_part("some/lora"))]) == patched(old, prompt="new")


def test_a_style_image_that_cannot_be_used_leaves_the_one_before_and_the_strength_can_be_turned() -> None:
    old = running(ip_adapter={"enabled": True, "scale": 0.5}, ip_adapter_style_image_url=STYLE)
    wanted = patched(old, ip_adapter_style_image_url=OTHER_STYLE)
    failed = Failed(wanted, "ip_adapter")
    turned = patched(wanted, ip_adapter={"scale": 0.8})
    assert attainable(turned, old, [failed]) == patched(old, ip_adapter={"scale": 0.8})


def test_an_adapter_that_never_ran_stays_off() -> None:
    old = running(ip_adapter_style_image_url=STYLE)
    wanted = patched(old, ip_adapter={"enabled": True}, prompt="new")
    assert attainable(wanted, old, [Failed(wanted, "ip_adapter")]) == patched(old, prompt="new")


def test_a_model_that_cannot_be_had_leaves_the_one_before_with_the_new_knobs() -> None:
    old = created(SD_TURBO, prompt="old", t_index_list=[20, 30])
    wanted = patched(old, model_id=DREAMSHAPER, prompt="new", t_index_list=[10, 40], seed=5)
    assert attainable(wanted, old, [Failed(wanted)]) == patched(old, prompt="new", t_index_list=[10, 40], seed=5)
    # Another number of steps would need other tensors, and no model is known to fit them.
    longer = patched(wanted, t_index_list=[10, 20, 30], guidance_scale=2)
    assert attainable(longer, old, [Failed(longer)]) == patched(old, prompt="new", seed=5, guidance_scale=2)


def test_a_part_missing_of_another_model_keeps_that_model_from_nobody() -> None:
    old = created(SD_TURBO, prompt="old", t_index_list=[36], lora_dict={"bad/one": 0.5})
    wanted = patched(old, model_id=SDXL_TURBO, controlnets=[CANNY, DEPTH], lora_dict={"bad/one": 1.0}, prompt="new")
    failed = [Failed(wanted, NO_DEPTH), Failed(wanted, lora_part("bad/one"))]
    # What the model before has of it fits no other.
    assert attainable(wanted, old, failed) == patched(wanted, controlnets=[CANNY], lora_dict=None)
    assert attainable(wanted, old, [*failed, Failed(wanted)]).model_id == SD_TURBO


def test_the_lcm_lora_is_a_part_without_which_no_model_comes_into_force() -> None:
    old = created(DREAMSHAPER, use_lcm_lora=False, prompt="old")
    wanted = patched(old, use_lcm_lora=True, lora_dict={"good/one": 0.3}, prompt="new")
    failed = Failed(wanted, LCM)
    assert place_of(failed, wanted, old) == ("use_lcm_lora", "")
    assert attainable(wanted, old, [failed]) == patched(wanted, use_lcm_lora=False)
    assert startable(wanted, [failed]) is None
    other = created(SD_TURBO, prompt="old", t_index_list=[5, 15, 32])
    assert attainable(wanted, other, [failed]) == with_hot(other, wanted)
    running = patched(old, use_lcm_lora=True)
    assert attainable(wanted, running, [failed]) == with_hot(running, wanted)


def test_what_failed_is_asked_by_those_who_asked_for_it() -> None:
    params = running()
    for part in ("", NO_DEPTH, LCM, lora_part("never/named"), "ip_adapter", "something else"):
        assert Failed.of(params, part).is_asked_by(params)
    assert Failed.of(patched(params, controlnets=[DEPTH]), NO_DEPTH).part == NO_DEPTH


def test_a_missing_part_does_not_keep_diffusion_off() -> None:
    old = created(SD_TURBO, skip_diffusion=True, lora_dict={"bad/one": 0.5})
    wanted = patched(old, skip_diffusion=False)
    failed = Failed(wanted, lora_part("bad/one"))
    assert attainable(wanted, old, [failed]) == patched(wanted, lora_dict=None)


def test_diffusion_that_cannot_be_switched_on_leaves_the_processors_turning() -> None:
    old = created(SD_TURBO, skip_diffusion=True)
    wanted = patched(old, skip_diffusion=False)
    block = {"processors": [{"type": "blur"}]}
    turned = patched(wanted, image_preprocessing=block)
    assert attainable(turned, old, [Failed(wanted)]) == patched(old, image_preprocessing=block)


def test_the_same_is_not_tried_again_for_a_knob_and_is_for_what_may_mend_it() -> None:
    failed = Failed(running(use_denoising_batch=False))
    assert failed.is_asked_by(patched(failed.params, prompt="new", seed=7))
    assert not failed.is_asked_by(patched(failed.params, use_denoising_batch=True))
    assert not failed.is_asked_by(patched(failed.params, t_index_list=[10, 20]))


def test_what_fails_even_without_the_missing_part_leaves_what_runs() -> None:
    old = running()
    wanted = patched(old, controlnets=[CANNY, DEPTH], prompt="new")
    hot = with_hot(old, wanted)
    assert hot == patched(old, prompt="new")
    assert attainable(wanted, old, [Failed(wanted, NO_DEPTH), Failed(hot)]) == old


def test_no_size_of_the_output_changes_beside_what_runs() -> None:
    old = running()
    enlarged = patched(old, image_postprocessing={"processors": [{"type": "upscale"}]}, prompt="new")
    assert with_hot(old, enlarged) == patched(old, prompt="new")


def test_a_missing_part_is_named_by_its_place() -> None:
    old = running()
    wanted = patched(old, controlnets=[CANNY, DEPTH])
    assert place_of(Failed(wanted, NO_DEPTH), wanted, old) == ("controlnets[1]", SDXL_DEPTH)
    assert place_of(Failed(wanted, lora_part("x/y")), wanted, old) == ("lora_dict", "")
    switched = patched(old, use_lcm_lora=False)
    assert place_of(Failed(switched), switched, old) == ("use_lcm_lora", "")
