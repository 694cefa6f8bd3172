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
    sound_packets: int = 0
    sound_gaps: int = 0
    sound_corrections: int = 0
    sound_drops: Mapping[str, int] = field(default_factory=dict[str, int])
    drops: Mapping[str, int] = field(default_factory=dict[str, int])
    replaced: Mapping[str, int] = field(default_factory=dict[str, int])
    latencies: Mapping[str, LatencyCounts] = field(default_factory=dict[str, LatencyCounts])
    loads: Mapping[str, int] = field(default_factory=dict[str, int])
    load_seconds: Mapping[str, float] = field(default_factory=dict[str, float])

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
            sound_packets=media.sound.packets,
            sound_gaps=media.sound.gaps,
            sound_corrections=media.sound.corrections,
            sound_drops=media.sound.dropped,
            drops=live.total_drops(),
            replaced=live.traffic.replaced(),
            latencies=live.traffic.latency_counts(),
            loads=Counter(live.loading.ended),
            load_seconds=dict(live.loading.seconds),
        )

    def __add__(self, other: Totals) -> Totals:
        latencies = dict(self.latencies)
        for hop, counts in other.latencies.items():
            latencies[hop] = latencies[hop] + counts if hop in latencies else counts
        seconds = {
            outcome: self.load_seconds.get(outcome, 0.0) + other.load_seconds.get(outcome, 0.0)
            for outcome in {**self.load_seconds, **other.load_seconds}
        }
        return Totals(
            self.frames_in + other.frames_in,
            self.frames_out + other.frames_out,
            self.frames_encoded + other.frames_encoded,
            self.keyframes + other.keyframes,
            self.decode_errors + other.decode_errors,
            self.bytes_received + other.bytes_received,
            self.bytes_sent + other.bytes_sent,
            self.sound_packets + other.sound_packets,
            self.sound_gaps + other.sound_gaps,
            self.sound_corrections + other.sound_corrections,
            Counter(self.sound_drops) + Counter(other.sound_drops),
            Counter(self.drops) + Counter(other.drops),
            Counter(self.replaced) + Counter(other.replaced),
            latencies,
            Counter(self.loads) + Counter(other.loads),
            seconds,
        )


__all__ = ["Totals"]
