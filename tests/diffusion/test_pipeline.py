"""A stream's way through a tiny model: priming, hot params, what is refused, and the worker's process end to end."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sdstream.frames import PictureSize
from sdstream.model_errors import ModelUnavailable
from sdstream.params import ModelEntry, ModelTable, StreamParams, parse_create
from sdstream.settings import Family
from sdstream.worker import diffusion_pipeline
from sdstream.worker.diffusion_pipeline import DiffusionPipeline
from sdstream.worker.loading.loaded import choose_guidance
from sdstream.worker.loading.shelf import ModelShelf
from sdstream.worker.pipelines import Pipeline, ProcessorPipeline, make_pipeline
from tests.diffusion.runs import distance, frame_of, pictures, run
from tests.diffusion.runs import knobs_of as knobs_of_run

CPU = torch.device("cpu")
IDS: dict[Family, str] = {
    "sd-turbo": "stabilityai/sd-turbo",
    "sdxl-turbo": "stabilityai/sdxl-turbo",
    "sd15": "Lykon/dreamshaper-8",
}
CANNY_NET = {"model_id": "thibaud/controlnet-sd21-canny-diffusers", "preprocessor": "canny", "conditioning_scale": 0.5}
SMALL = {"width": 64, "height": 64}
"""Below what the wire allows: the engine does not care, and the tests are quick."""

Directory = Callable[..., Path]


def params_of(family: Family = "sd-turbo", size: dict[str, int] = SMALL, **fields: Any) -> StreamParams:
    body = {"model_id": IDS[family], "use_lcm_lora": False, "t_index_list": [20, 35], **fields}
    params = parse_create({"pipeline": "streamdiffusion", "params": body}, ModelTable()).params
    return params.model_copy(update=size)


def quiet(detail: str, percent: float | None) -> None:
    pass


@pytest.fixture
def make(tiny_directory: Directory) -> Callable[..., DiffusionPipeline]:
    def made(family: Family = "sd-turbo", progress: Any = quiet, **fields: Any) -> DiffusionPipeline:
        models = ModelTable([ModelEntry(IDS[family], family, str(tiny_directory(family)))])
        pipeline = make_pipeline(params_of(family, **fields), CPU, progress, models)
        assert isinstance(pipeline, DiffusionPipeline)
        return pipeline

    return made


Make = Callable[..., DiffusionPipeline]


def process(pipeline: Pipeline, images: list[torch.Tensor]) -> list[torch.Tensor]:
    return [pipeline.process(image) for image in images]


@pytest.mark.parametrize("family", list(IDS))
def test_pictures_of_every_family_have_the_size_and_range_of_pictures(make: Make, family: Family) -> None:
    pipeline = make(family)
    made = process(pipeline, pictures(3))
    assert all(image.shape == (1, 3, 64, 64) and image.min() >= 0 and image.max() <= 1 for image in made)
    assert all(image.std() > 0.05 for image in made), "an even grey says nothing"
    assert distance(made[0], made[2]) > 1e-2
    assert not pipeline.changes_nothing
    assert pipeline.input_size == pipeline.output_size == PictureSize(64, 64)


def test_the_first_picture_fills_all_steps_and_leaves_first(make: Make, tiny_model: Callable[..., Any]) -> None:
    images = pictures(3)
    pipeline = make(prompt="the cat", seed=2, delta=1.0, t_index_list=[12, 20, 32], negative_prompt="an hat")
    model = tiny_model("sd-turbo")
    frame = frame_of(model, 3)
    expected = run(frame, knobs_of_run(model, (12, 20, 32)), [images[0]] * 2 + images)[2:]
    assert all(
        distance(a, b.image.clamp(0, 1)) < 1e-4 for a, b in zip(process(pipeline, images), expected, strict=True)
    )


def test_streams_of_one_model_share_its_weights(make: Make) -> None:
    assert make()._model is make(prompt="another")._model
    assert make()._model is not make("sd15")._model


HOT: dict[str, dict[str, Any]] = {
    "prompt": {"prompt": "a dog in the rain"},
    "prompts": {"prompt": [["a dog", 0.7], ["the cat", 0.3]]},
    "negative_prompt": {"negative_prompt": "the hat"},
    "no negative_prompt": {"negative_prompt": ""},
    "guidance_scale": {"guidance_scale": 3.0},
    "delta": {"delta": 0.1},
    "seed": {"seed": 3},
    "seeds": {"seed": [[3, 0.5], [4, 0.5]]},
    "t_index_list": {"t_index_list": [10, 40]},
    "num_inference_steps": {"num_inference_steps": 70},
    "image_postprocessing": {"image_postprocessing": {"processors": [{"type": "canny"}]}},
}


@pytest.mark.parametrize("name", HOT)
def test_a_hot_parameter_counts_from_the_next_picture_on(make: Make, name: str) -> None:
    images = pictures(6)
    before = {"guidance_scale": 1.5, "prompt": "the cat"}
    turned, kept = make(**before), make(**before)
    assert all(torch.equal(a, b) for a, b in zip(process(turned, images[:3]), process(kept, images[:3]), strict=True))
    assert turned.apply(params_of(**(before | HOT[name])))
    other = make(**(before | HOT[name]))
    other.begin(turned)  # what it has seen, and nothing else
    now, expected, unturned = (process(pipeline, images[3:]) for pipeline in (turned, other, kept))
    assert all(torch.equal(a, b) for a, b in zip(now, expected, strict=True))
    assert distance(now[-1], unturned[-1]) > 1e-3, "the parameter does nothing"


def test_turning_a_prompt_leaves_the_remembered_one_as_it_was(make: Make) -> None:
    images = pictures(1)
    first = process(make(prompt="the cat"), images)[0]
    turned = make(prompt="the cat")
    assert turned.apply(params_of(prompt="a dog"))
    turned.process(images[0])
    assert torch.equal(process(make(prompt="the cat"), images)[0], first)


@pytest.mark.parametrize(
    "fields",
    [
        {"t_index_list": [20]},
        {"size": {"width": 128, "height": 64}},
        {"use_denoising_batch": False},
        {"skip_diffusion": True},
        {"lora_dict": {"some/lora": 1.0}},
        {"family": "sd15"},
    ],
)
def test_what_changes_shapes_needs_another_pipeline_and_leaves_this_one(make: Make, fields: dict[str, Any]) -> None:
    images = pictures(2)
    asked, left = make(), make()
    assert not asked.apply(params_of(**fields))
    assert all(torch.equal(a, b) for a, b in zip(process(asked, images), process(left, images), strict=True))


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"lora_dict": {"some/lora": 1.0}}, "some/lora is not on this machine"),
        ({"controlnets": [CANNY_NET]}, "controlnet-sd21-canny"),
    ],
)
def test_what_cannot_run_is_refused_by_name(make: Make, fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ModelUnavailable, match=named):
        make(**fields)


def test_refused_params_leave_the_old_ones_in_force(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    images = pictures(2)
    asked, left = make(), make()

    def refuse(*args: Any, **kwargs: Any) -> None:
        raise ModelUnavailable("no noise")

    with monkeypatch.context() as late:
        late.setattr("sdstream.worker.diffusion_plan.make_noise", refuse)
        with pytest.raises(ModelUnavailable, match="no noise"):
            asked.apply(params_of(prompt="a dog", guidance_scale=1.5))
    assert all(torch.equal(a, b) for a, b in zip(process(asked, images), process(left, images), strict=True))


def test_a_model_that_is_not_here_is_refused_with_the_way_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(ModelUnavailable, match="models pull stabilityai/sd-turbo"):
        make_pipeline(params_of(), CPU, quiet)


def test_skip_diffusion_needs_no_model() -> None:
    assert isinstance(make_pipeline(params_of(skip_diffusion=True), CPU, quiet), ProcessorPipeline)


def test_text_that_the_model_does_not_read_is_reported(make: Make) -> None:
    long = "the cat " * 60
    pipeline = make(prompt=long, negative_prompt=long)
    assert sum("120 tokens" in note for note in pipeline.notes) == 2
    assert [remark.place for remark in pipeline.remarks] == ["prompt", "negative_prompt"]
    assert all("120 tokens" in remark.message for remark in pipeline.remarks)
    assert make(prompt="the cat").remarks == ()


def test_progress_rises_to_the_end(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diffusion_pipeline, "shelf", ModelShelf())
    told: list[tuple[str, float | None]] = []
    make(progress=lambda *each: told.append(each))
    percents = [percent for _, percent in told if percent is not None]
    assert percents == sorted(percents)
    assert percents[-1] == 100
    assert told[-1] == ("encoding the prompt", None), "what comes after the model is not told as the model, loaded"


def test_a_pipeline_of_a_model_that_runs_already_tells_nothing(make: Make) -> None:
    make()
    told: list[tuple[str, float | None]] = []
    make(prompt="a dog", t_index_list=[10, 30], progress=lambda *each: told.append(each))
    assert told == []


def test_a_negative_prompt_counts_only_with_guidance() -> None:
    assert choose_guidance(params_of(guidance_scale=1.0, negative_prompt="rain")) == "self"
    assert choose_guidance(params_of(guidance_scale=1.1, negative_prompt=" ")) == "self"
    assert choose_guidance(params_of(guidance_scale=1.1, negative_prompt="rain")) == "initialize"


def test_the_sequential_pipeline_is_its_batched_twin_without_delay(make: Make) -> None:
    images = pictures(4)
    batched, sequential = make(guidance_scale=1.5), make(guidance_scale=1.5, use_denoising_batch=False)
    late, at_once = process(batched, images)[1:], process(sequential, images)[:-1]
    assert all(distance(a, b) < 1e-4 for a, b in zip(late, at_once, strict=True))
