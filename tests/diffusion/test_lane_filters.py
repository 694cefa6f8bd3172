"""What looks at one stream's pictures alone: the similar-image filter and the safety checker in a pipeline."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sdstream.params import ModelEntry, ModelTable
from sdstream.worker.diffusion_pipeline import DiffusionPipeline
from sdstream.worker.loading.checkers import placard
from sdstream.worker.pipelines import make_pipeline
from tests.diffusion.checkers import write_checker
from tests.diffusion.runs import pictures
from tests.diffusion.test_pipeline import IDS, params_of

CPU = torch.device("cpu")
STILL: dict[str, Any] = {"enable_similar_image_filter": True, "similar_image_filter_max_skip_frame": 2}


@pytest.fixture
def make(
    tiny_directory: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[..., DiffusionPipeline]:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def made(directory: Path | None = None, **fields: Any) -> DiffusionPipeline:
        source = directory or tiny_directory("sd-turbo")
        models = ModelTable([ModelEntry(IDS["sd-turbo"], "sd-turbo", str(source))])
        pipeline = make_pipeline(params_of(**fields), CPU, lambda detail, percent: None, models)
        assert isinstance(pipeline, DiffusionPipeline)
        return pipeline

    return made


Make = Callable[..., DiffusionPipeline]


def test_a_skipped_picture_is_the_last_one_again_and_the_pipeline_stands_still(make: Make) -> None:
    first, second = pictures(2)
    filtered, plain = make(**STILL), make()
    shown = [filtered.process(image) for image in (first, first, first, first, second)]
    made = [plain.process(image) for image in (first, first, second)]
    expected = [made[0], made[0], made[0], made[1], made[2]]  # two skipped, and after the most of them one is not
    assert all(torch.equal(a, b) for a, b in zip(shown, expected, strict=True))


def test_what_a_still_camera_shows_follows_its_knobs_at_once(make: Make) -> None:
    image = pictures(1)[0]
    still: dict[str, Any] = STILL | {"similar_image_filter_max_skip_frame": 1000}
    filtered = make(**still)
    before = [filtered.process(image) for _ in range(4)]
    assert filtered.apply(params_of(prompt="a dog in the rain", **still))
    after = [filtered.process(image) for _ in range(4)]
    assert torch.equal(before[-1], before[0])
    assert not torch.equal(after[0], before[0])
    assert not torch.equal(after[1], after[0]), "both steps of the picture are made anew"
    assert torch.equal(after[2], after[1])
    assert torch.equal(after[3], after[1])


def test_without_the_filter_nothing_is_skipped(make: Make) -> None:
    image = pictures(1)[0]
    pipeline = make(t_index_list=[0, 30])
    assert pipeline.repeat(image) is None
    pipeline.process(image)
    assert pipeline.repeat(image) is None


@pytest.fixture
def checked_model(tiny_directory: Callable[..., Path], tmp_path: Path) -> Path:
    """A model with a checker that takes every picture for unsafe."""
    model = tmp_path / "model"
    model.mkdir()
    for entry in tiny_directory("sd-turbo").iterdir():
        (model / entry.name).symlink_to(entry)
    write_checker(model / "safety_checker", threshold=-2.0)
    return model


def test_unsafe_pictures_become_placards_before_anything_else_is_done_with_them(
    make: Make, checked_model: Path
) -> None:
    images = pictures(2)
    strict = make(checked_model)
    assert not any("checked" in note for note in strict.notes)
    assert all(torch.equal(strict.process(image), placard(images[0])) for image in images)
    assert strict.blocked == 2
    assert strict.apply(params_of(use_safety_checker=False))
    shown = strict.process(images[0])
    assert not torch.equal(shown, placard(images[0]))
    assert strict.blocked == 2
    assert strict.apply(params_of(use_safety_checker=True))
    assert torch.equal(strict.process(images[0]), placard(images[0]))
    assert strict.blocked == 3


def test_a_checker_in_memory_stays_in_force_though_its_files_have_vanished(make: Make, checked_model: Path) -> None:
    image = pictures(1)[0]
    before = make(checked_model)
    shutil.rmtree(checked_model / "safety_checker")
    after = make(checked_model)
    assert [torch.equal(each.process(image), placard(image)) for each in (before, after)] == [True, True]
    assert not any("checked" in note for note in after.notes)


def test_a_machine_without_a_checker_says_so_and_shows_the_picture(make: Make) -> None:
    image = pictures(1)[0]
    asked, not_asked = make(), make(use_safety_checker=False)
    assert torch.equal(asked.process(image), not_asked.process(image))
    assert any("pictures are not checked" in note for note in asked.notes)
    assert not any("checked" in note for note in not_asked.notes)


@pytest.mark.parametrize(("asked", "told"), [("tensorrt", "no engine"), ("xformers", "torch's own"), ("none", None)])
def test_the_acceleration_in_force_is_told_truly(make: Make, asked: str, told: str | None) -> None:
    pipeline = make(acceleration=asked)
    pipeline.process(pictures(1)[0])
    assert pipeline.acceleration == "torch"
    notes = [note for note in pipeline.notes if note.startswith("acceleration")]
    assert (told is None and not notes) or (told is not None and told in notes[0])
