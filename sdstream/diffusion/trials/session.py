"""Trials beside running streams: who prepares says how the card is shared meanwhile, and trials ask for their turns."""

from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from dataclasses import dataclass

from sdstream.diffusion.capture import one_at_a_time


def _goes_on(percent: float) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class TrialSession:
    """One preparation's trials.

    `turn` gives a context within which the card is theirs, for some milliseconds: it waits for the frames of running
    streams, and they for it. `tell` hears how much of the trials is done, 0 to 100; False ends them, because nobody
    waits for what is prepared any more.
    """

    turn: Callable[[], AbstractContextManager[None]] = nullcontext
    tell: Callable[[float], bool] = _goes_on


ALONE = TrialSession()
"""Of who has the card alone, as benchmarks do."""
_present: ContextVar[TrialSession] = ContextVar("trial_session", default=ALONE)
_wanted: ContextVar[bool] = ContextVar("trials_wanted", default=True)


@contextmanager
def without_trials() -> Generator[None]:
    """Within it nothing is tried for the sake of this thread's calls, which are none of a frame."""
    token = _wanted.set(False)
    try:
        yield
    finally:
        _wanted.reset(token)


def are_trials_wanted() -> bool:
    """Whether this thread's calls may be those of a frame."""
    return _wanted.get()


@contextmanager
def trial_session(session: TrialSession) -> Generator[None]:
    """Trials of this thread belong to `session` within it."""
    token = _present.set(session)
    try:
        yield
    finally:
        _present.reset(token)


@contextmanager
def card_turn() -> Generator[None]:
    """A slice of a trial, of this thread's session: short, not within another one. No frame is captured meanwhile."""
    with _present.get().turn(), one_at_a_time():
        yield


__all__ = ["ALONE", "TrialSession", "are_trials_wanted", "card_turn", "trial_session", "without_trials"]
