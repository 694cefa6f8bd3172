"""How a fetch gets on: who is told, and when it comes too slowly to be waited for. The caller has the clock."""

from collections.abc import Callable
from dataclasses import dataclass

Progress = Callable[[str, float | None], None]
"""Told what is being fetched and how much of it is there, 0 to 100; whatever it raises ends the fetching."""

STALL_SECONDS = 60.0
LEAST_BYTES = 64 * 1024
"""What must come in that time. At a slower pace a network of 100 MB takes more than a day."""


@dataclass(frozen=True, slots=True)
class Pace:
    """A fetch that had `came` bytes at `since`, in monotonic seconds, and has got on by less than `LEAST_BYTES` since.

    A server that sends a byte now and then is never silent, and tries that bring a little each are none that failed.
    """

    since: float
    came: int = 0

    def after(self, now: float, came: int) -> "Pace":
        """The pace once `came` bytes are there; fewer than before are a fetch that began anew."""
        got_on = not 0 <= came - self.came < LEAST_BYTES
        return Pace(now, came) if got_on else self

    def is_stalled(self, now: float, came: int) -> bool:
        """Whether it is to be given up, with `came` bytes there at `now`."""
        return now - self.since >= STALL_SECONDS and 0 <= came - self.came < LEAST_BYTES


__all__ = ["LEAST_BYTES", "STALL_SECONDS", "Pace"]
