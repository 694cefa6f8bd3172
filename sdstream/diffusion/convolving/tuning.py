"""Which way each shape of convolution is computed in this process: looked up in frames, found out between them.

Frames never try anything. A shape that has no choice yet is computed by torch and put on a list. Whoever prepares a
model has all shapes of its frames tried (`Tuning.settle`); what was found comes into force between two pictures
(`bring_into_force`), so that what is captured of one frame is never of two minds.
"""

import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import torch

from sdstream.clock import SystemClock
from sdstream.diffusion.convolving.choices import PLAIN, Choice, choice_by, choice_of, finding_of
from sdstream.diffusion.convolving.shapes import EIGHT_BIT, Card, Shape
from sdstream.diffusion.convolving.switch import Wanted, wanted_of_convolutions
from sdstream.diffusion.convolving.tilings import MOST_HOPPER, AnyTiling, candidates, tiling_named
from sdstream.diffusion.convolving.trial import answers_rightly, try_tilings
from sdstream.diffusion.convolving.twins import has_hopper_kernels, has_kernels
from sdstream.diffusion.trials.memory import store_of
from sdstream.diffusion.trials.planning import Standing, asked_of, next_step
from sdstream.diffusion.trials.session import ALONE, TrialSession, are_trials_wanted, trial_session
from sdstream.diffusion.trials.stopwatch import CudaStopwatch
from sdstream.diffusion.trials.store import Subject, TrialStore
from sdstream.diffusion.trials.ways import Sample

MOST_UNTRIED = 256
"""Shapes on the list of those that frames met untried; a further one is met again."""

Proof = Callable[[Shape, AnyTiling, torch.device], bool]
Trial = Callable[[Shape, Sequence[AnyTiling], torch.device, Callable[[], bool]], list[Sample] | None]


