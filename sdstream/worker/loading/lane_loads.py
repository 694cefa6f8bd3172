"""What is loaded for each lane, and for which of its params: newer ones that want the very same load take it over."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from sdstream.params import StreamParams
from sdstream.params.attainable import with_hot
from sdstream.worker.outcomes import Prepared
from sdstream.worker.scheduling.turns import WantedParams


class Fate(StrEnum):
    """What newer params of a lane do to the load under way for it."""

    GOES_ON = "goes on"
    """It is theirs from now on."""
    WAITS = "waits"
    """It goes on for those that follow them, if those want it."""
    GIVEN_UP = "given up"


def fate_of(loading: StreamParams | None, newer: StreamParams, *, keeps: bool) -> Fate:
    """Decide over the load for `loading`, None where that is not known. `keeps` says that more params follow."""
    if loading is not None and with_hot(loading, newer) == newer:
        return Fate.GOES_ON
    return Fate.WAITS if keeps else Fate.GIVEN_UP


@dataclass(frozen=True, slots=True)
class Aim:
    """Params that a load is for, and the ticket of their `Prepare`; without `params` they are still to be read."""

    wanted: WantedParams
    params: StreamParams | None
    ticket: int


@dataclass(slots=True, eq=False)
class LaneLoad:
    """One load of a lane. Its thread asks for the `aim` and hands in what it made; the working thread moves the aim."""

    aim: Aim
    beside: bool
    """As in `Prepared`."""
    told: tuple[str, float | None] | None = None
    """The last that was told of its progress."""
    given_up: bool = False
    waits: bool = False
    """Its params are not the newest, and nobody is told of it."""
    over: bool = False
    """What it made was taken, or cannot be had."""
    _made: Prepared | None = None
    """What nobody has taken yet."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def hand_in(self, aim: Aim, made: Prepared, offer: Callable[[Prepared], bool]) -> bool:
        """The thread made this for `aim`. False when newer params took the load over meanwhile: make it for those.

        Where `offer` does not get rid of it, it is kept until newer params take it, or give it up.
        """
        with self._lock:
            if self.given_up:
                made.give_back()
            elif self.aim is not aim:
                return False
            elif self.waits or not offer(made):
                self._made = made
            else:
                self.over = True
            return True

    def put_aside(self) -> None:
        """Newer params come first."""
        with self._lock:
            self.waits = True

    def take_over(self, aim: Aim) -> Prepared | None:
        """It is for `aim` from now on; returns what was made already, if anything was."""
        with self._lock:
            self.aim, self.waits = aim, False
            made, self._made = self._made, None
            return made

    def give_up(self) -> None:
        """Nobody wants it any more."""
        with self._lock:
            self.given_up = True
            made, self._made = self._made, None
        if made is not None:
            made.give_back()


class LaneLoads:
    """The newest load of each lane. Threads may call at any time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loads: dict[int, LaneLoad] = {}

    def under_way(self, lane: int) -> LaneLoad | None:
        """The load that newer params of the lane decide over, if there is one."""
        load = self._loads.get(lane)
        return None if load is None or load.over else load

    def begin(self, lane: int, load: LaneLoad) -> None:
        """In the place of the one before, which is given up."""
        self.give_up(lane)
        with self._lock:
            self._loads[lane] = load

    def give_up(self, lane: int) -> None:
        """Nothing that is loaded for the lane is wanted any more."""
        with self._lock:
            load = self._loads.pop(lane, None)
        if load is not None:
            load.give_up()


__all__ = ["Aim", "Fate", "LaneLoad", "LaneLoads", "fate_of"]
