"""Which streams end the worker process: what is held against each lane, and when one is no longer attached.

The worker says what it is about to do for the first time; a process that ends in the middle of that is held against
the lane. One such death may be chance, so the lane is tried again; with the next it is kept away from the worker until
its params change, because every death takes the worker from all other streams too. A good picture clears the lane.

Lanes do things for the first time side by side: pictures of several ride in one call, params are prepared beside it. So
a death may have several suspects. It convicts none of them; each is tried again while no other lane does anything for
the first time, and what ends the process then has one author.
"""

from dataclasses import dataclass, replace

from sdstream.worker.messages import AtWork, LaneReport
from sdstream.worker.ports import LanePhase

DEATHS_LIMIT = 2
"""So many deaths without a good picture between them put a lane in quarantine."""


@dataclass(frozen=True, slots=True)
class Conduct:
    """What is known of one lane: `deaths` of the worker while it was at work for it, since its last good picture."""

    deaths: int = 0
    held: bool = False
    """In quarantine: no worker is to get this lane."""

    @property
    def is_suspected(self) -> bool:
        """It is to be tried alone."""
        return self.deaths > 0


def after_death(conduct: Conduct, *, alone: bool = True) -> Conduct:
    """A worker ended while it was at work for this lane, and for no other if `alone`."""
    deaths = min(conduct.deaths + 1, DEATHS_LIMIT) if alone else max(conduct.deaths, 1)
    return Conduct(deaths, held=deaths >= DEATHS_LIMIT)


def after_update(conduct: Conduct) -> Conduct:
    """A lane in quarantine got new params. That is worth one try, not as many as a lane without a past has."""
    return replace(conduct, deaths=DEATHS_LIMIT - 1, held=False) if conduct.held else conduct


def ends_work(work: AtWork, report: LaneReport) -> bool:
    """Whether `report` says that the worker survived `work`."""
    if report.lane != work.lane or report.phase == LanePhase.LOADING:
        return False
    # A report about older params says nothing of newer ones, which are prepared beside them.
    answers = max(report.revision, report.refused_revision or 0)
    return answers >= work.revision or report.phase == LanePhase.FAILED


def clears(work: AtWork, report: LaneReport) -> bool:
    """Whether `report` says that `work` gave a good picture under the params that it was about."""
    made = report.revision == work.revision and report.effective_sequence is not None
    return made and report.refused_revision is None and ends_work(work, report)


class Quarantine:
    """The conduct of all lanes by their number. On the event loop only; a lane that never did harm takes no room."""

    def __init__(self) -> None:
        self._conducts: dict[int, Conduct] = {}

    def note_death(self, *lanes: int) -> set[int]:
        """A worker ended while it was at work for these lanes; returns which of them are in quarantine now."""
        for lane in lanes:
            self._conducts[lane] = after_death(self._conducts.get(lane, Conduct()), alone=len(lanes) == 1)
        return {lane for lane in lanes if self.holds(lane)}

    def suspects(self, lane: int) -> bool:
        """Whether a worker is to try the lane alone."""
        return self._conducts.get(lane, Conduct()).is_suspected

    def holds(self, lane: int) -> bool:
        return self._conducts.get(lane, Conduct()).held

    def release(self, lane: int) -> None:
        """The lane got new params."""
        if lane in self._conducts:
            self._conducts[lane] = after_update(self._conducts[lane])

    def forget(self, lane: int) -> None:
        """The lane made a good picture, or is closed."""
        self._conducts.pop(lane, None)


__all__ = ["DEATHS_LIMIT", "Conduct", "Quarantine", "after_death", "after_update", "clears", "ends_work"]
