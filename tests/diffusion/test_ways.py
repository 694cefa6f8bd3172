"""Several ways to compute the same: which is taken, which are left out of a trial, what is remembered."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch

from sdstream.diffusion.trials.stopwatch import Call, CudaStopwatch
from sdstream.diffusion.trials.store import Origin, Subject, TrialStore
from sdstream.diffusion.trials.ways import LEAST_GAIN, TOLERANCE, Sample, choose, settled, try_ways

ANSWER = torch.tensor([2.0, -4.0])
SUBJECT, OTHER = Subject("attention", "one"), Subject("attention", "other")
KNOWN = ("cudnn", "flash")
NAN = float("nan")


@pytest.mark.parametrize(
    ("samples", "way"),
    [
        ([Sample("", (2.0, 2.0, 9.0)), Sample("flash", (1.0, 1.5, 1.2)), Sample("efficient", (1.1,))], "efficient"),
        ([Sample("", (2.0, 2.0, 9.0)), Sample("flash", (0.1, 3.0, 3.0))], ""),
        ([Sample("", (LEAST_GAIN * 0.99,)), Sample("flash", (1.0,))], ""),
        ([Sample("", (LEAST_GAIN,)), Sample("flash", (1.0,))], "flash"),
        ([Sample("", (1.0,)), Sample("flash", (0.1,), 2 * TOLERANCE), Sample("cudnn", (0.1,), NAN)], ""),
        ([Sample("", ()), Sample("flash", (1.0,))], ""),
        ([Sample("", (1.0,)), Sample("flash", ())], ""),
        ([Sample("", (1.0,))], ""),
        ([Sample("flash", (1.0,))], ""),
        ([], ""),
    ],
    ids=["fastest", "medians", "too near", "enough", "wrong", "untimed plain", "untimed", "plain", "no plain", "none"],
)
def test_another_way_than_the_plain_one_is_taken_where_it_is_right_and_wins_for_sure(
    samples: Sequence[Sample], way: str
) -> None:
    assert choose(samples) == way


class Watch:
    """Says that each call took less than the one before; the last cannot be captured."""

    def __init__(self) -> None:
        self.timed: list[int] = []

    def time(self, calls: Sequence[Call]) -> list[tuple[float, ...]]:
        self.timed.append(len(calls))
        return [(float(len(calls) - place),) if place < len(calls) - 1 else () for place in range(len(calls))]


def plain() -> torch.Tensor:
    return ANSWER


def refuses() -> torch.Tensor:
    raise RuntimeError("no kernel for this card")


def test_a_way_that_answers_wrongly_or_not_at_all_or_cannot_be_captured_is_left_out() -> None:
    ways: Mapping[str, Call] = {
        "right": lambda: ANSWER * (1 + TOLERANCE / 2),
        "wrong": lambda: ANSWER * (1 + 2 * TOLERANCE),
        "nothing": lambda: ANSWER * torch.nan,
        "of another shape": lambda: ANSWER[None],
        "refuses": refuses,
        "not captured": plain,
    }
    watch = Watch()
    samples = try_ways(plain, ways, watch)
    assert samples is not None
    assert [(sample.way, sample.milliseconds) for sample in samples] == [("", (3.0,)), ("right", (2.0,))]
    assert [sample.distance for sample in samples] == [0.0, pytest.approx(TOLERANCE / 2, rel=1e-4)]
    assert watch.timed == [3], "what answers wrongly is not timed"


@pytest.mark.parametrize("asked", [1, 2, 3], ids=["at first", "between two ways", "before the clock"])
def test_a_trial_ends_where_its_time_does(asked: int) -> None:
    answers = iter([False] * (asked - 1) + [True])
    watch = Watch()
    assert try_ways(plain, {"one": plain, "other": plain}, watch, lambda: next(answers)) is None
    assert not watch.timed
    assert next(answers, None) is None, "it was asked each time"


def test_a_full_device_is_told() -> None:
    def full() -> torch.Tensor:
        raise torch.OutOfMemoryError("full")

    with pytest.raises(torch.OutOfMemoryError):
        try_ways(plain, {"full": full}, Watch())


@pytest.mark.parametrize("given", [{"in_a_row": 0}, {"rounds": 0}])
def test_a_stopwatch_that_times_nothing_is_refused(given: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="nothing is timed"):
        CudaStopwatch(torch.device("cpu"), **given)


def test_what_was_found_is_remembered_and_must_work_in_the_next_process(tmp_path: Path) -> None:
    def store() -> TrialStore:
        return TrialStore(tmp_path / "card.json", Origin("card", ()))

    def never() -> str:
        raise AssertionError("it is remembered")

    assert settled(store(), SUBJECT, KNOWN, lambda: "flash", lambda backend: True) == "flash"
    assert settled(store(), SUBJECT, KNOWN, never, lambda backend: backend == "flash") == "flash"
    assert settled(store(), SUBJECT, KNOWN, never, lambda backend: False) == ""
    assert settled(store(), OTHER, KNOWN, lambda: "", lambda backend: True) == ""
    assert settled(store(), OTHER, KNOWN, never, lambda backend: False) == "", "the plain way needs no proof"
    store().settle({OTHER: {"way": "of tomorrow"}})
    assert settled(store(), OTHER, KNOWN, lambda: "cudnn", lambda backend: True) == "cudnn", (
        "unknown, and so tried again"
    )


def test_without_memory_nothing_is_remembered_and_trials_that_end_the_process_end(tmp_path: Path) -> None:
    store = TrialStore(tmp_path / "card.json", Origin("card", ()))

    def full() -> str:
        raise torch.OutOfMemoryError("full")

    assert settled(store, SUBJECT, KNOWN, full, lambda backend: True) == ""
    assert settled(store, SUBJECT, KNOWN, lambda: "flash", lambda backend: True) == "flash"

    def ends() -> str:
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            settled(store, OTHER, KNOWN, ends, lambda backend: True)
    assert settled(store, OTHER, KNOWN, ends, lambda backend: True) == ""
