"""Which pictures of a fast publisher go on to the worker."""

from typing import NamedTuple

SLACK = 0.5
"""How early, in intervals, a picture may come: cameras jitter, and one at exactly the limit must lose nothing."""


class Pace(NamedTuple):
    """Whether the picture goes on, and when (monotonic seconds) the next one is due."""

    admitted: bool
    due: float


def decide_pace(due: float, now: float, interval: float) -> Pace:
    """Admit the picture of `now` unless it comes well before `due`; `interval` is seconds between pictures.

    Each admitted picture moves `due` by one interval and `due` is never more than one interval in the past, so any
    span of T seconds lets at most T / interval + 3 pictures through.
    """
    if now < due - SLACK * interval:
        return Pace(False, due)
    return Pace(True, max(due, now - interval) + interval)


__all__ = ["SLACK", "Pace", "decide_pace"]
