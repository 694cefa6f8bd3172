"""What flows through one stream: pictures in and out, how late they are, and which were dropped and why."""

import threading
from collections import Counter
from collections.abc import Iterable

from sdstream.clock import Clock
from sdstream.metrics import LatencyCounts
from sdstream.streams.meters import LatencyWindow, RateMeter
from sdstream.streams.pacing import decide_pace
from sdstream.streams.views import LatencySummary
from sdstream.worker.ports import ProcessedPicture

MOST_PENDING = 256
"""Durations that are kept back before they are counted: many together cost a fraction of what each costs alone."""
HOPS = ("receive", "queue", "wait", "worker", "encode", "send", "total")
"""`receive` is from a picture's last packet to its planes; `worker` the worker's own time for it; `queue` the rest of
the way from decoder to encoder: the hand-over both ways and the wait for the worker, of which `wait` is the part inside
it; `encode` the encoder's time; `send` from there to all viewers' sockets; `total` from the decoder on, with what
encoding and sending took last."""


class StreamTraffic:
    """The meters of one stream. `arrive` and `leave` are called on media and worker threads, once for each picture."""

    def __init__(self, clock: Clock, max_frame_rate: float) -> None:
        self._clock = clock
        self._interval = 1.0 / max_frame_rate
        self._lock = threading.Lock()
        self._due = 0.0
        self._leaving_seconds = {"encode": 0.0, "send": 0.0}
        self._latencies = {hop: LatencyWindow() for hop in HOPS}
        self._pending: list[tuple[str, float, float]] = []
        """Hop, moment and seconds of what is not counted yet."""
        self._drops: Counter[str] = Counter()
        self._replaced: Counter[str] = Counter()
        self.input = RateMeter()
        self.output = RateMeter()

    def arrive(self) -> bool:
        """Count a picture from the publisher; False when it comes too fast and must be dropped."""
        now = self._clock.monotonic()
        with self._lock:
            self.input.add(now)
            pace = decide_pace(self._due, now, self._interval)
            self._due = pace.due
            if not pace.admitted:
                self._drops["over_frame_rate"] += 1
            return pace.admitted

    def drop(self, reason: str) -> None:
        """Count a picture that goes no further."""
        with self._lock:
            self._drops[reason] += 1

    def leave(self, picture: ProcessedPicture) -> None:
        """Count a processed picture on its way to the encoder."""
        now = self._clock.monotonic()
        age = max(now - picture.frame.received_at, 0.0)
        with self._lock:
            if picture.skipped:
                self._replaced["similar"] += 1
            if picture.blocked:
                self._replaced["unsafe"] += picture.blocked
            self.output.add(now)
            worker, leaving = picture.worker_seconds, self._leaving_seconds
            self._pending += (
                ("wait", now, max(picture.queue_seconds, 0.0)),
                ("worker", now, worker),
                ("queue", now, max(age - worker, 0.0)),
                ("total", now, age + leaving["encode"] + leaving["send"]),
            )
            if len(self._pending) >= MOST_PENDING:
                self._count_pending()

    def note(self, hop: str, seconds: float) -> None:
        """A picture took `seconds` in a hop of the media plane."""
        now = self._clock.monotonic()
        with self._lock:
            self._pending.append((hop, now, seconds))
            if hop in self._leaving_seconds:
                self._leaving_seconds[hop] = seconds
            if len(self._pending) >= MOST_PENDING:
                self._count_pending()

    def restart_input(self) -> None:
        """A new publisher came: its rate is judged by its own pictures."""
        with self._lock:
            self.input.restart()

    def rates(self, now: float) -> tuple[float, float]:
        """Pictures a second in and out."""
        with self._lock:
            return self.input.rate(now), self.output.rate(now)

    def latencies(self, now: float, hops: Iterable[str] = HOPS) -> dict[str, LatencySummary]:
        """Summaries of those of the `hops` that have values."""
        with self._lock:
            self._count_pending()
            summaries = {hop: self._latencies[hop].summary(now) for hop in hops}
        return {hop: summary for hop, summary in summaries.items() if summary is not None}

    def latency_counts(self) -> dict[str, LatencyCounts]:
        with self._lock:
            self._count_pending()
            return {hop: window.counts() for hop, window in self._latencies.items()}

    def _count_pending(self) -> None:
        """With the lock held."""
        for hop, now, seconds in self._pending:
            self._latencies[hop].add(now, seconds)
        self._pending.clear()

    def replaced(self) -> Counter[str]:
        """Pictures that were shown another one for: `similar` to the last one, or `unsafe`."""
        with self._lock:
            return Counter(self._replaced)

    def drops(self) -> Counter[str]:
        """Drops by reason since the beginning."""
        with self._lock:
            return Counter(self._drops)


__all__ = ["HOPS", "StreamTraffic"]