@dataclass(slots=True)
class Tuning:
    """What one card's convolutions are computed by. `clock` tells seconds.

    One thread has frames look up, and brings into force; any may settle, one at a time.
    """

    card: Card
    device: torch.device
    store: TrialStore
    trial: Trial
    proof: Proof
    clock: Callable[[], float] = SystemClock().monotonic
    choices: dict[str, Choice] = field(default_factory=dict[str, Choice])
    """In force."""
    found: dict[str, Choice] = field(default_factory=dict[str, Choice])
    """Decided, and not in force yet."""
    untried: dict[str, Shape] = field(default_factory=dict[str, Shape])
    """What frames met and nobody has tried."""
    hopper: int = MOST_HOPPER
    """Ways by Hopper's own instructions that are tried, at most: none where nothing compiles them."""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def look_up(self, shape: Shape) -> Choice | None:
        """The choice that is in force; None for none yet: torch's own then, and the shape is listed."""
        name = shape.name
        known = self.choices.get(name)
        if known is None:
            if not self._candidates(shape):
                known = self.choices[name] = PLAIN
            elif name not in self.untried and len(self.untried) < MOST_UNTRIED:
                self.untried[name] = shape
        return known

    def settle(self, frames: Sequence[Mapping[Shape, int]], seconds: float, session: TrialSession = ALONE) -> Standing:
        """Find out how to compute the shapes of frames, given with their calls and in the order in which the frames are
        needed, then those that are listed. Returns what it came to.

        Not on the thread that makes pictures: it takes `seconds`, and the end of the trial under way then.
        """
        with self.lock, trial_session(session), torch.no_grad():
            return self._settle(frames, seconds, session)

    def bring_into_force(self) -> frozenset[str]:
        """Have frames take what was found, from the next one on. Of what the choice is another way than torch's now."""
        found, self.found = self.found, {}
        self.choices.update(found)
        for name in found:
            self.untried.pop(name, None)
        return frozenset(name for name, choice in found.items() if choice.tiling)

    def _settle(self, frames: Sequence[Mapping[Shape, int]], seconds: float, session: TrialSession) -> Standing:
        beside = dict(self.untried)
        shapes = {shape.name: shape for frame in frames for shape in frame} | beside
        for name, shape in shapes.items():
            if name not in self.choices and not self._candidates(shape):
                self.found.setdefault(name, PLAIN)
        remembered = self._remembered(shapes)
        standing = Standing(
            asked_of(
                [{shape.name: calls * shape.operations for shape, calls in frame.items()} for frame in frames],
                {name: shape.operations for name, shape in beside.items()},
            ),
            settled=frozenset(name for name in shapes if name in self.choices or name in self.found),
            passed=frozenset(name for name in shapes if self.store.is_given_up(_subject(name))),
            remembered=remembered,
            limit=seconds,
        )
        began = self.clock()
        while (step := next_step(standing)) is not None:
            if not session.tell(standing.percent):
                break
            shape = shapes[step.name]
            if step.kind == "prove":
                settled = self._prove(shape)
            else:
                settled = self._try(shape, self.clock() + step.seconds, partial(session.tell, standing.percent))
            standing = replace(
                standing,
                seconds=self.clock() - began,
                settled=standing.settled | {step.name} if settled else standing.settled,
                passed=standing.passed if settled else standing.passed | {step.name},
            )
        return standing

    def _candidates(self, shape: Shape) -> tuple[AnyTiling, ...]:
        return candidates(shape, self.card, hopper=self.hopper)

    def _remembered(self, shapes: Iterable[str]) -> frozenset[str]:
        """Take up what earlier processes found to be torch's; that a kernel wins is to be proved."""
        to_prove: set[str] = set()
        for name in shapes:
            finding = self.store.finding(_subject(name))
            choice = None if finding is None or name in self.choices or name in self.found else choice_of(finding)
            if choice is not None and choice.tiling:
                to_prove.add(name)
            elif choice is not None:
                self.found[name] = choice
        return frozenset(to_prove)

    def _prove(self, shape: Shape) -> bool:
        """Another machine with the same card may have no compiler, and a kernel is seldom made twice the same."""
        finding = self.store.finding(_subject(shape.name))
        before = None if finding is None else choice_of(finding)
        assert before is not None
        try:
            works = self.proof(shape, tiling_named(before.tiling), self.device)
        except torch.OutOfMemoryError:
            return False  # of this preparation: what is left of the memory is for frames
        self.found[shape.name] = before if works else PLAIN
        return True

    def _try(self, shape: Shape, ends: float, goes_on: Callable[[], bool]) -> bool:
        subject = _subject(shape.name)
        self.store.begin(subject)
        tilings = self._candidates(shape)
        try:
            samples = self.trial(shape, tilings, self.device, lambda: self.clock() >= ends or not goes_on())
        except torch.OutOfMemoryError:
            samples = None
        if samples is None:
            self.store.settle({subject: None})
            return False
        choice = self.found[shape.name] = choice_by(samples)
        self.store.settle({subject: finding_of(choice)})
        return True


def _subject(name: str) -> Subject:
    return Subject("convolutions", name)


class _State:
    tunings: dict[int, Tuning] = {}  # noqa: RUF012  (a switch, of which there is one)
    of = Wanted()
    """What the tunings are for."""
    assumed: tuple[Card, Counter[Shape]] | None = None
    lock = threading.Lock()


_looking: ContextVar[Counter[Shape] | None] = ContextVar("looking", default=None)
"""What a frame that is run to see its shapes asks for."""
_unsettled: ContextVar[set[str] | None] = ContextVar("unsettled", default=None)


def can_be_tuned() -> bool:
    """Whether there are kernels, and torch is for the cards that they are for."""
    return has_kernels() and torch.version.cuda is not None


def are_convolutions_tuned() -> bool:
    """Whether choices are found out, or were before and are remembered."""
    return wanted_of_convolutions().tuned and can_be_tuned()


@contextmanager
def shapes_asked() -> Generator[Counter[Shape]]:
    """What this thread's calls ask for within it, and how often; torch computes all of them. Nothing is listed."""
    asked: Counter[Shape] = Counter()
    token = _looking.set(asked)
    try:
        yield asked
    finally:
        _looking.reset(token)


@contextmanager
def unsettled_shapes() -> Generator[set[str]]:
    """The names of the shapes that this thread's calls meet within it without a choice: what is captured of them is to
    be captured anew once there is one."""
    met: set[str] = set()
    token = _unsettled.set(met)
    try:
        yield met
    finally:
        _unsettled.reset(token)


