"""The safety checker: what it is asked, what it answers, and that nothing unsafe ever leaves."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdstream.diffusion.safety import CheckRunner, SafetyChecker, SafetyGuard, find_safety_checker, load_safety_checker
from sdstream.model_errors import ModelUnavailable
from sdstream.worker.loading.checkers import placard
from tests.diffusion.captures import StandInCapture
from tests.diffusion.checkers import Library, made
from tests.diffusion.runs import pictures

CPU = torch.device("cpu")


def checker_of(concepts: float, care: float = 2.0) -> SafetyChecker:
    return SafetyChecker(made(concepts, care))


def guard_of(checker: Callable[[torch.Tensor], torch.Tensor], interval: int = 1) -> SafetyGuard:
    return SafetyGuard(CheckRunner(checker), placard, CPU, interval)  # pyright: ignore[reportArgumentType]


def test_the_verdict_is_the_librarys() -> None:
    images = (torch.cat(pictures(8)) * torch.linspace(0.05, 1, 8).view(-1, 1, 1, 1) + torch.rand(8, 3, 1, 1)).clamp(
        0, 1
    )
    verdicts: list[torch.Tensor] = []
    for threshold in torch.linspace(0, 1, 21).tolist():
        checker = checker_of(threshold, threshold - 0.1)
        model: Library = checker.model
        seen: list[torch.Tensor] = []
        model.vision_model.register_forward_pre_hook(lambda module, given, seen=seen: seen.append(given[0]))
        verdicts.append(checker(images))
        assert torch.equal(verdicts[-1], model.forward_onnx(seen[0], images.clone())[1])
    assert 0 < int(torch.stack(verdicts).sum()) < 8 * 21, "both verdicts must occur"


def test_care_makes_the_other_concepts_stricter() -> None:
    image = pictures(1)[0]
    plain = made(0.0)
    checker = SafetyChecker(plain)
    seen = (checker._middle(image) - checker.mean) / checker.spread
    view = torch.nn.functional.normalize(plain.visual_projection(plain.vision_model(seen)[1]))
    nearest = (view @ torch.nn.functional.normalize(plain.concept_embeds).t()).max()
    for above, care, expected in ((0.005, 2.0, False), (0.005, -2.0, True), (0.02, -2.0, False), (-0.005, 2.0, True)):
        assert bool(checker_of(float(nearest) + above, care)(image)) is expected


def test_a_wide_picture_is_judged_by_its_middle() -> None:
    square = pictures(1)[0]
    checker = checker_of(2.0)
    wide = torch.cat((torch.zeros(1, 3, 64, 32), square, torch.ones(1, 3, 64, 32)), 3)
    assert torch.equal(checker._middle(wide), checker._middle(square))


def test_what_is_unsafe_becomes_the_placard_and_is_counted() -> None:
    images = pictures(3)
    strict, lenient = guard_of(checker_of(-2.0)), guard_of(checker_of(2.0))
    for image in images:
        assert torch.equal(strict.guard(image), placard(image))
        assert torch.equal(lenient.guard(image), image)
    assert (strict.blocked, lenient.blocked) == (3, 0)
    shown = placard(torch.zeros(1, 3, 384, 512))
    assert shown.shape == (1, 3, 384, 512)
    assert 0.001 < (shown > 0.3).float().mean() < 0.1, "words on a dark ground"


def test_between_checks_the_last_verdict_stands() -> None:
    verdicts = iter([True, False, True])
    asked: list[int] = []

    def check(image: torch.Tensor) -> torch.Tensor:
        asked.append(1)
        return torch.tensor([next(verdicts)])

    guard = guard_of(check, interval=3)
    image = pictures(1)[0]
    shown = [torch.equal(guard.guard(image), image) for _ in range(6)]
    assert shown == [False] * 3 + [True] * 3
    assert len(asked) == 2
    guard.guard(image)
    assert len(asked) == 3
    assert guard.blocked == 4
    with pytest.raises(ValueError, match="each"):
        guard_of(check, interval=0)


def test_what_has_changed_is_checked_at_once() -> None:
    verdicts = iter([False, True])
    guard = guard_of(lambda image: torch.tensor([next(verdicts)]), interval=100)
    image = pictures(1)[0]
    assert torch.equal(guard.guard(image), image)
    guard.check_next()
    assert torch.equal(guard.guard(image), placard(image))


def test_a_captured_check_is_the_plain_one_for_every_shape() -> None:
    checker = checker_of(0.2, 0.2)
    capture = StandInCapture()
    captured, plain = CheckRunner(checker, capture), CheckRunner(checker)
    for image in [*pictures(6), torch.rand(1, 3, 96, 64), *pictures(3)]:
        assert torch.equal(captured.check(image), plain.check(image))
    assert [recording.replays for recording in capture.recordings] == [9, 1]


def test_a_saved_checker_is_found_and_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert find_safety_checker(str(tmp_path)) is None
    folder = tmp_path / "safety_checker"
    made(0.2).save_pretrained(folder)
    assert find_safety_checker(str(tmp_path)) == folder
    assert find_safety_checker("x" * 5000) is None, "a name longer than names can be"
    image = torch.cat(pictures(4))
    assert torch.equal(load_safety_checker(folder, CPU, torch.float32)(image), checker_of(0.2)(image))


def test_the_names_of_the_published_checkpoint_are_understood(tmp_path: Path) -> None:
    made(0.2).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    as_published = {name.replace("vision_model.", "vision_model.vision_model.", 1): t for name, t in weights.items()}
    as_published["vision_model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(as_published, file, {"format": "pt"})
    image = torch.cat(pictures(4))
    assert torch.equal(load_safety_checker(tmp_path, CPU, torch.float32)(image), checker_of(0.2)(image))


def _without(weights: Mapping[str, torch.Tensor], name: str) -> dict[str, torch.Tensor]:
    return {key: tensor for key, tensor in weights.items() if key != name}


@pytest.mark.parametrize(
    ("break_it", "words"),
    [
        (lambda weights: _without(weights, "concept_embeds"), "lacks 1 weights, such as concept_embeds"),
        (lambda weights: weights | {"concept_embeds_weights": torch.full((17,), float("nan"))}, "not finite"),
        (None, "cannot be loaded"),
    ],
)
def test_a_broken_checker_is_refused_by_name(tmp_path: Path, break_it: Any, words: str) -> None:
    made(0.2).save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    if break_it is None:
        file.rename(tmp_path / "pytorch_model.bin")
    else:
        save_file(break_it(load_file(file)), file, {"format": "pt"})
    with pytest.raises(ModelUnavailable, match=words):
        load_safety_checker(tmp_path, CPU, torch.float32)
