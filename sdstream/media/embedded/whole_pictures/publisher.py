"""A publisher that sends whole pictures."""

import asyncio
from collections.abc import Callable

from sdstream.clock import Clock
from sdstream.errors import SessionNotFound
from sdstream.frames import I420Frame
from sdstream.logs import FoldedReporter
from sdstream.media.embedded.assembly import Picture
from sdstream.media.embedded.counters import StreamCounters
from sdstream.media.embedded.decoding import DecoderThread
from sdstream.media.embedded.sdp import VIDEO_CLOCK_RATE
from sdstream.media.embedded.whole_pictures.decoder import NAMES, WholePictureDecoder, format_of
from sdstream.media.embedded.whole_pictures.session import WholePictureSession
from sdstream.media.ports import SessionEnd, TrackStatistics

MOST_UNREADABLE = 5
"""Messages in a row that are no pictures, after which whoever sends them is sent away."""


class WholePicturePublisher(WholePictureSession):
    """Implements `media.ports.PicturePublisher`. `deliver` is called on the decoder's thread, `on_closed` on the loop
    when the session ends by itself."""

    def __init__(
        self,
        counters: StreamCounters,
        clock: Clock,
        faults: FoldedReporter,
        *,
        deliver: Callable[["WholePicturePublisher", I420Frame], None],
        on_closed: Callable[["WholePicturePublisher", str], None],
    ) -> None:
        super().__init__()
        self._counters = counters
        self._clock = clock
        self._deliver = deliver
        self._on_closed = on_closed
        self._decoded = asyncio.Event()
        self._received = 0
        self._format = ""
        self._unreadable = 0
        self._decoder = DecoderThread(
            "pictures",
            self._take,
            self._on_unreadable,
            self._on_decoder_failed,
            counters,
            clock,
            faults,
            WholePictureDecoder,
            self._decoded.set,
        )

    async def put(self, data: bytes) -> None:
        """Take a JPEG, PNG or WebP, one at a time; returns when it is decoded, or turned out to be no picture.

        Raises `SessionNotFound` once the session has ended.
        """
        self._refuse_when_ended()
        self._counters.bytes_received += len(data)
        self._received += 1
        self._format = NAMES.get(format_of(data) or "", self._format)
        self._decoded.clear()
        self._decoder.put(Picture(data, round(self._clock.monotonic() * VIDEO_CLOCK_RATE), keyframe=True))
        await self._decoded.wait()
        self._refuse_when_ended()

    def captured_at(self, timestamp: int) -> float:
        """The monotonic second at which the picture of that time stamp came. From any thread."""
        return timestamp / VIDEO_CLOCK_RATE

    def statistics(self) -> tuple[TrackStatistics, ...]:
        """One track, whose packets are pictures."""
        return (TrackStatistics("video", self._format, self._received, 0, 0.0),) if self._format else ()

    async def close(self, end: SessionEnd = SessionEnd.CLOSED) -> None:
        """End the session and its thread. Idempotent."""
        self.finish(end)
        await self._decoder.ended()

    def finish(self, end: SessionEnd) -> bool:
        finished = super().finish(end)
        self._decoder.stop()
        self._decoded.set()
        return finished

    def _take(self, frame: I420Frame) -> None:
        self._unreadable = 0
        self._deliver(self, frame)

    def _on_unreadable(self) -> None:
        self._unreadable += 1
        if self._unreadable >= MOST_UNREADABLE:
            self._end_by_itself(SessionEnd.UNREADABLE, f"it sent {MOST_UNREADABLE} messages that are no pictures")

    def _on_decoder_failed(self) -> None:
        self._end_by_itself(SessionEnd.FAILED, "its decoder failed")

    def _end_by_itself(self, end: SessionEnd, reason: str) -> None:
        if self.finish(end):
            self._on_closed(self, reason)

    def _refuse_when_ended(self) -> None:
        if self.end is not None:
            raise SessionNotFound("This session has ended.")


__all__ = ["MOST_UNREADABLE", "WholePicturePublisher"]
