"""Counts of one stream, kept over publishers and viewers that come and go."""

from collections import Counter
from dataclasses import dataclass, field

from sdstream.frames import PictureSize

DROP_REASONS = (
    "encoder_busy",
    "viewer_slow",
    "decoder_busy",
    "waiting_for_keyframe",
    "damaged",
)


@dataclass(slots=True)
class StreamCounters:
    """Each number is written by one thread at a time and read by any."""

    frames_decoded: int = 0
    decode_errors: int = 0
    frames_encoded: int = 0
    keyframes: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0
    sequence: int = 0
    input_size: PictureSize | None = None
    output_size: PictureSize | None = None
    encode_seconds: float = 0.0
    drops: Counter[str] = field(default_factory=Counter[str])
    warnings: dict[str, None] = field(default_factory=dict[str, None])
    """An ordered set."""

    def warn(self, text: str) -> None:
        """Remember a fact that a user should act on, once."""
        self.warnings[text] = None


__all__ = ["DROP_REASONS", "StreamCounters"]
