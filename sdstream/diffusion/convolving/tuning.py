"""Which way each shape of convolution is computed in this process, and when that is found out: at its first call.

A first call comes before a frame is captured, and before it is compiled. All trials together take so long at most;
shapes that were not reached are computed by torch, and have their trial after the next start. What was
found out is remembered in the data directory, for the card and the software it was found out with.
"""

import threading
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import torch

from sdstream.clock import SystemClock
from sdstream.diffusion.convolving.choices import (
    MOST_ATTEMPTS,
    PLAIN,
    Choice,
    Known,
    Sample,
    choose,
    file_for,
    read_known,
    write_known,
)
from sdstream.diffusion.convolving.switch import Wanted, wanted_of_convolutions
from sdstream.diffusion.convolving.tilings import Card, Shape, Tiling, candidates, tiling_named
from sdstream.diffusion.convolving.trial import CudaStopwatch, answers_rightly, try_ways
from sdstream.diffusion.convolving.twins import has_kernels, kernels_digest

Proof = Callable[[Shape, Tiling, torch.device], bool]
Trial = Callable[[Shape, Sequence[Tiling], torch.device, Callable[[], bool]], list[Sample] | None]


@dataclass(slots=True)
class Tuning:
    """What one card's convolutions are computed by, and the seconds left to find out more.

    `clock` tells seconds. Without a `file` nothing is remembered.
    """

    card: Card
    device: torch.device
    file: Path | None
    seconds_left: float
    trial: Trial
    proof: Proof
    clock: Callable[[], float] = SystemClock().monotonic
    choices: dict[str, Choice] = field(default_factory=dict[str, Choice])
    attempts: dict[str, int] = field(default_factory=dict[str, int])
    remembered: dict[str, Choice] = field(default_factory=dict[str, Choice])
    """Choices of earlier processes that this one has not made use of yet."""

    def __post_init__(self) -> None:
        if self.file is not None:
            known = read_known(self.file)
            self.remembered, self.attempts = dict(known.choices), dict(known.attempts)

    def settle(self, shape: Shape) -> Choice:
        """The choice for a shape, after a trial if there was none and there is time for it."""
        name = shape.name
        known = self.choices.get(name)
        if known is not None:
            return known
        tilings = candidates(shape, self.card)
        before = self.remembered.pop(name, None)
        if not tilings or (before is not None and not before.tiling):
            self.choices[name] = before or PLAIN
            return self.choices[name]
        if before is not None:
            # Another machine with the same card may have no compiler, and a kernel is seldom made twice the same.
            try:
                works = self.proof(shape, tiling_named(before.tiling), self.device)
            except torch.OutOfMemoryError:
                works = False
            self.choices[name] = before if works else PLAIN
            return self.choices[name]
        attempts = self.attempts.get(name, 0)
        if self.seconds_left <= 0 or attempts >= MOST_ATTEMPTS:
            return PLAIN  # of this process: the next one may have the time
        self.attempts[name] = attempts + 1
        self._remember(Known(attempts={name: attempts + 1}))
        began = self.clock()
        ends = began + self.seconds_left
        try:
            samples = self.trial(shape, tilings, self.device, lambda: self.clock() >= ends)
        except torch.OutOfMemoryError:
            samples = None  # what is left of the memory is for the frame itself
        self.seconds_left -= self.clock() - began
        self.attempts.pop(name, None)
        if samples is None:
            self._remember(Known(), settled=(name,))
            return PLAIN
        choice = self.choices[name] = choose(samples)
        self._remember(Known(choices={name: choice}), settled=(name,))
        return choice

    def _remember(self, added: Known, settled: Sequence[str] = ()) -> None:
        if self.file is not None:
            write_known(self.file, added, settled)


class _State:
    tunings: dict[int, Tuning] = {}  # noqa: RUF012  (a switch, of which there is one)
    of = Wanted()
    """What the tunings are for."""
    quiet = 0
    assumed: tuple[Card, Counter[Shape]] | None = None
    lock = threading.Lock()


def can_be_tuned() -> bool:
    """Whether there are kernels, and torch is for the cards that they are for."""
    return has_kernels() and torch.version.cuda is not None


