"""What a trial says, and what is remembered of it: the decision, and a small file for each card and set of versions."""

import json
import os
import re
import secrets
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

from sdstream.diffusion.convolving.tilings import tiling_named
from sdstream.engines.manifest import write_durably

TOLERANCE = 0.02
"""How far an answer may be from the plain one, of the largest value."""
MARGIN = 0.03
"""How much less than torch's own a tiling must take before it is preferred: less would be the noise of the clock."""
MOST_ATTEMPTS = 2
"""Trials of one shape that may end with the process: a kernel that takes the card down must not at every start."""


@dataclass(frozen=True, slots=True)
class Sample:
    """What one way was measured to take. `tiling` is its name, empty for torch's own; `distance` is that of its answer
    from the plain one, of the largest value."""

    tiling: str
    milliseconds: tuple[float, ...]
    distance: float = 0.0


@dataclass(frozen=True, slots=True)
class Choice:
    """What a shape is computed by: `tiling`, empty for torch's own, and what it and torch's own were measured to take;
    0 where nothing was."""

    tiling: str
    milliseconds: float = 0.0
    plain_milliseconds: float = 0.0


PLAIN = Choice("")


def choose(samples: Iterable[Sample], margin: float = MARGIN) -> Choice:
    """The way to take: the fastest that answers as torch's own, if it is faster by `margin`; medians count."""
    measured = [sample for sample in samples if sample.milliseconds]
    plain = min((_median(sample) for sample in measured if not sample.tiling), default=None)
    # A distance that is no number is no answer.
    right = [sample for sample in measured if sample.tiling and sample.distance <= TOLERANCE]
    if plain is None:
        return PLAIN
    best = min(right, key=_median, default=None)
    if best is None or _median(best) > (1 - margin) * plain:
        return Choice("", plain, plain)
    return Choice(best.tiling, _median(best), plain)


def _median(sample: Sample) -> float:
    return statistics.median(sample.milliseconds)


@dataclass(frozen=True, slots=True)
class Known:
    """What is remembered: choices and unfinished attempts by the names of shapes."""

    choices: Mapping[str, Choice] = field(default_factory=dict[str, Choice])
    attempts: Mapping[str, int] = field(default_factory=dict[str, int])


def file_for(folder: Path, card: str, versions: Iterable[str]) -> Path:
    """Where it is remembered for a card of this name and this software: other software has a file of its own."""
    words = re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-") or "card"
    return folder / f"{words}-{sha256(chr(10).join(versions).encode()).hexdigest()[:12]}.json"


def read_known(file: Path) -> Known:
    """What a file says; nothing where there is none or it is not what `write_known` writes."""
    try:
        told: Any = json.loads(file.read_bytes())
        choices = {str(name): _choice(each) for name, each in told["choices"].items()}
        attempts = {str(name): int(number) for name, number in told["attempts"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return Known()
    return Known(choices, attempts)


def _choice(told: Any) -> Choice:
    made = Choice(str(told["tiling"]), float(told["milliseconds"]), float(told["plain_milliseconds"]))
    if made.tiling:
        tiling_named(made.tiling)
    return made


def write_known(file: Path, added: Known, settled: Iterable[str] = ()) -> bool:
    """Put `added` to what a file says, whole or not at all; the attempts of `settled` shapes are forgotten. Whether it
    could be written.

    Two processes that write at the same time lose no more than each other's last choice, which is tried again.
    """
    before = read_known(file)
    attempts = {**before.attempts, **added.attempts}
    for name in settled:
        attempts.pop(name, None)
    choices = {name: asdict(choice) for name, choice in {**before.choices, **added.choices}.items()}
    text = json.dumps({"choices": choices, "attempts": attempts}, indent=1, sort_keys=True)
    beside = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_durably(beside, text.encode())
        os.replace(beside, file)
    except OSError:
        return False  # a read-only volume: the next start tries again
    return True


__all__ = [
    "MARGIN",
    "MOST_ATTEMPTS",
    "PLAIN",
    "TOLERANCE",
    "Choice",
    "Known",
    "Sample",
    "choose",
    "file_for",
    "read_known",
    "write_known",
]
