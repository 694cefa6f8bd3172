"""What a trial says of a shape of convolution, and how it is remembered."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from sdstream.diffusion.convolving.tilings import tiling_named
from sdstream.diffusion.trials.store import Finding
from sdstream.diffusion.trials.ways import Sample, choose


@dataclass(frozen=True, slots=True)
class Choice:
    """What a shape is computed by: `tiling`, empty for torch's own, and what it and torch's own were measured to take;
    0 where nothing was."""

    tiling: str
    milliseconds: float = 0.0
    plain_milliseconds: float = 0.0


PLAIN = Choice("")


def choice_by(samples: Sequence[Sample]) -> Choice:
    """The choice that follows from what was measured; the ways are names of tilings."""
    took = {sample.way: sample.median for sample in samples if sample.milliseconds}
    tiling = choose(samples)
    return Choice(tiling, took.get(tiling, 0.0), took.get("", 0.0))


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


__all__ = ["PLAIN", "Choice", "choice_by", "choice_of", "finding_of"]
