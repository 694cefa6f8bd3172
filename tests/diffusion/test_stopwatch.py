"""How calls are timed on a card: with a stand-in of CUDA, whose clock each call moves on by what it takes."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from sdstream.diffusion.trials import stopwatch
from sdstream.diffusion.trials.stopwatch import CudaStopwatch

CPU = torch.device("cpu")


class Card:
    """What of CUDA a stopwatch uses."""

    def __init__(self) -> None:
        self.now = 0.0
        self.recorded: list[Recorded] = []
        self.done: list[str] = []

    def call(self, name: str, milliseconds: float) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            self.now += milliseconds
            self.done.append(name)
            return torch.zeros(1)

        return run


class Recorded:
    def __init__(self, step: Callable[[], torch.Tensor]) -> None:
        self.replay = step
        self.is_kept = True

    def forget(self) -> None:
        self.is_kept = False


@pytest.fixture
def card(monkeypatch: pytest.MonkeyPatch) -> Iterator[Card]:
    made = Card()

    class Capture:
        def __init__(self, device: torch.device) -> None:
            pass

        def record(self, step: Callable[[], torch.Tensor]) -> Recorded:
            step()
            recorded = Recorded(step)
            made.recorded.append(recorded)
            return recorded

        def is_refusal(self, error: RuntimeError) -> bool:
            return not isinstance(error, torch.AcceleratorError)

    class Event:
        def __init__(self, *, enable_timing: bool) -> None:
            self.at = 0.0

        def record(self) -> None:
            self.at = made.now

        def elapsed_time(self, other: "Event") -> float:
            return other.at - self.at

    class Flush:
        def zero_(self) -> None:
            made.done.append("flush")
            made.now += 100.0

    watched: Any = stopwatch
    monkeypatch.setattr(watched, "CudaCapture", Capture)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(CudaStopwatch, "_flush", lambda watch: Flush())
    yield made
    assert not any(recorded.is_kept for recorded in made.recorded), "recordings hold memory of the card"


def test_a_call_alone_begins_with_a_cache_that_holds_nothing_of_it(card: Card) -> None:
    times = CudaStopwatch(CPU, rounds=3).time([card.call("one", 2.0), card.call("other", 5.0)])
    assert times == [(2.0,) * 3, (5.0,) * 3]
    assert card.done == ["one", "other"] + 3 * ["flush", "one", "flush", "other"]


def test_of_several_in_a_row_each_has_its_share(card: Card) -> None:
    assert CudaStopwatch(CPU, in_a_row=4, rounds=2).time([card.call("one", 2.0)]) == [(2.0, 2.0)]
    assert "flush" not in card.done
    assert len(card.done) == 4 + 2 * 2 * 4, "recorded, then replayed twice a round"


def test_what_cannot_be_captured_has_no_times_and_the_others_have_theirs(card: Card) -> None:
    def refused() -> torch.Tensor:
        raise RuntimeError("operation not permitted when stream is capturing")

    assert CudaStopwatch(CPU, rounds=1).time([card.call("one", 2.0), refused, card.call("other", 3.0)]) == [
        (2.0,),
        (),
        (3.0,),
    ]


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), torch.AcceleratorError("lost", 719)])
def test_a_lost_or_full_device_is_told_and_nothing_stays_recorded(card: Card, error: RuntimeError) -> None:
    def fails() -> torch.Tensor:
        raise error

    with pytest.raises(type(error)):
        CudaStopwatch(CPU).time([card.call("one", 2.0), fails])
    assert len(card.recorded) == 1
