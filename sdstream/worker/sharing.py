"""Looks of several streams in one call of their network, and each stream's own part by itself."""

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch

from sdstream.worker.looks import Look, Looking

MOST_PIXELS = 8 * 1024 * 1024
"""Of the pictures in one call, so that a crowd of large ones does not need the memory of all at once."""
MOST_HOST_PIXELS = 4 * 128 * 128
"""The same on a CPU, whose caches a batch of larger ones no longer fits: one after the other is quicker there."""

Result = TypeVar("Result")


def most_pixels(device: torch.device) -> int:
    """How many pixels the pictures in one call have together at most."""
    return MOST_HOST_PIXELS if device.type == "cpu" else MOST_PIXELS


@dataclass(frozen=True, slots=True)
class Asked:
    """One look as the choice sees it: equal `kind`s can be answered in one call, with `most` pixels together.
    `pixels` are of all its pictures."""

    kind: Hashable
    pixels: int
    most: int = MOST_PIXELS


@dataclass(slots=True)
class _Call:
    places: list[int] = field(default_factory=list[int])
    pixels: int = 0


def calls(asked: Sequence[Asked]) -> list[tuple[int, ...]]:
    """Which looks are answered in one call, by their places in `asked`: those of a kind, in their order, as long as
    they have no more pixels together than they may. One that has more by itself rides alone."""
    riding: list[_Call] = []
    open_calls: dict[Hashable, _Call] = {}
    for place, one in enumerate(asked):
        call = open_calls.get(one.kind)
        if call is None or call.pixels + one.pixels > one.most:
            call = open_calls[one.kind] = _Call()
            riding.append(call)
        call.places.append(place)
        call.pixels += one.pixels
    return [tuple(call.places) for call in riding]


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Result]):
    """What became of one looking: what it returned, or the error that ended it."""

    result: Result | None = None
    error: Exception | None = None


class _Together(Generic[Result]):
    def __init__(self, lookings: Sequence[Looking[Result]], final: tuple[type[Exception], ...]) -> None:
        self._lookings = lookings
        self._final = final
        self.outcomes: dict[int, Outcome[Result]] = {}
        self.waiting: dict[int, Look] = {}
        """The look that each waits for."""

    def go_on(self, place: int, answer: Any = None) -> None:
        """Let one run to its next look, or to its end."""
        self.waiting.pop(place, None)
        try:
            self.waiting[place] = self._lookings[place].send(answer)
        except StopIteration as end:
            self.outcomes[place] = Outcome(end.value)
        except Exception as error:  # noqa: BLE001 - supervises the streams: one that raises ends alone
            self._end(place, error)

    def answer(self, places: Sequence[int]) -> None:
        """Answer the looks of these in one call. Where that fails each is answered alone, and who fails then ends."""
        answers: Iterator[Any] | None = None
        try:
            answers = _answers([self.waiting[place] for place in places])
        except Exception as error:
            if len(places) == 1:
                self._end(places[0], error)
                return
            if isinstance(error, self._final):
                raise
        for place in places:
            if answers is None:
                self.answer([place])
            else:
                self.go_on(place, next(answers))

    def _end(self, place: int, error: Exception) -> None:
        if isinstance(error, self._final):
            raise error
        self.waiting.pop(place, None)
        self._lookings[place].close()
        self.outcomes[place] = Outcome(error=error)


def together(
    lookings: Sequence[Looking[Result]], *, shared: bool = True, final: tuple[type[Exception], ...] = ()
) -> list[Outcome[Result]]:
    """Run all to their ends; their outcomes in their order. `shared` False is the plain twin: one after the other.

    An error ends the looking that it belongs to, and no other; those of the types `final` are raised instead.
    """
    run = _Together(lookings, final)
    for place in range(len(lookings)):
        run.go_on(place)
        while not shared and place in run.waiting:
            run.answer([place])
    while run.waiting:
        places = list(run.waiting)
        asked = [_asked(look) for look in run.waiting.values()]
        for riding in calls(asked):
            run.answer([places[index] for index in riding])
    return [run.outcomes[place] for place in range(len(lookings))]


def _asked(look: Look) -> Asked:
    images = look.images
    rows, _, height, width = images.shape
    kind = (look.key, images.shape[1:], images.dtype, images.device)
    return Asked(kind, rows * height * width, most_pixels(images.device))


def _answers(looks: Sequence[Look]) -> Iterator[Any]:
    first = looks[0]
    if len(looks) == 1:
        return iter((first.run(first.images),))
    answer = first.run(torch.cat([look.images for look in looks]))
    rows = [len(look.images) for look in looks]
    if isinstance(answer, torch.Tensor):
        return iter(torch.split(answer, rows))
    parts: Sequence[torch.Tensor] = answer
    return zip(*(torch.split(part, rows) for part in parts), strict=True)


__all__ = ["MOST_HOST_PIXELS", "MOST_PIXELS", "Asked", "Outcome", "calls", "most_pixels", "together"]
