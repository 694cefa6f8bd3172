"""Which loads run, which wait and which are given up: decisions alone. No torch here.

A lane has one load that counts, the newest that it asked for. The one before may hang in a call that nobody can end, so
it does not hold the newest up: it is given up, and what it makes after all is not used.
"""

from dataclasses import dataclass, replace

LOADERS = 3
"""Loads that count and run side by side. One model is loaded at a time, and meanwhile streams find those that are in
memory already."""
EACH = 2
"""Loads of one lane that run side by side: the one that counts, and one given up that has not noticed yet."""


@dataclass(frozen=True, slots=True)
class Load:
    """`number` is another one for each."""

    lane: int
    number: int
    runs: bool = False
    counts: bool = True
    """False once it is given up."""


@dataclass(frozen=True, slots=True)
class LoadBook:
    """All loads, in the order in which they were asked for."""

    loads: tuple[Load, ...] = ()

    def asked(self, lane: int, number: int) -> "LoadBook":
        """The lane asks for another load, in the place of the one before."""
        return LoadBook((*self.superseded(lane).loads, Load(lane, number)))

    def superseded(self, lane: int) -> "LoadBook":
        """Nothing that is loaded for the lane counts any more; what waits is forgotten."""
        kept = (load for load in self.loads if load.lane != lane or load.runs)
        return LoadBook(tuple(replace(load, counts=False) if load.lane == lane else load for load in kept))

    def ended(self, number: int) -> "LoadBook":
        """A load is over, however it ended."""
        return LoadBook(tuple(load for load in self.loads if load.number != number))

    def begun(self) -> tuple["LoadBook", tuple[Load, ...]]:
        """The book in which all that may run does, and what is to be started for that."""
        loads = list(self.loads)
        started: list[Load] = []
        for index, load in enumerate(loads):
            running = [each for each in loads if each.runs]
            beside = sum(each.lane == load.lane for each in running)
            if not load.runs and beside < EACH and sum(each.counts for each in running) < LOADERS:
                loads[index] = replace(load, runs=True)
                started.append(loads[index])
        return LoadBook(tuple(loads)), tuple(started)

    def counts(self, number: int) -> bool:
        """Whether this load is not given up."""
        return any(load.number == number and load.counts for load in self.loads)

    @property
    def running(self) -> int:
        """Loads that run, those given up included."""
        return sum(load.runs for load in self.loads)


__all__ = ["EACH", "LOADERS", "Load", "LoadBook"]
