"""What answers for the parts of a network: their own modules until engines are put in, each by itself and between two
calls, and again when an engine fails."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from weakref import ReferenceType, ref

import torch

from sdstream.worker.annotators.parted import InForce, NetworkPart, Shapes, run_module

MOST_SEATS = 16
"""Parts by size that are remembered of a network; of the one asked longest ago the engine is let go."""

Call = Callable[..., tuple[torch.Tensor, ...]]
"""A loaded engine: one tensor for each input of its component in, one for each output out."""


class PartSeat:
    """One part for inputs of one size: run by its module until another thread puts an engine in."""

    def __init__(self, part: NetworkPart) -> None:
        self.part = part
        self._engine: tuple[Call, int] | None = None
        self.in_force = InForce()

    def put(self, call: Call, most: int, name: str) -> None:
        """Have the next call answered by an engine of the back end `name`, which takes `most` rows at once. May be
        called on any thread."""
        self._engine = (call, most)
        self.in_force = InForce(name)

    def explain(self, words: str) -> None:
        """Say why no engine is in force. May be called on any thread."""
        self.in_force = InForce(note=words)

    def run(self, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """The part's answer, which is the caller's for good. An engine that raises is not called again."""
        engine = self._engine
        if engine is not None:
            try:
                return call_in_portions(*engine, given)
            except (torch.OutOfMemoryError, torch.AcceleratorError):
                raise  # the device's fault, which the plain twin would meet, too
            except Exception as error:  # noqa: BLE001 - supervises what was made elsewhere: no stream stops for it
                words = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
                self._engine = None
                self.in_force = InForce(note=f"the engine of {self.part.name} failed, so torch runs it: {words}")
        return run_module(self.part, given)


def call_in_portions(call: Call, most: int, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    """An engine's answer for any number of rows, in memory of its own: the next call overwrites the engine's."""
    rows = len(given[0])
    if rows <= most:
        return tuple(answer.clone() for answer in call(*given))
    portions = [
        tuple(answer.clone() for answer in call(*(tensor[start : start + most] for tensor in given)))
        for start in range(0, rows, most)
    ]
    return tuple(torch.cat(answers) for answers in zip(*portions, strict=True))


@dataclass(frozen=True, slots=True)
class PartRequest:
    """An engine that is wanted: for a part of the network `network`, for inputs of `shapes`."""

    network: str
    part: NetworkPart
    shapes: Shapes
    seat: "ReferenceType[PartSeat]"
    """Weak: a part that nobody asks any more needs no engine."""

    @property
    def subject(self) -> str:
        """What engines are of, for people."""
        return self.network

    @property
    def holder(self) -> Callable[[], PartSeat | None]:
        """What takes them, if it is still there."""
        return self.seat


class EngineAnswers:
    """The seats of one network. An engine is looked for when a part is first asked for inputs of a size."""

    def __init__(self, network: str, look_for: Callable[[PartRequest], None]) -> None:
        self._network = network
        self._look_for = look_for
        self._seats: OrderedDict[tuple[str, Shapes], PartSeat] = OrderedDict()

    def answer(self, part: NetworkPart, given: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """See `PartAnswers`."""
        return self._seat(part, tuple(tuple(tensor.shape[1:]) for tensor in given)).run(given)

    def in_force(self, shapes: Mapping[str, Shapes]) -> InForce:
        """See `PartAnswers`. An engine counts as soon as one of the parts has it; `note` is of those that lack one."""
        seats = [seat for key in shapes.items() if (seat := self._seats.get(key)) is not None]
        states = [seat.in_force for seat in seats]
        names = sorted({state.name for state in states} - {InForce().name})
        if not names:
            return next((state for state in states if state.note), InForce())
        lacking = ", ".join(seat.part.name for seat, state in zip(seats, states, strict=True) if state == InForce())
        notes = [f"no engine of {lacking} is in force, so torch runs it"] if lacking else []
        notes += [state.note for state in states if state.note]
        return InForce("+".join(names), "; ".join(notes))

    def _seat(self, part: NetworkPart, shapes: Shapes) -> PartSeat:
        key = (part.name, shapes)
        seat = self._seats.get(key)
        if seat is None:
            seat = self._seats[key] = PartSeat(part)
            if len(self._seats) > MOST_SEATS:
                self._seats.popitem(last=False)
            self._look_for(PartRequest(self._network, part, shapes, ref(seat)))
        else:
            self._seats.move_to_end(key)
        return seat


__all__ = ["Call", "EngineAnswers", "PartRequest", "PartSeat", "call_in_portions"]
