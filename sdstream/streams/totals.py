"""Counters that never fall: what live streams have counted, added up over those that ended."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from sdstream.metrics import LatencyCounts

if TYPE_CHECKING:
    from sdstream.streams.live import LiveStream


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over live streams."""

    frames_in: int = 0
    frames_out: int = 0
    frames_encoded: int = 0
    keyframes: int = 0
    decode_errors: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    drops: Mapping[str, int] = field(default_factory=dict[str, int])
    replaced: Mapping[str, int] = field(default_factory=dict[str, int])
    latencies: Mapping[str, LatencyCounts] = field(default_factory=dict[str, LatencyCounts])

    @classmethod
    def of(cls, live: LiveStream) -> Totals:
        """The counters of one live stream, now."""
        media = live.statistics()
        return cls(
            frames_in=live.traffic.input.total,
            frames_out=live.traffic.output.total,
            frames_encoded=media.frames_encoded,
            keyframes=media.keyframes,
            decode_errors=media.decode_errors,
            bytes_received=media.bytes_received,
            bytes_sent=media.bytes_sent,
            drops=live.total_drops(),
            replaced=live.traffic.replaced(),
            latencies=live.traffic.latency_counts(),
        )

    def __add__(self, other: Totals) -> Totals:
        latencies = dict(self.latencies)
        for hop, counts in other.latencies.items():
            latencies[hop] = latencies[hop] + counts if hop in latencies else counts
        return Totals(
            self.frames_in + other.frames_in,
            self.frames_out + other.frames_out,
            self.frames_encoded + other.frames_encoded,
            self.keyframes + other.keyframes,
            self.decode_errors + other.decode_errors,
            self.bytes_received + other.bytes_received,
            self.bytes_sent + other.bytes_sent,
            Counter(self.drops) + Counter(other.drops),
            Counter(self.replaced) + Counter(other.replaced),
            latencies,
        )


__all__ = ["Totals"]
