"""The bench of steps, on a CPU: what it times, beside what."""

from collections.abc import Callable, Sequence

import pytest
import torch

from bench import steps
from sdstream.diffusion.fused.pointwise import plain_add_bias, plain_doubled


def test_torchs_way_and_ours_are_timed_of_every_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps, "DOUBLED", ((4, 8),))
    monkeypatch.setattr(steps, "BIASED", ((4, 8), (6, 3)))
    monkeypatch.setattr(steps, "doubled_in_one", plain_doubled)
    monkeypatch.setattr(steps, "add_bias_in_one", plain_add_bias)
    shapes: list[list[tuple[int, ...]]] = []

    class Stopwatch:
        def time(self, calls: Sequence[Callable[[], torch.Tensor]]) -> list[tuple[float, ...]]:
            shapes.append([tuple(call().shape) for call in calls])
            return [(0.003, 0.001, 0.002), (0.001, 0.001, 0.004)]

    rows = list(steps.measure(torch.device("cpu"), torch.float32, Stopwatch()))
    assert shapes == [[(1, 8, 8, 8)] * 2, [(1, 8, 4, 4)] * 2, [(1, 3, 6, 6)] * 2]
    assert [(row["step"], row["side"], row["channels"]) for row in rows] == [
        ("doubled", 4, 8),
        ("bias", 4, 8),
        ("bias", 6, 3),
    ]
    assert {(row["torch_us"], row["own_us"]) for row in rows} == {(2.0, 1.0)}
