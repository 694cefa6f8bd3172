"""Processors: complete parameters out, limits, and tolerance for what is not known."""

from typing import Any

import pytest

from sdstream.params import IMAGE_PROCESSORS, LATENT_PROCESSORS, parse_create
from sdstream.params.processors import PROCESSORS, ProcessorKind, ProcessorParameter
from sdstream.params.vocabulary import IMAGE_PROCESSOR_NAMES, LATENT_PROCESSOR_NAMES
from tests.params.requests import MODELS, SD_TURBO, created, refused_fields, updated

PARAMETERS = [
    pytest.param(kind, parameter, id=f"{kind.name}.{parameter.name}")
    for kind in IMAGE_PROCESSORS.values()
    for parameter in kind.parameters
]
BOUNDED = [entry for entry in PARAMETERS if entry.values[1].minimum is not None]  # pyright: ignore[reportAttributeAccessIssue]


def _block(processor: str, **params: Any) -> dict[str, Any]:
    return {"image_preprocessing": {"processors": [{"type": processor, "params": params}]}}


def _read(processor: str, **params: Any) -> dict[str, Any]:
    block = created(SD_TURBO, **_block(processor, **params)).image_preprocessing
    assert block is not None
    return block.processors[0].params


def test_every_name_of_the_wire_is_described() -> None:
    assert (tuple(IMAGE_PROCESSORS), tuple(LATENT_PROCESSORS)) == (IMAGE_PROCESSOR_NAMES, LATENT_PROCESSOR_NAMES)


def test_those_that_run_without_weights() -> None:
    assert {name for name, kind in PROCESSORS.items() if not kind.needs_model} == {
        *("passthrough", "blur", "sharpen", "canny", "soft_edge", "standard_lineart", "feedback", "upscale"),
        *("external", "latent_feedback", "temporal_net_tensorrt"),
    }


@pytest.mark.parametrize(
    ("processor", "defaults"),
    [
        ("blur", {"blur_intensity": 2.0, "kernel_size": 15}),
        ("canny", {"low_threshold": 100, "high_threshold": 200}),
        ("feedback", {"feedback_strength": 0.5}),
        ("temporal_net_tensorrt", {"flow_strength": 1.0}),
        ("pose_tensorrt", {"confidence_threshold": 0.5, "interval": 2}),
        ("standard_lineart", {"gaussian_sigma": 6.0, "intensity_threshold": 8}),
        ("upscale", {"scale_factor": 2.0, "algorithm": "bilinear"}),
        ("passthrough", {}),
        ("soft_edge", {}),
    ],
)
def test_defaults_are_filled_in(processor: str, defaults: dict[str, Any]) -> None:
    assert _read(processor) == defaults


@pytest.mark.parametrize(("kind", "parameter"), BOUNDED)
def test_the_limits_of_a_parameter_are_accepted(kind: ProcessorKind, parameter: ProcessorParameter) -> None:
    for value in (parameter.minimum, parameter.maximum):
        assert _read(kind.name, **{parameter.name: value})[parameter.name] == value


@pytest.mark.parametrize(("kind", "parameter"), BOUNDED)
def test_beyond_its_limits_a_parameter_is_refused(kind: ProcessorKind, parameter: ProcessorParameter) -> None:
    assert parameter.minimum is not None
    assert parameter.maximum is not None
    for value in (parameter.minimum - 1, parameter.maximum + 1):
        refused = refused_fields(SD_TURBO, **_block(kind.name, **{parameter.name: value}))
        assert refused == {f"params.image_preprocessing.processors[0].params.{parameter.name}"}


@pytest.mark.parametrize(("kind", "parameter"), PARAMETERS)
def test_a_parameter_of_a_wrong_type_is_refused(kind: ProcessorKind, parameter: ProcessorParameter) -> None:
    refused = refused_fields(SD_TURBO, **_block(kind.name, **{parameter.name: ["x"]}))
    assert refused == {f"params.image_preprocessing.processors[0].params.{parameter.name}"}


@pytest.mark.parametrize(("kind", "parameter"), PARAMETERS)
def test_a_default_and_a_slider_lie_within_the_limits(kind: ProcessorKind, parameter: ProcessorParameter) -> None:
    assert parameter.read(parameter.default) == parameter.default
    assert all(parameter.read(end) == end for end in parameter.slider or ())


