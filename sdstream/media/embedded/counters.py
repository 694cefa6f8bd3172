"""Counts of one stream, kept over publishers and viewers that come and go."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from sdstream.frames import PictureSize
from sdstream.media.ports import MediaHop

DropReason = Literal[
    "encoder_busy",
    "encoder_failed",
    "viewer_slow",
    "decoder_busy",
    "waiting_for_keyframe",
    "damaged",
    "out_of_order",
    "too_large",
]
DROP_REASONS: tuple[DropReason, ...] = get_args(DropReason)

MOST_WARNINGS = 20
"""Facts that are remembered; the oldest leaves. Some have words of a client in them."""


def _no_drops() -> dict[DropReason, int]:
    return dict.fromkeys(DROP_REASONS, 0)


@dataclass(slots=True)
class StreamCounters:
    """Read by any thread. What several threads count has a method; each other number is written by one at a time."""

    frames_decoded: int = 0
    frames_encoded: int = 0
    keyframes: int = 0
    bytes_received: int = 0
    sequence: int = 0
    input_size: PictureSize | None = None
    output_size: PictureSize | None = None
    encode_seconds: float = 0.0
    hop: Callable[[MediaHop, float], None] = lambda hop, seconds: None
    """Told how long a picture took in each hop of the media plane; called on several threads."""
    warnings: dict[str, None] = field(default_factory=dict[str, None])
    """An ordered set, for `warn` and `forget_warnings` to change."""
    _bytes_sent: int = 0
    _decode_errors: int = 0
    _drops: dict[DropReason, int] = field(default_factory=_no_drops)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def bytes_sent(self) -> int:
        return self._bytes_sent

    @property
    def decode_errors(self) -> int:
        return self._decode_errors

    @property
    def drops(self) -> Mapping[str, int]:
        """Dropped pictures by reason, those that there were; a copy."""
        with self._lock:
            return {reason: count for reason, count in self._drops.items() if count}

    def drop(self, reason: DropReason, count: int = 1) -> None:
        """Count dropped pictures. Safe between threads."""
        with self._lock:
            self._drops[reason] += count

    def sent(self, count: int) -> None:
        """Count bytes sent to viewers. Safe between threads."""
        with self._lock:
            self._bytes_sent += count

    def decode_error(self) -> None:
        """Count a packet or picture that could not be read. Safe between threads."""
        with self._lock:
            self._decode_errors += 1

    def encoded(self, size: PictureSize, seconds: float, *, keyframe: bool) -> None:
        """Count a picture that an encoder made in `seconds`. Safe between threads: each codec has its encoder."""
        with self._lock:
            self.frames_encoded += 1
            self.keyframes += keyframe
            self.output_size = size
            self.encode_seconds += (seconds - self.encode_seconds) * (_MEAN_WEIGHT if self.encode_seconds else 1)

    def warn(self, text: str) -> None:
        """Remember a fact that a user should act on, once. Safe between threads."""
        with self._lock:
            self.warnings[text] = None
            if len(self.warnings) > MOST_WARNINGS:
                del self.warnings[next(iter(self.warnings))]

    def forget_warnings(self) -> None:
        """Another publisher came, of whom they do not speak."""
        with self._lock:
            self.warnings.clear()


_MEAN_WEIGHT = 0.05

__all__ = ["DROP_REASONS", "MOST_WARNINGS", "DropReason", "StreamCounters"]
