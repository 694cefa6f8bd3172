"""Whether convolutions are computed the way that is the fastest on each card. Of this process; without kernels, so that
anybody may ask."""

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is wanted of convolutions: see `use_tuned_convolutions`."""

    tuned: bool = False
    seconds: float = 0.0


class _Switch:
    wanted = Wanted()


def use_tuned_convolutions(tuned: bool, seconds: float = 0.0) -> None:
    """Compute convolutions the way that is the fastest on each card from now on, or by torch alone.

    Each preparation of a model may spend `seconds` on trials, but for the end of one that is under way; what was found
    before counts (`sdstream.diffusion.trials`). Without Triton this changes nothing.
    """
    _Switch.wanted = Wanted(tuned, seconds)


def wanted_of_convolutions() -> Wanted:
    """What was wanted last. What is known of cards belongs to it: another wish begins anew."""
    return _Switch.wanted


@contextmanager
def convolutions(wanted: Wanted) -> Generator[None]:
    """Within it convolutions are computed as `wanted` says: to compare. What was found out for it stays known as long
    as nothing else is tuned in between."""
    before, _Switch.wanted = _Switch.wanted, wanted
    try:
        yield
    finally:
        _Switch.wanted = before


__all__ = ["Wanted", "convolutions", "use_tuned_convolutions", "wanted_of_convolutions"]
