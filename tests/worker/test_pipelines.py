"""The pipeline of image processors: order, switches, sizes, and what it cannot run."""

import pytest
import torch

from sdstream.frames import PictureSize
from sdstream.model_errors import ModelUnavailable
from sdstream.params import IMAGE_PROCESSORS, StreamParams
from sdstream.worker.colour import resize
from sdstream.worker.pipelines import ProcessorPipeline, make_pipeline
from sdstream.worker.processors import ProcessorContext, run_processor
from tests.worker.pictures import make_params

CPU = torch.device("cpu")
IMAGE = torch.rand(1, 3, 384, 384, generator=torch.Generator().manual_seed(3))


def pipeline(params: StreamParams) -> ProcessorPipeline:
    made = make_pipeline(params, CPU, lambda detail, percent: None)
    assert isinstance(made, ProcessorPipeline)
    return made


def run(name: str, image: torch.Tensor) -> torch.Tensor:
    return run_processor(name, image, IMAGE_PROCESSORS[name].defaults, ProcessorContext())


def test_both_blocks_run_in_the_order_given() -> None:
    params = make_params("sharpen", "canny", image_preprocessing={"processors": [{"type": "blur"}]})
    expected = run("canny", run("sharpen", run("blur", IMAGE)))
    assert torch.equal(pipeline(params).process(IMAGE), expected)


@pytest.mark.parametrize(
    "block",
    [
        {"enabled": False, "processors": [{"type": "canny"}]},
        {"processors": [{"type": "canny", "enabled": False}]},
        {"processors": [{"type": "openpose", "enabled": False}]},
        {"processors": []},
    ],
)
def test_what_is_switched_off_does_not_run(block: dict[str, object]) -> None:
    made = pipeline(make_params(image_postprocessing=block))
    assert made.changes_nothing
    assert torch.equal(made.process(IMAGE), IMAGE)


def test_states_name_the_place_in_the_params() -> None:
    made = pipeline(
        make_params(
            image_preprocessing={"processors": [{"type": "blur", "enabled": False}, {"type": "canny"}]},
            image_postprocessing={"processors": [{"type": "sharpen"}]},
        )
    )
    made.process(IMAGE)
    told = [(state.place, state.name) for state in made.told.states]
    assert told == [("image_preprocessing[1]", "canny"), ("image_postprocessing[0]", "sharpen")]


def test_processors_that_change_nothing_leave_the_fast_path_open() -> None:
    assert pipeline(make_params("passthrough", "external")).changes_nothing
    assert not pipeline(make_params("passthrough", "blur")).changes_nothing


@pytest.mark.parametrize("name", [kind.name for kind in IMAGE_PROCESSORS.values() if kind.needs_model])
def test_a_processor_whose_model_is_not_here_is_named_and_passed_over(name: str) -> None:
    made = pipeline(make_params(name, "blur"))
    pictures = [made.process(IMAGE) for _ in range(2)]
    assert torch.allclose(resize(pictures[-1], 384, 384), run("blur", IMAGE).clamp(0, 1), atol=0.05)
    assert [type(fault) for fault in made.faults] == [ModelUnavailable]
    assert name in made.faults[0].message or "depth" in made.faults[0].message


def test_diffusion_is_refused_with_the_way_out() -> None:
    with pytest.raises(ModelUnavailable, match="skip_diffusion"):
        pipeline(make_params(skip_diffusion=False))


def test_new_params_take_effect_with_the_next_picture() -> None:
    made = pipeline(make_params("blur"))
    made.process(IMAGE)
    assert made.apply(make_params("canny"))
    assert torch.equal(made.process(IMAGE), run("canny", IMAGE))


def test_diffusion_needs_another_pipeline() -> None:
    assert not pipeline(make_params("blur")).apply(make_params(skip_diffusion=False))


def test_feedback_mixes_with_what_came_out_before() -> None:
    made = pipeline(make_params({"type": "feedback", "params": {"feedback_strength": 0.25}}))
    black = torch.zeros_like(IMAGE)
    assert torch.equal(made.process(IMAGE), IMAGE)
    second = made.process(black)
    assert torch.allclose(second, 0.25 * IMAGE, atol=1e-6)
    assert torch.allclose(made.process(black), 0.25 * second, atol=1e-6)


def test_a_stream_that_takes_feedback_up_later_starts_from_the_present_picture() -> None:
    made = pipeline(make_params("blur"))
    made.process(IMAGE)
    made.apply(make_params("feedback"))
    black = torch.zeros_like(IMAGE)
    assert torch.equal(made.process(black), black)


def test_upscale_at_the_end_enlarges_the_output() -> None:
    made = pipeline(make_params({"type": "upscale", "params": {"scale_factor": 1.5}}))
    assert made.output_size == PictureSize(576, 576)
    assert made.process(IMAGE).shape == (1, 3, 576, 576)


def test_upscale_before_the_end_keeps_the_output_size() -> None:
    made = pipeline(make_params(image_preprocessing={"processors": [{"type": "upscale"}]}))
    assert made.output_size == made.input_size
    assert made.process(IMAGE).shape == IMAGE.shape
