"""HLS playlists and the window of segments they name: pure text and bookkeeping, no thread and no network."""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sdstream.media.embedded.outputs.fragments import Fragment, Head

TARGET_SECONDS = 2
"""What the playlist promises as the longest segment; it must never change. Keyframes come each second, and where the
pictures stall within half a second of that."""
LISTED = 8
"""Segments in the playlist: Apple's rules ask for six at least."""
KEPT = 6
"""Segments served for a while after they have left the playlist, because a player may just be fetching them."""
MULTIVARIANT = "index.m3u8"
MEDIA = "stream.m3u8"


@dataclass(frozen=True, slots=True)
class Segment:
    """One listed fragment. `breaks` says that clocks or sizes changed before it."""

    number: int
    fragment: Fragment
    begins_at: datetime
    breaks: bool

    @property
    def name(self) -> str:
        return f"segment-{self.number}.m4s"


def head_name(head: Head) -> str:
    return f"head-{head.number}.mp4"


class SegmentWindow:
    """The newest segments, and what lets a player find them. Bounded: the oldest leaves when a new one comes."""

    def __init__(self, listed: int = LISTED, kept: int = KEPT) -> None:
        self._listed = listed
        self._segments: deque[Segment] = deque(maxlen=listed + kept)
        self._next = 0
        self._breaks_before = 0
        """Breaks in front of the listed segments, as EXT-X-DISCONTINUITY-SEQUENCE counts them."""

    def __len__(self) -> int:
        return len(self._segments)

    def append(self, fragment: Fragment, ended_at: datetime) -> None:
        """Add the newest fragment, whose last picture was encoded at `ended_at`."""
        last = self._segments[-1] if self._segments else None
        breaks = last is not None and last.fragment.head is not fragment.head
        before = self.listed()
        begins_at = ended_at - timedelta(seconds=fragment.seconds)
        self._segments.append(Segment(self._next, fragment, begins_at, breaks))
        self._next += 1
        first = self.listed()[0].number
        self._breaks_before += sum(segment.breaks for segment in before if segment.number < first)

    def listed(self) -> list[Segment]:
        """The segments of the playlist, oldest first."""
        return list(self._segments)[-self._listed :]

    def find(self, name: str) -> bytes | None:
        """The bytes of a segment or head by its name; None when it is not (or no longer) there."""
        for segment in self._segments:
            if name == segment.name:
                return segment.fragment.data
            if name == head_name(segment.fragment.head):
                return segment.fragment.head.data
        return None

    def media_playlist(self) -> str:
        """The playlist of segments."""
        segments = self.listed()
        lines = [
            "#EXTM3U",
            "#EXT-X-VERSION:7",
            f"#EXT-X-TARGETDURATION:{TARGET_SECONDS}",
            f"#EXT-X-MEDIA-SEQUENCE:{segments[0].number if segments else 0}",
            f"#EXT-X-DISCONTINUITY-SEQUENCE:{self._breaks_before}",
            "#EXT-X-INDEPENDENT-SEGMENTS",
        ]
        head: Head | None = None
        for segment in segments:
            if segment.breaks:
                lines.append("#EXT-X-DISCONTINUITY")
            if segment.fragment.head is not head:
                head = segment.fragment.head
                lines.append(f'#EXT-X-MAP:URI="{head_name(head)}"')
            moment = segment.begins_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            lines += [
                f"#EXT-X-PROGRAM-DATE-TIME:{moment}",
                f"#EXTINF:{segment.fragment.seconds:.5f},",
                segment.name,
            ]
        return "\n".join(lines) + "\n"

    def multivariant_playlist(self) -> str:
        """The playlist that players are given: what the one variant is. There must be a segment."""
        segments = self.listed()
        head = segments[-1].fragment.head
        fragments = _of_head(segments, head)
        rates = [8 * len(fragment.data) / max(fragment.seconds, 0.1) for fragment in fragments]
        frame_rate = max(fragment.pictures / fragment.seconds for fragment in fragments)
        return (
            "#EXTM3U\n"
            "#EXT-X-VERSION:7\n"
            "#EXT-X-INDEPENDENT-SEGMENTS\n"
            f"#EXT-X-STREAM-INF:BANDWIDTH={math.ceil(1.5 * max(rates))},"
            f"AVERAGE-BANDWIDTH={math.ceil(sum(rates) / len(rates))},"
            f'CODECS="{head.codecs}",RESOLUTION={head.size},FRAME-RATE={frame_rate:.3f}\n'
            f"{MEDIA}\n"
        )


def _of_head(segments: Iterable[Segment], head: Head) -> list[Fragment]:
    return [segment.fragment for segment in segments if segment.fragment.head is head]


__all__ = ["LISTED", "MEDIA", "MULTIVARIANT", "TARGET_SECONDS", "Segment", "SegmentWindow", "head_name"]
