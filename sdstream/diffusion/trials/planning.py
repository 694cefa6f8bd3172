"""What is to be tried next while a model is prepared, and with how many seconds: plain decisions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

PROOF_SECONDS = 10.0
"""What a preparation may spend at least to prove what earlier processes found: trials may be given less, or nothing."""
LEAST_SECONDS = 0.25
"""Less is not worth beginning a trial with, which would be broken off."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A shape that frames ask for: `operations` are those of all its calls in one frame.

    `place` orders: 0 for what the first frame after the swap needs, more for what may be needed later.
    """

    name: str
    operations: int
    place: int


@dataclass(frozen=True, slots=True)
class Standing:
    """Where the trials of one preparation stand. All sets are of names of shapes.

    `settled` are those that have their choice, `passed` those that this preparation leaves as they are, `remembered`
    those of which an earlier process says that a kernel of this project's wins. `seconds` have passed of `limit`.
    """

    asked: tuple[Asked, ...]
    settled: frozenset[str] = frozenset()
    passed: frozenset[str] = frozenset()
    remembered: frozenset[str] = frozenset()
    seconds: float = 0.0
    limit: float = 0.0

    @property
    def open(self) -> tuple[Asked, ...]:
        """What has no choice yet, in the order in which it is taken up: by its place, then what computes most."""
        waiting = [each for each in self.asked if each.name not in self.settled and each.name not in self.passed]
        return tuple(sorted(waiting, key=lambda each: (each.place, -each.operations, each.name)))

    @property
    def percent(self) -> float:
        """How much is done, by shapes or by time, whichever is nearer to the end."""
        if not self.asked or not self.open:
            return 100.0
        by_shapes = 1 - len(self.open) / len(self.asked)
        by_time = self.seconds / self.limit if self.limit > 0 else 0.0
        return 100.0 * min(1.0, max(by_shapes, by_time))


@dataclass(frozen=True, slots=True)
class Step:
    """What is to be done now: to prove what is remembered of a shape, or to try it for at most `seconds`."""

    kind: Literal["prove", "try"]
    name: str
    seconds: float = 0.0


def next_step(standing: Standing) -> Step | None:
    """The next thing to do, None when all is decided or the time is over.

    What is remembered is proved first, as it takes a moment and wins for sure; what is not reached is torch's own.
    """
    waiting = standing.open
    proofs_until = max(standing.limit, PROOF_SECONDS)
    if standing.seconds < proofs_until:
        for each in waiting:
            if each.name in standing.remembered:
                return Step("prove", each.name)
    left = standing.limit - standing.seconds
    if left < LEAST_SECONDS:
        return None
    for each in waiting:
        if each.name not in standing.remembered:
            return Step("try", each.name, left)
    return None


def numbers_of_streams(seated: int, most: int, buckets: Sequence[int] | None) -> tuple[int, ...]:
    """How many streams calls will be made of once one more sits down, the likeliest first: itself alone, all, between.

    `most` ride in one call. `buckets` are the numbers that frames are captured for, ascending, each twice the one
    before at the end; None where every number is run as it is. Seats double, as those of tables do.
    """
    together = min(seated + 1, most)
    if buckets is None:
        numbers = set(range(1, together + 1))
        together_as = together
    else:
        sizes = list(buckets)
        while sizes[-1] < together:
            sizes.append(2 * sizes[-1])
        together_as = next(size for size in sizes if size >= together)
        numbers = {size for size in sizes if size <= together_as}
    first = [number for number in (1, together_as) if number in numbers]
    return tuple(dict.fromkeys([*first, *sorted(numbers, reverse=True)]))


def asked_of(frames: Iterable[Mapping[str, int]], beside: Mapping[str, int]) -> tuple[Asked, ...]:
    """What to ask for: the shapes of frames, each with operations, in the order in which the frames are needed, then
    those that other frames met untried."""
    made: dict[str, Asked] = {}
    place = 0
    for place, frame in enumerate(frames):
        for name, operations in frame.items():
            made.setdefault(name, Asked(name, operations, place))
    for name, operations in beside.items():
        made.setdefault(name, Asked(name, operations, place + 1))
    return tuple(made.values())


__all__ = ["LEAST_SECONDS", "PROOF_SECONDS", "Asked", "Standing", "Step", "asked_of", "next_step", "numbers_of_streams"]
