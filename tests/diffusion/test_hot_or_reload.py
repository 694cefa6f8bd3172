"""Table 3.1 of the contract, the rows about diffusion: what the answer to an update says is what the worker does."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sdstream.diffusion.loading.models import Model
from sdstream.diffusion.tiny import write_tiny_lora
from sdstream.directories import ModelPlaces
from sdstream.params import ChangeKind, ModelTable, apply_update, classify
from tests.diffusion.conftest import CANNY
from tests.diffusion.fleet import Fleet, difference, params_of, picture_of, small

START: dict[str, Any] = {
    "guidance_scale": 1.6,
    "negative_prompt": "",
    "prompt": [["the cat", 1.0], ["a hat in rain", 0.5]],
    "seed": [[3, 0.5], [4, 0.7]],
    "enable_similar_image_filter": False,
    "use_safety_checker": False,
    "acceleration": "none",
    "lora_dict": {"one": 0.5},
}
HOT: list[dict[str, Any]] = [
    {"prompt": "a dog"},
    {"guidance_scale": 3.0},
    {"delta": 0.1},
    {"t_index_list": [5, 30]},
    {"t_index_list": [30]},
    {"t_index_list": [5, 20, 30]},
    {"seed": 9},
    {"num_inference_steps": 70},
    {"negative_prompt": "a dog"},
    {"prompt_interpolation_method": "linear"},
    {"normalize_prompt_weights": False},
    {"seed_interpolation_method": "slerp"},
    {"normalize_seed_weights": False},
    {"use_safety_checker": True},
    {"do_add_noise": False},
    {"enable_similar_image_filter": True},
    {"similar_image_filter_threshold": 0.5},
    {"similar_image_filter_max_skip_frame": 3},
    {"lcm_lora_id": "somebody/else"},
    {"image_preprocessing": {"processors": [{"type": "blur"}]}},
    {"image_postprocessing": {"processors": [{"type": "sharpen"}]}},
    {"latent_preprocessing": {"processors": [{"type": "latent_feedback"}]}},
    {"latent_postprocessing": {"processors": [{"type": "latent_feedback"}]}},
    {"controlnets": [{"model_id": CANNY, "conditioning_scale": 0.0, "preprocessor": "canny", "enabled": True}]},
]
UNSEEN = ("use_safety_checker", "enable_similar_image_filter", "similar_image_filter_", "lcm_lora_id", "controlnets")
"""They leave the next picture as it would be: there is no checker here, every picture is another one, and no network is
loaded for a ControlNet without effect."""
RELOAD: list[dict[str, Any]] = [
    {"skip_diffusion": True},
    {"use_lcm_lora": False},
    {"acceleration": "tensorrt"},
    {"use_denoising_batch": False},
    {"lora_dict": None},
    {"lora_dict": {"one": 0.9}},
]


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Model]) -> ModelPlaces:
    folder = tmp_path_factory.mktemp("places")
    (folder / "loras").mkdir()
    write_tiny_lora(folder / "loras/one.safetensors", tiny_model("sd-turbo").unet)
    return ModelPlaces(folder / "models", folder / "loras", offline=True)


@pytest.fixture
def fleet(tiny_directory: Callable[..., Path], places: ModelPlaces) -> Iterator[Fleet]:
    with Fleet(tiny_directory("sd-turbo"), places=places) as made:
        yield made


def changed(change: dict[str, Any]) -> tuple[Any, Any]:
    before = params_of(**START)
    return before, apply_update(before, {"params": change}, ModelTable()).params


@pytest.mark.parametrize("change", HOT, ids=str)
def test_what_is_answered_hot_loads_nothing_and_loses_no_picture(fleet: Fleet, change: dict[str, Any]) -> None:
    before, after = changed(change)
    assert classify(before, after, live=True).kind is ChangeKind.HOT
    stream, twin = fleet.open(before), fleet.open(before)
    pipeline = stream.work.pipeline
    for number in range(3):
        for each in (stream, twin):
            each.put(picture_of(number))
        fleet.work()
    del stream.reports[:]
    fleet.update(stream, after)
    assert [report.phase for report in stream.reports] == ["ready"], "nothing was loaded"
    keeps = len(after.t_index_list) == len(before.t_index_list)
    assert (stream.work.pipeline is pipeline) == keeps, "only another number of steps takes another table"
    for number in (3, 4):  # of two steps, so the picture that came in with the change leaves as the second
        for each in (stream, twin):
            each.put(picture_of(number))
        fleet.work()
    assert [(sequence, revision) for sequence, revision, _ in stream.made[-3:]] == [(2, 1), (3, 2), (4, 2)]
    assert stream.reports[-1].effective_sequence == 3
    seen = difference(stream.newest, twin.newest)
    assert (seen == 0) == next(iter(change)).startswith(UNSEEN), seen


@pytest.mark.parametrize("change", RELOAD, ids=str)
def test_what_is_answered_reload_goes_another_way_and_no_picture_is_lost(fleet: Fleet, change: dict[str, Any]) -> None:
    before, after = changed(change)
    assert classify(before, after, live=True).kind is ChangeKind.RELOAD
    stream = fleet.open(before)
    pipeline = stream.work.pipeline
    assert pipeline is not None
    assert pipeline.plan(small(after)) is None
    for number in range(4):
        if number == 2:
            fleet.update(stream, after)
        stream.put(picture_of(number))
        fleet.work()
    assert [(sequence, revision) for sequence, revision, _ in stream.made] == [(0, 1), (1, 1), (2, 2), (3, 2)]
