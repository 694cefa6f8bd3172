"""A capture without a GPU: it runs a step again where a CUDA graph would be replayed."""

from collections.abc import Callable
from typing import Any

import torch


class StandInCapture:
    """Runs a step as a CUDA graph does: always over the tensors of the capture, results in one place."""

    name = "stand_in"

    def __init__(self) -> None:
        self.recordings: list[StandInRecording] = []
        self.uploads = 0

    def record(self, step: Callable[[], Any]) -> "StandInRecording":
        step()
        self.recordings.append(StandInRecording(step))
        return self.recordings[-1]

    def upload(self, source: torch.Tensor, target: torch.Tensor) -> None:
        self.uploads += 1
        target.copy_(source)

    def is_refusal(self, error: RuntimeError) -> bool:
        return "lost" not in str(error)


class StandInRecording:
    def __init__(self, step: Callable[[], Any]) -> None:
        self._step = step
        self.result = step()
        self.replays = 0
        self.forgotten = False

    def replay(self) -> None:
        assert not self.forgotten
        self.replays += 1
        for held, made in zip(_tensors(self.result), _tensors(self._step()), strict=True):
            if held is not made:
                held.copy_(made)

    def forget(self) -> None:
        self.forgotten = True


def _tensors(result: Any) -> list[torch.Tensor]:
    if result is None:
        return []
    return [result] if isinstance(result, torch.Tensor) else [part for entry in result for part in _tensors(entry)]
