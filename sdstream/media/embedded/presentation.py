"""When sound and pictures are meant to be presented: captured time, moved by every jump of the time that pictures take.

A player cannot tell a pipeline that became slower from a bad network. If the RTP clocks of a viewer read captured time,
all that follows a jump comes late, and a browser answers with a jitter buffer as long as the jump, which it gives back
over half a minute, one track after the other. So both clocks are moved by the jump, at the same captured moment: little
seems late, and what was captured together still has one moment in the sender reports.
"""

from dataclasses import dataclass
from typing import NamedTuple

GRAIN = 0.02
"""Seconds. Clocks are moved by whole packets of sound, so that where some are skipped the next one joins on."""
EARLY = 0.15
"""A picture that is early by more seconds was made after the latency fell, before that was believed; less is jitter."""
FRESH = 0.5
"""For so many seconds after a packet of sound, sound is taken to flow; Opus sends one each 0.4 s of silence."""
MOST_SHIFTS = 4


class Shift(NamedTuple):
    """What was captured from `begin` on is presented `seconds` later than it was captured."""

    begin: float
    seconds: float


class Skip(NamedTuple):
    """Sound captured from `begin` to before `end` is left out: pictures are beyond it already."""

    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Presentation:
    """A moment's knowledge; all times are seconds on the monotonic clock. Pure."""

    shifts: tuple[Shift, ...] = ()
    """In the order of their beginnings, the newest last; before the first it is 0."""
    skips: tuple[Skip, ...] = ()
    delay: float = 0.0
    """How long sound is held."""
    known_at: float = float("-inf")
    """When that was so."""

    def shift(self, captured_at: float) -> float:
        """Seconds from capture to presentation, but for a constant."""
        for shift in reversed(self.shifts):
            if captured_at >= shift.begin:
                return shift.seconds
        return self.shifts[0].seconds if len(self.shifts) == MOST_SHIFTS else 0.0

    def skips_sound(self, captured_at: float) -> bool:
        """Whether sound of that moment is left out."""
        return any(skip.begin <= captured_at < skip.end for skip in self.skips)

    def picture_shift(self, captured_at: float, now: float) -> float:
        """`shift` of a picture that is sent `now`.

        One that comes early is presented when it comes: it would else be held back for as long as its sound is, and
        take the place of those that follow it when both have been moved.
        """
        shift = self.shift(captured_at)
        if not self.is_fresh(now):
            return shift
        early = captured_at + shift - (now - self.delay + self._newest)
        return shift - early if early > EARLY else shift

    def is_fresh(self, now: float) -> bool:
        """Whether sound flows, so that pictures have something to stay with."""
        return now - self.known_at <= FRESH

    def jumped(self, change: float, next_at: float) -> "Presentation":
        """The delay of sound jumped by `change`; the next sound to be sent was captured at `next_at`."""
        change = round(change / GRAIN) * GRAIN
        skipped = max(0.0, -change)
        half = GRAIN / 2  # captured times are measured: what is meant to be on one side must not fall on the other
        begin = next_at + skipped - half
        shifts = (*(shift for shift in self.shifts if shift.begin < begin), Shift(begin, self._newest + change))
        skips = (*self.skips, Skip(next_at - half, begin)) if skipped else self.skips
        return Presentation(shifts[-MOST_SHIFTS:], skips[-MOST_SHIFTS:], self.delay, self.known_at)

    def held(self, delay: float, now: float) -> "Presentation":
        """Sound is held for `delay` seconds `now`."""
        return Presentation(self.shifts, self.skips, delay, now)

    @property
    def _newest(self) -> float:
        return self.shifts[-1].seconds if self.shifts else 0.0


__all__ = ["Presentation"]
