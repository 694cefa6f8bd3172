"""Which lanes ride in the worker's next call: a pure choice from what waits, since when, and who rides with whom.

Lanes of one group ride in one call. Groups take turns by deadline: a picture should be made before its lane's next one
is due, counted from the moment since which the lane waits. That moment does not move when a newer picture replaces the
one that waits, so whoever waits becomes the most urgent in the end and nobody starves.

With a window, a call waits a moment for lanes of its group whose next picture is just about to come. It never waits for
a lane that is overdue, and so neither for a slow nor for a silent one, and a lane alone in its group waits for nobody.
"""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass

SHORTEST_INTERVAL = 1 / 240
LONGEST_INTERVAL = 0.5
"""Seconds between two pictures of a lane, as far as they count for its deadline."""
FIRST_INTERVAL = 1 / 30
"""Taken of a lane that had one picture only."""
MEMORY = 0.2
"""The share of the newest interval in the one that is expected."""


@dataclass(frozen=True, slots=True)
class Rider:
    """What is known of one lane at a moment. Moments are monotonic seconds."""

    lane: int
    group: Hashable
    """Lanes of an equal one can ride in one call."""
    since: float | None = None
    """Since when a picture waits that could be made now; None when none does."""
    interval: float = FIRST_INTERVAL
    """Seconds expected between its pictures."""
    expected_at: float | None = None
    """When its next picture is due, if none waits; None when it could not ride, or nobody knows."""
    served: int = 0
    """The number of the call that it rode in last: the lower, the longer ago."""
    alone: bool = False
    """It must not ride with others now."""

    @property
    def urgency(self) -> tuple[float, int]:
        """Of lanes that wait, the lowest is the first: by deadline, then by how long ago it was served."""
        assert self.since is not None
        return self.since + self.interval, self.served


@dataclass(frozen=True, slots=True)
class Call:
    """Make the pictures of these lanes now, the most urgent first."""

    lanes: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Pause:
    """Nothing is to be made before this moment, unless something arrives."""

    until: float


def choose(riders: Iterable[Rider], now: float, window: float, most: int) -> Call | Pause | None:
    """The next call; None when nothing waits. `window` is the longest gathering, in seconds; `most` lanes ride."""
    groups: dict[Hashable, list[Rider]] = {}
    for rider in riders:
        groups.setdefault(rider.group, []).append(rider)
    best: Sequence[Rider] = ()
    pause: float | None = None
    for members in groups.values():
        riding = _riding(members, most)
        if not riding:
            continue
        until = None if riding[0].alone else _gather_until(members, riding, now, window, most)
        if until is not None:
            pause = until if pause is None else min(pause, until)
        elif not best or riding[0].urgency < best[0].urgency:
            best = riding
    if best:
        return Call(tuple(rider.lane for rider in best))
    return None if pause is None else Pause(pause)


def _riding(members: Iterable[Rider], most: int) -> list[Rider]:
    """Who would ride if the group were called now, the most urgent first."""
    waiting = sorted((rider for rider in members if rider.since is not None), key=lambda rider: rider.urgency)
    if waiting and waiting[0].alone:
        return waiting[:1]
    return [rider for rider in waiting if not rider.alone][:most]


def _gather_until(
    members: Iterable[Rider], riding: Sequence[Rider], now: float, window: float, most: int
) -> float | None:
    """Until when the call waits for more lanes; None when it does not."""
    since = min(rider.since for rider in riding if rider.since is not None)
    until = since + window
    if len(riding) >= most or now >= until:
        return None
    due = (rider.expected_at for rider in members if rider.since is None and rider.expected_at is not None)
    return until if any(now - window <= expected <= until for expected in due) else None


def next_interval(before: float | None, gap: float) -> float:
    """The interval that is expected after pictures came `gap` seconds apart; `before` is what was expected."""
    gap = min(max(gap, SHORTEST_INTERVAL), LONGEST_INTERVAL)
    return gap if before is None else before + MEMORY * (gap - before)


@dataclass(frozen=True, slots=True)
class Trial:
    """What bears on whether work that may end the process can begin: work that was never done before."""

    any_under_way: bool
    alone_under_way: bool
    """Some of it is of a suspected lane."""
    alone_waits: bool
    """Work of a suspected lane could begin if none were under way."""


def may_try(trial: Trial, alone: bool) -> bool:
    """Whether untried work of a lane may begin; `alone` says that the lane is suspected.

    After a death of the process each suspect is tried while nobody else is, so the next death has one author.
    """
    if alone:
        return not trial.any_under_way
    return not trial.alone_under_way and not trial.alone_waits


__all__ = [
    "FIRST_INTERVAL",
    "LONGEST_INTERVAL",
    "SHORTEST_INTERVAL",
    "Call",
    "Pause",
    "Rider",
    "Trial",
    "choose",
    "may_try",
    "next_interval",
]
