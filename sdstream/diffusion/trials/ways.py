"""Several ways to compute the same on a GPU, and which of them is taken for each shape: found out once, remembered.

What is timed are calls as a captured frame makes them, so that what a way does around its kernel, such as clearing
memory, counts. Who prepares a model tries; frames look up. The plain twin is the way without a name.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

import torch

from sdstream.diffusion.capture import CudaCapture, Recording
from sdstream.diffusion.trials.session import card_turn
from sdstream.diffusion.trials.store import Finding, Subject, TrialStore

CALLS = 16
"""In a row in what is timed, so that what lies between two of them counts."""
ROUNDS = 7
"""Times that each way is timed, by turns."""
LEAST_GAIN = 1.03
"""How many times as fast as the plain way another one has to be to be taken."""
TOLERANCE = 0.02
"""Of the largest value, by which the answers of two ways may differ in half precision."""

Call = Callable[[], torch.Tensor]


@dataclass(frozen=True, slots=True)
class Sample:
    """What calls of one way took, milliseconds each; `way` is empty for the plain one."""

    way: str
    milliseconds: tuple[float, ...]


class Stopwatch(Protocol):
    """How long calls take on a device."""

    def time(self, calls: Sequence[Call]) -> list[tuple[float, ...]]:
        """The milliseconds of each call, several times, by turns; none of one that cannot be timed."""
        ...


class RecordedCalls:
    """Times calls as a captured frame makes them: `CALLS` of them one after another in a CUDA graph. A recording, and a
    round of all, is one turn at the card."""

    def __init__(self, device: torch.device, rounds: int = ROUNDS) -> None:
        self._device = device
        self._rounds = rounds

    def time(self, calls: Sequence[Call]) -> list[tuple[float, ...]]:
        cuda: Any = torch.cuda
        times: list[list[float]] = [[] for _ in calls]
        recorded: list[tuple[Recording[torch.Tensor], list[float]]] = []
        capture = CudaCapture(self._device)
        try:
            for call, took in zip(calls, times, strict=True):
                with card_turn(), cuda.device(self._device):
                    recording = _recorded(capture, call)
                if recording is not None:
                    recorded.append((recording, took))
            for _ in range(self._rounds):
                with card_turn(), cuda.device(self._device):
                    for recording, took in recorded:
                        begin, end = cuda.Event(enable_timing=True), cuda.Event(enable_timing=True)
                        recording.replay()  # while it runs all that follows is queued
                        begin.record()
                        recording.replay()
                        end.record()
                        cuda.synchronize()
                        took.append(float(begin.elapsed_time(end)) / CALLS)
        finally:
            for recording, _ in recorded:
                recording.forget()
        return [tuple(took) for took in times]


def _recorded(capture: CudaCapture, call: Call) -> Recording[torch.Tensor] | None:
    """`CALLS` of it; None where that cannot be captured."""
    try:
        return capture.record(lambda: _in_a_row(call))
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        if not capture.is_refusal(error):
            raise
        return None


def _in_a_row(call: Call) -> torch.Tensor:
    made = call()
    for _ in range(CALLS - 1):
        made = call()
    return made


def choose(samples: Sequence[Sample]) -> str:
    """The way to take; empty for the plain one, and where there are no times of that."""
    took = {sample.way: median(sample.milliseconds) for sample in samples}
    best = min(took, key=lambda way: took[way], default="")
    return best if took.get("", 0.0) >= LEAST_GAIN * took.get(best, 1.0) else ""


def try_ways(
    plain: Call, ways: Mapping[str, Call], stopwatch: Stopwatch, failures: tuple[type[Exception], ...] = ()
) -> list[Sample]:
    """What the plain way and each of the others take; those are left out that answer wrongly, or not at all, or cannot
    be captured. What they raise then is an error of torch's, or one of `failures`.

    Raises what tells of a lost or full device (`torch.AcceleratorError`, `torch.OutOfMemoryError`).
    """
    with card_turn():
        wanted = plain()
    right = {name: way for name, way in ways.items() if answers_rightly(way, wanted, failures)}
    calls = {"": plain, **right}
    times = stopwatch.time(list(calls.values()))
    return [Sample(name, took) for name, took in zip(calls, times, strict=True) if took]


def answers_rightly(way: Call, wanted: torch.Tensor, failures: tuple[type[Exception], ...] = ()) -> bool:
    """Whether a way gives this answer here."""
    try:
        with card_turn():
            made = way()
        distance = float((made.float() - wanted.float()).abs().max() / wanted.float().abs().max().clamp(min=1e-6))
    except (torch.AcceleratorError, torch.OutOfMemoryError):
        raise  # the device is lost, or full
    except (RuntimeError, ValueError, NotImplementedError, OSError, *failures):
        return False  # it does not know this shape, or this card, or there is no compiler
    return made.shape == wanted.shape and distance <= TOLERANCE


def settled(
    store: TrialStore, subject: Subject, known: Collection[str], tried: Callable[[], str], works: Callable[[str], bool]
) -> str:
    """The way of those `known` that is remembered, if it works here, too; else what a trial says, which is remembered
    then.

    Empty for the plain one, which it stays where there was no memory for a trial, or where trials ended the process.
    """
    finding = store.finding(subject)
    before = None if finding is None else way_of(finding, known)
    try:
        if before is not None:
            return before if not before or works(before) else ""
        if store.is_given_up(subject):
            return ""
        store.begin(subject)
        way = tried()
    except torch.OutOfMemoryError:
        store.settle({subject: None})
        return ""
    store.settle({subject: {"way": way}})
    return way


def way_of(finding: Finding, known: Collection[str]) -> str | None:
    """The way that is remembered; None where it is none of those."""
    way = finding.get("way")
    return way if way == "" or (isinstance(way, str) and way in known) else None


__all__ = [
    "CALLS",
    "LEAST_GAIN",
    "ROUNDS",
    "Call",
    "RecordedCalls",
    "Sample",
    "Stopwatch",
    "answers_rightly",
    "choose",
    "settled",
    "try_ways",
    "way_of",
]
