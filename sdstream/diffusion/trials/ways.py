"""Several ways to compute the same on a GPU, and which of them is taken for each shape: found out once, remembered.

Who prepares a model tries; frames look up. Answers come first, then times, by turns. The plain twin is the way without
a name.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

import torch

from sdstream.diffusion.trials.failures import FAILURES
from sdstream.diffusion.trials.session import card_turn
from sdstream.diffusion.trials.stopwatch import Call, Stopwatch
from sdstream.diffusion.trials.store import Finding, Subject, TrialStore

LEAST_GAIN = 1.03
"""How many times as fast as the plain way another one has to be to be taken: less would be the noise of the clock."""
TOLERANCE = 0.02
"""Of the largest value, by which the answers of two ways may differ in half precision."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What calls of one way took, milliseconds each; `way` is empty for the plain one. `distance` is that of its answer
    from the plain one, of the largest value."""

    way: str
    milliseconds: tuple[float, ...]
    distance: float = 0.0

    @property
    def median(self) -> float:
        """Of the milliseconds, of which there must be some."""
        return median(self.milliseconds)


def choose(samples: Sequence[Sample]) -> str:
    """The way to take: the fastest that answers as the plain one does, if it clearly wins. Empty for the plain one, and
    where there are no times of that."""
    timed = [sample for sample in samples if sample.milliseconds]
    plain = next((sample for sample in timed if not sample.way), None)
    # A distance that is no number is no answer.
    right = [sample for sample in timed if sample.way and sample.distance <= TOLERANCE]
    best = min(right, key=lambda sample: sample.median, default=None)
    if plain is None or best is None or plain.median < LEAST_GAIN * best.median:
        return ""
    return best.way


def try_ways(
    plain: Call, ways: Mapping[str, Call], stopwatch: Stopwatch, is_over: Callable[[], bool] = lambda: False
) -> list[Sample] | None:
    """What the plain way and each of the others take; those are left out that answer wrongly, or not at all, or cannot
    be captured. None when `is_over` said in between that there is no time left.

    Raises what tells of a lost or full device (`torch.AcceleratorError`, `torch.OutOfMemoryError`).
    """
    with card_turn():
        wanted = plain()
    calls, distances = {"": plain}, {"": 0.0}
    for name, way in ways.items():
        if is_over():
            return None
        distance = distance_of(way, wanted)
        if distance is not None and distance <= TOLERANCE:
            calls[name], distances[name] = way, distance
    if is_over():
        return None
    times = stopwatch.time(list(calls.values()))
    return [Sample(name, took, distances[name]) for name, took in zip(calls, times, strict=True) if took]


def distance_of(way: Call, wanted: torch.Tensor) -> float | None:
    """How far the answer of a way is from the one wanted, of the largest value; None when there is none. Raises as
    `try_ways` does."""
    try:
        with card_turn():
            made = way()
            if made.shape != wanted.shape:
                return None
            return float((made.float() - wanted.float()).abs().max() / wanted.float().abs().max().clamp(min=1e-6))
    except (torch.AcceleratorError, torch.OutOfMemoryError):
        raise  # the device is lost, or full
    except FAILURES:
        return None


def answers_rightly(way: Call, wanted: torch.Tensor) -> bool:
    """Whether a way gives this answer here. Raises as `try_ways` does."""
    distance = distance_of(way, wanted)
    return distance is not None and distance <= TOLERANCE


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
    "LEAST_GAIN",
    "TOLERANCE",
    "Sample",
    "answers_rightly",
    "choose",
    "distance_of",
    "settled",
    "try_ways",
    "way_of",
]
