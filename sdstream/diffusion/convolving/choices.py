"""What a trial says of a shape of convolution: the decision, and how it is remembered."""

import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from sdstream.diffusion.convolving.tilings import tiling_named
from sdstream.diffusion.trials.store import Finding

TOLERANCE = 0.02
"""How far an answer may be from the plain one, of the largest value."""
MARGIN = 0.03
"""How much less than torch's own a tiling must take before it is preferred: less would be the noise of the clock."""


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


def finding_of(choice: Choice) -> Finding:
    """A choice as it is remembered."""
    return asdict(choice)


def choice_of(finding: Finding) -> Choice | None:
    """The choice that is remembered; None where it is none, or of a tiling that there is not."""
    try:
        made = Choice(str(finding["tiling"]), float(finding["milliseconds"]), float(finding["plain_milliseconds"]))
        if made.tiling:
            tiling_named(made.tiling)
    except (ValueError, TypeError, KeyError):
        return None
    return made


__all__ = ["MARGIN", "PLAIN", "TOLERANCE", "Choice", "Sample", "choice_of", "choose", "finding_of"]
