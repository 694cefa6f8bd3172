"""Token buckets: how often one key may create and one stream may be updated."""

import math
from collections import OrderedDict
from dataclasses import dataclass

from sdstream.clock import Clock
from sdstream.errors import RateLimited

MOST_BUCKETS = 10_000
"""Beyond this the least recently used bucket is forgotten, which can only make the limit milder."""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at: float


class RateLimit:
    """`rate` calls a second for each subject, with bursts of `burst` calls."""

    def __init__(self, rate: float, burst: float, clock: Clock, what: str) -> None:
        self.rate = rate
        self.burst = max(1.0, burst)
        self._clock = clock
        self._what = what
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, subject: str) -> None:
        """Spend one token of `subject`; raises `RateLimited` with the seconds to wait when there is none."""
        now = self._clock.monotonic()
        bucket = self._buckets.get(subject)
        if bucket is None:
            bucket = self._buckets[subject] = _Bucket(self.burst, now)
            if len(self._buckets) > MOST_BUCKETS:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(subject)
            bucket.tokens = min(self.burst, bucket.tokens + (now - bucket.filled_at) * self.rate)
            bucket.filled_at = now
        if bucket.tokens < 1.0:
            wait = (1.0 - bucket.tokens) / self.rate
            raise RateLimited(
                f"too many {self._what}: at most {self.rate:g} a second, in bursts of {self.burst:g}",
                retry_after=max(1, math.ceil(wait)),
            )
        bucket.tokens -= 1.0


__all__ = ["MOST_BUCKETS", "RateLimit"]
