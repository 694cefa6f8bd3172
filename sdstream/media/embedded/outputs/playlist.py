"""HLS playlists and the window of segments they name: pure text and bookkeeping, no thread and no network."""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sdstream.media.embedded.outputs.fragments import Fragment, Head

TARGET_SECONDS = 2
"""What the playlist promises as the longest segment; it must never change. Keyframes come each second, and where the
pictures stall within half a second of that."""
LISTED = 8
"""Segments in the playlist: Apple's rules ask for six at least."""
KEPT = 6
"""Segments served for a while after they have left the playlist, because a player may just be fetching them."""
NUMBERS_SINCE = datetime(2026, 1, 1, tzinfo=UTC)
"""Late, so that numbers stay below 2**31, which some players take for their end."""
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


def first_number(now: datetime) -> int:
    """The number that the first segment of a window has which begins `now`.

    No window of the stream, be it of an earlier run of the server, has come so far: keyframes are made twice a second
    at most. A name that came again with other bytes would be answered from caches, to which names are promised to be
    immutable, and players wait for numbers that turned back to come up again.
    """
    return max(0, int(2 * (now - NUMBERS_SINCE).total_seconds()))


class SegmentWindow:
    """The newest segments, and what lets a player find them. Bounded: the oldest leaves when a new one comes.

    Segments are numbered from `first` on. `breaks` are those in front of it, which may not turn back either; they are
    counted and not taken from the clock, because hls.js shows nothing for eight seconds when they are many millions.
    """

    def __init__(self, first: int = 0, breaks: int = 0, listed: int = LISTED, kept: int = KEPT) -> None:
        self._first = first
        self._listed = listed
        self._segments: deque[Segment] = deque(maxlen=listed + kept)
        self._next = first
        self._breaks_before = breaks
        """Breaks in front of the listed segments, as EXT-X-DISCONTINUITY-SEQUENCE counts them."""

    def __len__(self) -> int:
        return len(self._segments)

    @property
    def breaks(self) -> int:
        """All breaks up to now."""
        return self._breaks_before + sum(segment.breaks for segment in self.listed())

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
            if name == self.head_name(segment.fragment.head):
                return segment.fragment.head.data
        return None

    def head_name(self, head: Head) -> str:
        """What the playlist calls it."""
        return f"head-{self._first}-{head.number}.mp4"

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
                lines.append(f'#EXT-X-MAP:URI="{self.head_name(head)}"')
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


__all__ = ["LISTED", "MEDIA", "MULTIVARIANT", "TARGET_SECONDS", "Segment", "SegmentWindow", "first_number"]
