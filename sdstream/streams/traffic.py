"""What flows through one stream: pictures in and out, how late they are, and which were dropped and why."""

import threading
from collections import Counter

from sdstream.clock import Clock
from sdstream.metrics import LatencyCounts
from sdstream.streams.meters import LatencyWindow, RateMeter
from sdstream.streams.pacing import decide_pace
from sdstream.streams.views import LatencySummary
from sdstream.worker.ports import ProcessedPicture

HOPS = ("receive", "wait", "worker", "encode", "total")
"""`receive` is the way from decoder to sender without `worker`: the hand-over both ways and the wait for the worker, of
which `wait` is the part inside it; `worker` is its own time for a picture; `encode` samples the encoder's moving mean;
`total` is all of it."""


class StreamTraffic:
    """The meters of one stream. `arrive` and `leave` are called on media and worker threads, once for each picture."""

    def __init__(self, clock: Clock, max_frame_rate: float) -> None:
        self._clock = clock
        self._interval = 1.0 / max_frame_rate
        self._lock = threading.Lock()
        self._due = 0.0
        self._encode_seconds = 0.0
        self._latencies = {hop: LatencyWindow() for hop in HOPS}
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
            self._latencies["wait"].add(now, max(picture.queue_seconds, 0.0))
            self._latencies["worker"].add(now, picture.worker_seconds)
            self._latencies["receive"].add(now, max(age - picture.worker_seconds, 0.0))
            self._latencies["total"].add(now, age + self._encode_seconds)

    def note_encoder(self, seconds: float) -> None:
        """Take the encoder's present mean time for a picture; 0 while it has encoded none."""
        if seconds > 0.0:
            with self._lock:
                self._encode_seconds = seconds
                self._latencies["encode"].add(self._clock.monotonic(), seconds)

    def restart_input(self) -> None:
        """A new publisher came: its rate is judged by its own pictures."""
        with self._lock:
            self.input.restart()

    def rates(self, now: float) -> tuple[float, float]:
        """Pictures a second in and out."""
        with self._lock:
            return self.input.rate(now), self.output.rate(now)

    def latencies(self, now: float) -> dict[str, LatencySummary]:
        """Summaries of the hops that have values."""
        with self._lock:
            summaries = {hop: window.summary(now) for hop, window in self._latencies.items()}
        return {hop: summary for hop, summary in summaries.items() if summary is not None}

    def latency_counts(self) -> dict[str, LatencyCounts]:
        with self._lock:
            return {hop: window.counts() for hop, window in self._latencies.items()}

    def replaced(self) -> Counter[str]:
        """Pictures that were shown another one for: `similar` to the last one, or `unsafe`."""
        with self._lock:
            return Counter(self._replaced)

    def drops(self) -> Counter[str]:
        """Drops by reason since the beginning."""
        with self._lock:
            return Counter(self._drops)


__all__ = ["HOPS", "StreamTraffic"]
