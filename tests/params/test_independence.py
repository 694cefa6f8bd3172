"""Whether a picture is made of itself alone is told by the params, for each thing that could look at earlier ones."""

from typing import Any

import pytest

from sdstream.jobs.passage import plan_file
from sdstream.params import StreamParams
from sdstream.params.independence import why_dependent
from sdstream.params.processors import IMAGE_PROCESSORS
from sdstream.settings import Settings
from tests.params.requests import created

SD15 = "Lykon/dreamshaper-8"
SETTINGS = Settings.model_validate({})


def params(**wanted: Any) -> StreamParams:
    return created(SD15, **wanted)


def block(name: str, **told: Any) -> dict[str, Any]:
    return {"processors": [{"type": name, "params": told}]}


def net(preprocessor: str, scale: float = 0.5, **told: Any) -> list[dict[str, Any]]:
    return [
        {
            "model_id": "lllyasviel/control_v11f1p_sd15_depth",
            "conditioning_scale": scale,
            "preprocessor": preprocessor,
            "preprocessor_params": told,
        }
    ]


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"t_index_list": [1, 2, 3, 4]},
        {"t_index_list": [5], "use_denoising_batch": False},
        {"guidance_scale": 2.0, "cfg_type": "self"},
        {"controlnets": net("canny")},
        {"controlnets": net("feedback", 0.0)},
        {"image_preprocessing": block("blur") | {"enabled": True}},
        {"image_preprocessing": block("feedback") | {"enabled": False}},
        {"image_postprocessing": block("openpose", interval=1)},
        {"image_postprocessing": block("blur", interval="of no meaning to it")},
        {"skip_diffusion": True, "cached_attention": {"enabled": True}},
        {"skip_diffusion": True, "controlnets": net("feedback")},
    ],
)
def test_what_is_made_of_its_picture_alone(wanted: dict[str, Any]) -> None:
    assert why_dependent(params(**wanted)) == ""


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ({"image_preprocessing": block("feedback")}, "feedback follows the pictures"),
        ({"image_postprocessing": block("mediapipe_pose")}, "mediapipe_pose follows"),
        ({"image_postprocessing": block("openpose")}, "openpose looks at every 2 pictures"),
        ({"controlnets": net("depth", interval=3)}, "depth looks at every 3 pictures"),
        ({"controlnets": net("temporal_net_tensorrt")}, "temporal_net_tensorrt follows"),
        ({"latent_preprocessing": block("latent_feedback")}, "latent_feedback"),
        ({"latent_postprocessing": block("latent_feedback")}, "latent_feedback"),
        ({"cached_attention": {"enabled": True}}, "cached_attention"),
        ({"enable_similar_image_filter": True}, "enable_similar_image_filter"),
    ],
)
def test_what_looks_at_earlier_pictures_is_named(wanted: dict[str, Any], told: str) -> None:
    assert why_dependent(params(**wanted)).startswith(told)


def test_verdicts_that_count_for_some_pictures_count() -> None:
    assert why_dependent(params(use_safety_checker=True), check_interval=3) == (
        "the safety checker looks at every 3 pictures"
    )
    assert why_dependent(params(use_safety_checker=False), check_interval=3) == ""


def test_control_pictures_that_are_not_kept_with_theirs_count_where_steps_share_a_batch() -> None:
    several, one = (params(controlnets=net("canny"), t_index_list=steps) for steps in ([1, 2], [1]))
    assert why_dependent(several, aligned=False) == "ControlNets are given the newest picture"
    assert why_dependent(one, aligned=False) == ""
    assert why_dependent(several) == ""


def test_a_file_is_made_one_after_another_where_it_must_be_and_that_is_told() -> None:
    plan = plan_file(params(cached_attention={"enabled": True}), 4, SETTINGS)
    assert (plan.at_once, plan.note) == (
        1,
        "pictures are made one after another, not 4 at once: cached_attention looks at earlier pictures",
    )
    assert plan_file(params(cached_attention={"enabled": True}), 1, SETTINGS).note == ""


def test_a_file_has_no_filter_of_like_pictures_and_is_made_at_once() -> None:
    plan = plan_file(params(enable_similar_image_filter=True), 4, SETTINGS)
    assert (plan.params.enable_similar_image_filter, plan.at_once, plan.note) == (False, 4, "")


def test_three_kinds_of_processors_remember() -> None:
    assert {name for name, kind in IMAGE_PROCESSORS.items() if kind.remembers} == {
        "feedback",
        "mediapipe_pose",
        "temporal_net_tensorrt",
    }
