"""Whether the installed torch can use a card, by its own words and the driver's."""

import pytest
import torch

from sdstream.commands.torch_build import BUILDS, TorchBuild, find_obstacle, parse_torch_build, read_torch_build
from tests.project.test_image import TORCH_BUILDS

FOR_13, FOR_12, FOR_CPU = (TorchBuild("2.13.0", cuda) for cuda in ("13.0", "12.6", ""))


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
    assert find_obstacle(TorchBuild("2.13.0", build), "580.1", cuda, 89) is None


@pytest.mark.parametrize(
    ("build", "capability"),
    [(FOR_13, 75), (FOR_13, 120), (FOR_12, 61), (FOR_12, 90), (TorchBuild("2.9.0", "12.8"), 120)],
)
def test_a_card_that_the_build_has_programs_for_is_no_obstacle(build: TorchBuild, capability: int) -> None:
    assert find_obstacle(build, "580.95", 13000, capability) is None


@pytest.mark.parametrize(
    ("build", "cuda", "capability", "reason"),
    [
        (FOR_13, 12040, 89, "torch here is for CUDA 13.0, and driver 5.1 knows 12.4"),
        (FOR_CPU, 13000, 89, "torch here is built without CUDA"),
        (FOR_13, 13000, 61, "torch here is for CUDA 13.0, which has no programs for compute capability 6.1"),
        (FOR_12, 13000, 120, "torch here is for CUDA 12.6, which has no programs for compute capability 12.0"),
    ],
)
def test_what_stands_in_the_way_is_named(build: TorchBuild, cuda: int, capability: int, reason: str) -> None:
    obstacle = find_obstacle(build, "5.1", cuda, capability)
    assert obstacle is not None
    assert obstacle.reason == reason


@pytest.mark.parametrize(
    ("build", "cuda", "capability", "driver", "name"),
    [
        (FOR_13, 12040, 89, 580, "cu126"),  # either helps
        (FOR_13, 11040, 89, 580, None),
        (FOR_13, 12080, 120, 580, None),
        (FOR_13, 13000, 61, None, "cu126"),
        (FOR_13, 11040, 61, 525, "cu126"),
        (FOR_12, 13000, 120, None, "cu130"),
        (FOR_12, 12080, 120, 580, "cu130"),
        (FOR_12, 11040, 61, 525, None),
        (FOR_12, 11040, 89, 525, None),
        (FOR_12, 11040, 120, 580, "cu130"),
        (FOR_CPU, 13000, 89, None, "cu130"),
        (FOR_CPU, 12040, 0, None, "cu126"),
        (FOR_CPU, 14010, 61, None, "cu126"),
        (FOR_CPU, 11040, 89, 580, "cu130"),
    ],
)
def test_what_helps_is_a_driver_a_build_or_both(
    build: TorchBuild, cuda: int, capability: int, driver: int | None, name: str | None
) -> None:
    obstacle = find_obstacle(build, "1", cuda, capability)
    assert obstacle is not None
    assert ("driver" in obstacle.remedy) == (driver is not None)
    assert driver is None or f"to {driver} or newer" in obstacle.remedy
    assert ("pip install" in obstacle.remedy) == (name is not None)
    # The build is named, as pip keeps one of the same version that is there.
    assert name is None or f"whl/{name} torch==2.13.0+{name}`" in obstacle.remedy


def test_builds_that_are_advised_exist() -> None:
    assert set(BUILDS.values()) <= set.intersection(*TORCH_BUILDS.values())