def are_convolutions_tuned() -> bool:
    """Whether trials are made, or were made before and are remembered, for first calls of shapes."""
    return wanted_of_convolutions().tuned and can_be_tuned()


@contextmanager
def without_trials() -> Generator[None]:
    """Within it what has not had its trial is computed by torch: for calls that are none of a frame."""
    _State.quiet += 1
    try:
        yield
    finally:
        _State.quiet -= 1


@contextmanager
def assumed_choices(card: Card) -> Generator[Counter[Shape]]:
    """Within it the most promising way of a card is taken without any trial: to count, where there is no card. Gives
    the shapes that were asked for, and how often."""
    asked: Counter[Shape] = Counter()
    before, _State.assumed = _State.assumed, (card, asked)
    try:
        yield asked
    finally:
        _State.assumed = before


def settled_tiling(device: int | None, dtype: str, *sizes: Any) -> str:
    """The name of the tiling for a shape, empty for torch's own; has its trial first if it can. `sizes` are the fields
    of a `Shape` up to its dtype, `dtype` is torch's name of that."""
    if _State.assumed is not None:
        card, asked = _State.assumed
        shape = _shape(dtype, sizes)
        asked[shape] += 1
        ways = candidates(shape, card) if has_kernels() else ()
        return ways[0].name if ways else ""
    if not are_convolutions_tuned():
        return ""
    shape = _shape(dtype, sizes)
    index = device or 0
    with _State.lock:
        tuning = _tuning(index)
        known = tuning.choices.get(shape.name)
        if known is not None:
            return known.tiling
        if _State.quiet or torch.cuda.is_current_stream_capturing():
            return ""
        with torch.no_grad():
            return tuning.settle(shape).tiling


def _known_tiling(device: int | None, dtype: str, *sizes: Any) -> str:
    with without_trials():
        return settled_tiling(device, dtype, *sizes)


_compiler: Any = torch.compiler
known_tiling: Callable[..., str] = _compiler.assume_constant_result(_known_tiling)
"""The same without a trial: for compilers, which ask while they look at a program and not while it runs."""


def choices_of(device: int = 0) -> dict[str, Choice]:
    """What is known of a card by the names of shapes."""
    return dict(_State.tunings[device].choices) if device in _State.tunings else {}


def _shape(dtype: str, sizes: Any) -> Shape:
    make: Any = Shape
    made: Shape = make(*sizes, dtype.removeprefix("torch."))
    return made


def _tuning(index: int) -> Tuning:
    wanted = wanted_of_convolutions()
    if wanted is not _State.of:
        _State.of, _State.tunings = wanted, {}
    made = _State.tunings.get(index)
    if made is None:
        device = torch.device("cuda", index)
        file = (
            None if wanted.folder is None else file_for(wanted.folder, torch.cuda.get_device_name(device), versions())
        )
        made = Tuning(card_of(device), device, file, wanted.seconds, _try, answers_rightly)
        _State.tunings[index] = made
    return made


def card_of(device: torch.device) -> Card:
    """What counts of a card."""
    library: Any = torch.cuda
    properties = library.get_device_properties(device)
    return Card((properties.major, properties.minor), properties.multi_processor_count)


def versions() -> tuple[str, ...]:
    """Of all that decides how fast a convolution is on a card."""
    library: Any = torch
    triton = import_module("triton")
    driver = library._C._cuda_getDriverVersion()
    parts = (library.__version__, triton.__version__, library.backends.cudnn.version(), driver, kernels_digest())
    return tuple(str(part) for part in parts)


def _try(
    shape: Shape, tilings: Sequence[Tiling], device: torch.device, is_over: Callable[[], bool]
) -> list[Sample] | None:
    return try_ways(shape, tilings, device, CudaStopwatch(device), is_over)


__all__ = [
    "Tuning",
    "are_convolutions_tuned",
    "assumed_choices",
    "can_be_tuned",
    "card_of",
    "choices_of",
    "known_tiling",
    "settled_tiling",
    "versions",
    "without_trials",
]