@contextmanager
def assumed_choices(card: Card) -> Generator[Counter[Shape]]:
    """Within it the most promising way of a card is taken without any trial, of those for Hopper in eight bits alone:
    to count, where there is no card. Gives the shapes that were asked for, and how often."""
    asked: Counter[Shape] = Counter()
    before, _State.assumed = _State.assumed, (card, asked)
    try:
        yield asked
    finally:
        _State.assumed = before


def settled_tiling(device: int | None, dtype: str, *sizes: Any) -> str:
    """The name of the tiling that is in force for a shape, empty for torch's own. `sizes` are the fields of a `Shape`
    up to its dtype, `dtype` is torch's name of that."""
    if _State.assumed is not None:
        card, asked = _State.assumed
        shape = _shape(dtype, sizes)
        asked[shape] += 1
        if shape.dtype == EIGHT_BIT:
            return _first_eight_bit(shape, card)
        ways = candidates(shape, card, hopper=0) if has_kernels() else ()
        return ways[0].name if ways else ""
    looking, tuned = _looking.get(), are_convolutions_tuned()
    if looking is None and not tuned and not dtype.endswith(EIGHT_BIT):
        return ""
    shape = _shape(dtype, sizes)
    if looking is not None:
        looking[shape] += 1
        return ""
    if not tuned:
        return untried_tiling(shape, device or 0)
    tuning = tuning_of(device or 0)
    known = tuning.look_up(shape) if are_trials_wanted() else tuning.choices.get(shape.name)
    if known is not None:
        return known.tiling
    met = _unsettled.get()
    if met is not None:
        met.add(shape.name)
    return untried_tiling(shape, device or 0)


def untried_tiling(shape: Shape, device: int) -> str:
    """What a shape without a choice is computed by: torch's own, but in eight bits, where torch has no way but the long
    one of single precision."""
    if shape.dtype != EIGHT_BIT:
        return ""
    return _first_eight_bit(shape, card_of(torch.device("cuda", device)))


@cache
def _first_eight_bit(shape: Shape, card: Card) -> str:
    ways = candidates(shape, card) if has_hopper_kernels() else ()
    return ways[0].name if ways else ""


_compiler: Any = torch.compiler
known_tiling: Callable[..., str] = _compiler.assume_constant_result(settled_tiling)
"""The same for compilers, which ask while they look at a program and not while it runs."""


def bring_into_force() -> frozenset[str]:
    """Have frames take what was found for any card, from the next one on. For the thread that makes pictures, between
    two of them. Of what the choice is another way than torch's now."""
    return frozenset(name for tuning in list(_State.tunings.values()) for name in tuning.bring_into_force())


def choices_of(device: int = 0) -> dict[str, Choice]:
    """What is in force of a card by the names of shapes."""
    return dict(_State.tunings[device].choices) if device in _State.tunings else {}


def _shape(dtype: str, sizes: Any) -> Shape:
    make: Any = Shape
    made: Shape = make(*sizes, dtype.removeprefix("torch."))
    return made


def tuning_of(index: int) -> Tuning:
    """That of a CUDA device for what is wanted now: another wish begins anew."""
    wanted = wanted_of_convolutions()
    with _State.lock:
        if wanted is not _State.of:
            _State.of, _State.tunings = wanted, {}
        made = _State.tunings.get(index)
        if made is None:
            device = torch.device("cuda", index)
            hopper = MOST_HOPPER if has_hopper_kernels() else 0
            made = Tuning(card_of(device), device, store_of(device), _try, answers_rightly, hopper=hopper)
            _State.tunings[index] = made
        return made


def card_of(device: torch.device) -> Card:
    """What counts of a card."""
    library: Any = torch.cuda
    properties = library.get_device_properties(device)
    return Card((properties.major, properties.minor), properties.multi_processor_count)


def _try(
    shape: Shape, tilings: Sequence[AnyTiling], device: torch.device, is_over: Callable[[], bool]
) -> list[Sample] | None:
    return try_tilings(shape, tilings, device, CudaStopwatch(device), is_over)


__all__ = [
    "MOST_UNTRIED",
    "Tuning",
    "are_convolutions_tuned",
    "assumed_choices",
    "bring_into_force",
    "can_be_tuned",
    "card_of",
    "choices_of",
    "known_tiling",
    "settled_tiling",
    "shapes_asked",
    "tuning_of",
    "unsettled_shapes",
    "untried_tiling",
]
