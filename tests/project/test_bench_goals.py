"""What benches take for a goal that is met: what failed, or is no number, is none."""

from typing import Any

import pytest
import torch

from bench import bake, engines


@pytest.mark.parametrize(
    ("changed", "meets"), [({}, True), ({"complete": False, "seconds": 0.1}, False), ({"seconds": 121.0}, False)]
)
def test_a_bake_that_failed_at_once_is_not_fast(changed: dict[str, Any], meets: bool) -> None:
    result = {"complete": True, "seconds": 100.0, "peak_gigabytes": 5.0} | changed
    assert bake.meets_goals(result) is meets


@pytest.mark.parametrize("error", [0.02, float("nan"), float("inf")])
def test_an_engine_whose_pictures_are_far_off_or_none_misses_its_goal(error: float) -> None:
    near = {"contender": "near", "error": 0.001, "captured": True}
    assert engines.missed_goals([near, near | {"contender": "far", "error": error}], torch.float16) == ["far"]


def test_an_engine_for_a_gpu_has_to_be_captured() -> None:
    row = {"contender": "tensorrt-rtx", "error": 0.0, "captured": False}
    assert engines.missed_goals([row], torch.float16) == ["tensorrt-rtx"]
    assert engines.missed_goals([row], torch.float32) == []
