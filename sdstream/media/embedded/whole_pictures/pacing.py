"""When a viewer is sent the next whole picture, and how coarse it is. Pure, driven by times that are given.

A viewer says of each picture that it has come. How long that takes is at least the way there and back, and the longer
the more waits before the narrowest part of its line. So as many pictures are on their way at once as take not much
longer than the quickest did: one more and one more while that is so, half as many when it is not, as congestion
controls by delay do (Brakmo and Peterson, TCP Vegas, 1995). What could not be sent meanwhile is not made up for: the
newest picture is sent next. Where many are left out, pictures are made coarser.
"""

from collections import deque
from dataclasses import dataclass, field

COARSENESS = (4, 7, 12, 20)
"""The quantiser's scale of a JPEG, 2 (finest) to 31, from fine to coarse."""
MOST_UNANSWERED = 16
"""Pictures on their way at once; 9 are 30 a second over a line of 300 ms."""
FIRST_UNANSWERED = 2
PATIENCE = 0.15
"""Seconds that a picture may take longer than the quickest did; half of it is taken for none."""
GROWTH = 0.5
"""How many more pictures are on their way at once, each time that all of them have come in time."""
REMEMBERED = 10.0
"""The quickest answer is looked for in the present and the last window of so many seconds."""
WINDOW = 1.0
"""Seconds over which pictures are counted."""
FEW = 5
"""Pictures in a window, below which it tells nothing."""
COARSER_BELOW, FINER_FROM = 0.7, 0.95
"""Shares of a window's pictures that were sent."""
LEAST_PROBE, MOST_PROBE = 5, 80
"""Windows that went well before finer pictures are tried; doubled each time when that went wrong."""


@dataclass(slots=True)
class PicturePace:
    """The pace of one viewer. Times are monotonic seconds."""

    unanswered: deque[float] = field(default_factory=deque[float])
    """When each picture on its way was sent."""
    quickest: float | None = None
    """Seconds of the quickest answer of late; None before the first."""
    window: float = FIRST_UNANSWERED
    """How many pictures may be on their way at once."""
    level: int = 0
    """An index of `COARSENESS`."""
    _starting: bool = True
    """Nothing has taken too long yet, so the window grows quickly."""
    _shrunk_at: float = float("-inf")
    _quickest_here: float = float("inf")
    _here_since: float = 0.0
    _counted_since: float | None = None
    _came: int = 0
    _sent: int = 0
    _good: int = 0
    _probe: int = LEAST_PROBE
    _probed: int = MOST_PROBE
    """Windows since finer pictures were tried."""

    @property
    def coarseness(self) -> int:
        """The quantiser's scale for the next picture."""
        return COARSENESS[self.level]

    def may_send(self, now: float) -> bool:
        """Whether a picture that is sent now would find its way free. Once it would not, only an answer helps."""
        if not self.unanswered:
            return True
        late = self.quickest is not None and now - self.unanswered[0] > self.quickest + PATIENCE
        return len(self.unanswered) < int(self.window) and not late

    def came(self, now: float) -> None:
        """There is a new picture, sent or not."""
        if self._counted_since is None:
            self._counted_since = now
        elif now - self._counted_since >= WINDOW:
            self._judge()
            self._counted_since = now
        self._came += 1

    def sent(self, now: float) -> None:
        """A picture was sent."""
        self._sent += 1
        self.unanswered.append(now)

    def answered(self, now: float) -> None:
        """The oldest picture on its way has come; an answer too many says nothing."""
        if not self.unanswered:
            return
        used = len(self.unanswered) >= int(self.window)
        sent_at = self.unanswered.popleft()
        taken = now - sent_at
        if now - self._here_since > REMEMBERED:
            self.quickest, self._quickest_here, self._here_since = min(self._quickest_here, taken), taken, now
        else:
            self._quickest_here = min(self._quickest_here, taken)
            self.quickest = taken if self.quickest is None else min(self.quickest, taken)
        if taken > self.quickest + PATIENCE:
            if sent_at > self._shrunk_at:  # one that was on its way then could know nothing of it
                self.window, self._shrunk_at, self._starting = max(1.0, self.window / 2), now, False
        elif used and taken <= self.quickest + PATIENCE / 2:
            self.window = min(MOST_UNANSWERED, self.window + (1 if self._starting else GROWTH / self.window))

    def _judge(self) -> None:
        came, sent, self._came, self._sent = self._came, self._sent, 0, 0
        if came < FEW:
            return
        self._probed += 1
        share = sent / came
        if share < COARSER_BELOW and self.level < len(COARSENESS) - 1:
            # What was tried a moment ago is what went wrong: it is tried again later.
            self._probe = min(MOST_PROBE, 2 * self._probe) if self._probed <= LEAST_PROBE else LEAST_PROBE
            self.level += 1
            self._good = 0
        elif share >= FINER_FROM and self.level > 0:
            self._good += 1
            if self._good >= self._probe:
                self.level -= 1
                self._good = self._probed = 0
        else:
            self._good = 0


__all__ = ["COARSENESS", "MOST_UNANSWERED", "PATIENCE", "PicturePace"]