def test_all_wrong_parameters_of_a_processor_are_reported() -> None:
    refused = refused_fields(SD_TURBO, **_block("canny", low_threshold=-1, high_threshold="x"))
    assert refused == {
        "params.image_preprocessing.processors[0].params.low_threshold",
        "params.image_preprocessing.processors[0].params.high_threshold",
    }


def test_unknown_parameters_are_kept_with_a_warning() -> None:
    request = parse_create({"params": _block("blur", mystery={"deep": [1]})}, MODELS)
    assert request.params.image_preprocessing is not None
    assert request.params.image_preprocessing.processors[0].params["mystery"] == {"deep": [1]}
    assert "mystery is not a parameter of blur" in request.warnings[0]
    near = parse_create({"params": _block("canny", low_treshold=3)}, MODELS)
    assert near.warnings[0].endswith("has no effect; did you mean 'low_threshold'?")


@pytest.mark.parametrize("value", [8, 0, -1, 1e308, True, "much", [2], {"by": 2}])
def test_a_parameter_of_another_processor_does_not_change_the_size_of_the_output(value: Any) -> None:
    processor = {"type": "realesrgan_trt", "params": {"scale_factor": value}}
    made = created(SD_TURBO, image_postprocessing={"processors": [processor]}).output_size
    assert (made.width, made.height) == (1024, 1024)


def test_a_null_parameter_takes_its_default() -> None:
    assert _read("feedback", feedback_strength=None) == {"feedback_strength": 0.5}


def test_the_size_of_the_control_picture_is_checked_but_never_filled_in() -> None:
    assert "image_resolution" not in _read("canny")
    assert _read("canny", image_resolution=640.0)["image_resolution"] == 640
    assert refused_fields(SD_TURBO, **_block("canny", image_width=0))


def test_the_same_rules_hold_for_a_controlnets_preprocessor() -> None:
    entry = {"model_id": "thibaud/controlnet-sd21-canny-diffusers", "preprocessor": "canny"}
    read = created(SD_TURBO, controlnets=[{**entry, "preprocessor_params": {"low_threshold": 50}}])
    assert read.controlnets[0].preprocessor_params == {"low_threshold": 50, "high_threshold": 200}
    wrong = {**entry, "preprocessor_params": {"low_threshold": -50}}
    refused = refused_fields(SD_TURBO, controlnets=[wrong])
    assert refused == {"params.controlnets[0].preprocessor_params.low_threshold"}


@pytest.mark.parametrize(
    ("block", "active"),
    [
        ({"processors": [{"type": "blur"}, {"type": "canny", "enabled": False}]}, ["blur"]),
        ({"enabled": False, "processors": [{"type": "blur"}]}, []),
        ({"processors": []}, []),
        ({}, []),
    ],
)
def test_active_processors_are_those_switched_on_in_a_block_switched_on(block: Any, active: list[str]) -> None:
    read = created(SD_TURBO, image_preprocessing=block).image_preprocessing
    assert read is not None
    assert [processor.type for processor in read.active] == active


def test_order_is_kept() -> None:
    names = ["sharpen", "blur", "canny", "blur"]
    read = created(SD_TURBO, image_preprocessing={"processors": [{"type": name} for name in names]})
    assert read.image_preprocessing is not None
    assert [processor.type for processor in read.image_preprocessing.active] == names


def test_a_block_takes_sixteen_processors() -> None:
    def block(count: int) -> dict[str, Any]:
        return {"image_preprocessing": {"processors": [{"type": "blur"}] * count}}

    assert created(SD_TURBO, **block(16))
    assert refused_fields(SD_TURBO, **block(17)) == {"params.image_preprocessing.processors"}


def test_two_streams_never_share_the_defaults() -> None:
    first, second = _read("blur"), _read("blur")
    first["blur_intensity"] = 9.0
    assert second["blur_intensity"] == 2.0


def test_processors_sent_back_are_the_same() -> None:
    before = created(SD_TURBO, **_block("blur", blur_intensity=3))
    assert updated(before, image_preprocessing=before.model_dump()["image_preprocessing"]).params == before
