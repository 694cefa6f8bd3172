"""How long the gateway waits for a worker: one that was silent a moment ago does not hold up every call."""

from sdstream.clock import Clock
from sdstream.jobs.waiting import ANSWER_SECONDS

CALL_SECONDS = ANSWER_SECONDS
"""For a worker of which nothing bad is known."""
OPEN_SECONDS = 5.0
"""For the beginning of a long answer or of a WebSocket, which needs no work: the most, whatever is known."""
BRIEF_SECONDS = 2.0
"""For one that has just been silent for the whole time: one that is well again answers within this."""
SILENCE_SECONDS = 20.0
"""How long a silence counts. Longer than a call may take, so that one call at a time finds out whether it has ended."""
MOST_REMEMBERED = 1000


class Patience:
    """Remembers silent workers, by the name of their mailbox."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._silent_until: dict[str, float] = {}

    def seconds(self, mailbox: str) -> float:
        """How long the next call to this worker may take."""
        until = self._silent_until.get(mailbox)
        if until is None:
            return CALL_SECONDS
        if self._clock.monotonic() < until:
            return BRIEF_SECONDS
        self.silent(mailbox)  # calls that come while this one tries at length do not wait with it
        return CALL_SECONDS

    def silent(self, mailbox: str) -> None:
        """It gave no answer to a call that might take `CALL_SECONDS`; a shorter call tells nothing."""
        self._silent_until.pop(mailbox, None)
        self._silent_until[mailbox] = self._clock.monotonic() + SILENCE_SECONDS
        while len(self._silent_until) > MOST_REMEMBERED:
            del self._silent_until[next(iter(self._silent_until))]

    def answered(self, mailbox: str) -> None:
        """It gave an answer, whatever that was."""
        self._silent_until.pop(mailbox, None)


__all__ = ["BRIEF_SECONDS", "CALL_SECONDS", "OPEN_SECONDS", "SILENCE_SECONDS", "Patience"]
