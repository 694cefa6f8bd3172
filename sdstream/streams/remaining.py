"""How long a load that counts percents will still take: from how fast it went lately, and in words for a person."""

import math
from collections import deque

LOOK_BACK_SECONDS = 60.0
"""A network that has become slow is believed after a minute at most."""
LEAST_SECONDS = 3.0
"""What was seen for less long says too little."""
MOST_POINTS = 256
HOUR, DAY = 3600.0, 86400.0
MOST_SECONDS = 7 * DAY


class TimeLeft:
    """Is told percents as they come. It begins anew where they fall, as with the next thing that is fetched."""

    def __init__(self) -> None:
        self._points: deque[tuple[float, float]] = deque(maxlen=MOST_POINTS)

    def note(self, percent: float | None, now: float) -> None:
        """`percent`, 0 to 100, is done at `now` (monotonic seconds); None where nothing is counted."""
        if percent is None or (self._points and percent < self._points[-1][1]):
            self._points.clear()
        if percent is None:
            return
        self._points.append((now, percent))
        while now - self._points[0][0] > LOOK_BACK_SECONDS:
            self._points.popleft()

    def at(self, now: float) -> float | None:
        """Seconds that are left at `now`, None while nobody can tell. They grow while nothing comes."""
        if not self._points:
            return None
        (began, first), (_, last) = self._points[0], self._points[-1]
        if last == first or now - began < LEAST_SECONDS:
            return None
        return min(MOST_SECONDS, (100.0 - last) * (now - began) / (last - first))


def words_left(seconds: float) -> str:
    """As coarse as such a guess is, and so that the words on a picture change now and then only."""
    if seconds < 10:
        return "a few seconds left"
    if seconds <= 60:
        return f"about {10 * math.ceil(seconds / 10)} s left"
    if seconds <= HOUR:
        return f"about {math.ceil(seconds / 60)} min left"
    return f"about {math.ceil(seconds / HOUR)} h left" if seconds <= DAY else "more than a day left"


__all__ = ["TimeLeft", "words_left"]
