"""Whether the installed torch can use a card, by its own words and the driver's."""

import pytest
import torch

from sdstream.commands.torch_build import (
    BUILDS,
    DRIVER_OF_CUDA_13,
    TorchBuild,
    find_obstacle,
    parse_torch_build,
    read_torch_build,
)
from tests.project.test_image import TORCH_BUILDS

FOR_13 = TorchBuild("2.13.0", "13.0")


def test_what_is_read_is_what_torch_says_of_itself() -> None:
    assert read_torch_build() == TorchBuild(torch.__version__.partition("+")[0], torch.version.cuda or "")


@pytest.mark.parametrize("text", ["", "__version__ = '2.13.0+cu130'\n", "cuda: Optional[str] = '13.0'\n"])
def test_a_torch_that_does_not_tell_is_not_judged(text: str) -> None:
    assert parse_torch_build(text) is None
    assert find_obstacle(None, "550.54", 12040) is None


@pytest.mark.parametrize(
    ("build", "cuda"),
    [("13.0", 13000), ("13.0", 13020), ("12.6", 13000), ("12.6", 12040), ("13.2", 13000), ("13.0", 0)],
    ids=["same", "newer", "newer major", "older minor", "older minor of 13", "unknown"],
)
def test_a_driver_runs_its_own_release_and_older_ones(build: str, cuda: int) -> None:
    assert find_obstacle(TorchBuild("2.13.0", build), "580.1", cuda) is None


def test_a_driver_that_is_too_old_is_named_with_both_ways_out() -> None:
    obstacle = find_obstacle(FOR_13, "550.54", 12040)
    assert obstacle is not None
    assert obstacle.reason == "torch here is for CUDA 13.0, and driver 550.54 knows 12.4"
    assert str(DRIVER_OF_CUDA_13) in obstacle.remedy
    assert "whl/cu126 torch==2.13.0" in obstacle.remedy


@pytest.mark.parametrize(("cuda", "name"), [(12040, "cu126"), (13000, "cu130"), (14010, "cu130")])
def test_a_torch_without_cuda_is_told_the_build_for_the_driver(cuda: int, name: str) -> None:
    obstacle = find_obstacle(TorchBuild("2.13.0", ""), "550.54", cuda)
    assert obstacle is not None
    assert f"whl/{name} torch==2.13.0" in obstacle.remedy


def test_a_card_before_turing_is_told_the_last_build_for_it() -> None:
    obstacle = find_obstacle(FOR_13, "580.95", 13000, 61)
    assert obstacle is not None
    assert obstacle.reason == "torch here is for CUDA 13.0, which has no programs for compute capability 6.1"
    assert "whl/cu126 torch==2.13.0" in obstacle.remedy
    assert find_obstacle(TorchBuild("2.13.0", "12.6"), "580.95", 13000, 61) is None
    assert find_obstacle(FOR_13, "580.95", 13000, 75) is None


def test_a_card_before_turing_is_not_told_a_build_without_programs_for_it() -> None:
    obstacle = find_obstacle(TorchBuild("2.13.0", ""), "580.95", 13000, 61)
    assert obstacle is not None
    assert "whl/cu126" in obstacle.remedy


def test_a_driver_too_old_for_every_build_can_only_be_updated() -> None:
    obstacle = find_obstacle(FOR_13, "470.1", 11040)
    assert obstacle is not None
    assert "pip" not in obstacle.remedy


def test_builds_that_are_advised_exist() -> None:
    assert set(BUILDS.values()) <= set.intersection(*TORCH_BUILDS.values())
