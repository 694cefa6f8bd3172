"""How long calls take on a card."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from sdstream.diffusion.capture import CudaCapture, Recording
from sdstream.diffusion.trials.session import card_turn

IN_A_ROW = 16
"""Calls that are timed together where what lies between two of them is to count."""
ROUNDS = 7
"""Times that each call is timed, by turns."""
LEAST_FLUSH = 256 * 2**20
"""Bytes that are written before a call where a card does not say how large its cache is."""

Call = Callable[[], torch.Tensor]


class Stopwatch(Protocol):
    """How long calls take on a device."""

    def time(self, calls: Sequence[Call]) -> list[tuple[float, ...]]:
        """The milliseconds of each call, several times, by turns; none of one that cannot be timed."""
        ...


class CudaStopwatch:
    """Times calls as a captured frame makes them. A recording, and a round of all, is one turn at the card.

    A call alone begins with a cache that holds nothing of it. Of several `in_a_row` each finds what the one before
    left, and its share of all is what counts.
    """

    def __init__(self, device: torch.device, *, in_a_row: int = 1, rounds: int = ROUNDS) -> None:
        if in_a_row < 1 or rounds < 1:
            raise ValueError(f"nothing is timed by {in_a_row} calls in {rounds} rounds")
        self._device = device
        self._in_a_row = in_a_row
        self._rounds = rounds

    def time(self, calls: Sequence[Call]) -> list[tuple[float, ...]]:
        cuda: Any = torch.cuda
        capture = CudaCapture(self._device)
        times: list[list[float]] = [[] for _ in calls]
        recorded: list[tuple[Recording[torch.Tensor], list[float]]] = []
        try:
            for call, took in zip(calls, times, strict=True):
                with card_turn(), cuda.device(self._device):
                    recording = self._record(capture, call)
                if recording is not None:
                    recorded.append((recording, took))
            flush = None if self._in_a_row > 1 else self._flush()
            for _ in range(self._rounds):
                with card_turn(), cuda.device(self._device):
                    marks = [self._mark(recording, flush) for recording, _ in recorded]
                    cuda.synchronize()
                    for (begin, end), (_, took) in zip(marks, recorded, strict=True):
                        took.append(float(begin.elapsed_time(end)) / self._in_a_row)
        finally:
            for recording, _ in recorded:
                recording.forget()
        return [tuple(took) for took in times]

    def _record(self, capture: CudaCapture, call: Call) -> Recording[torch.Tensor] | None:
        """None where it cannot be captured."""

        def in_a_row() -> torch.Tensor:
            made = call()
            for _ in range(self._in_a_row - 1):
                made = call()
            return made

        try:
            return capture.record(in_a_row)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            if not capture.is_refusal(error):
                raise
            return None

    def _flush(self) -> torch.Tensor:
        cuda: Any = torch.cuda
        size = max(LEAST_FLUSH, 2 * int(getattr(cuda.get_device_properties(self._device), "L2_cache_size", 0)))
        return torch.empty(size, dtype=torch.uint8, device=self._device)

    @staticmethod
    def _mark(recording: Recording[torch.Tensor], flush: torch.Tensor | None) -> tuple[Any, Any]:
        """Replay between two events. What goes before takes so long that all that follows is queued by then."""
        cuda: Any = torch.cuda
        begin, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
        if flush is None:
            recording.replay()
        else:
            flush.zero_()
        begin.record()
        recording.replay()
        end.record()
        return begin, end


__all__ = ["IN_A_ROW", "ROUNDS", "Call", "CudaStopwatch", "Stopwatch"]
