"""What a stream's media is under every back end: the way out to encoders and other outputs, and whole pictures."""

import asyncio
import functools
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any, Protocol

import structlog

from sdstream.clock import Clock
from sdstream.errors import CapacityReached, ShuttingDown
from sdstream.frames import I420Frame, PictureSize
from sdstream.logs import FoldedReporter
from sdstream.media.embedded.counters import StreamCounters
from sdstream.media.embedded.distribution import Distribution, EncodingOptions
from sdstream.media.embedded.outputs.manager import OutputEvents, OutputOptions, OutputSet
from sdstream.media.embedded.pictures import OwnedPicture
from sdstream.media.embedded.whole_pictures.publisher import WholePicturePublisher
from sdstream.media.embedded.whole_pictures.viewers import WholePictureViewers
from sdstream.media.placard import draw_placard
from sdstream.media.ports import (
    HlsFile,
    MediaListener,
    MediaStatistics,
    PictureViewer,
    Placard,
    PublisherState,
    TrackStatistics,
)

COARSER = (
    "The viewers' networks carry less than the video bitrate, so pictures are made coarser until they carry more; "
    "SDSTREAM_VIDEO_BITRATE_FOLLOWS=false has them sent as they are."
)
FAULT_SECONDS = 10.0
"""The same fault of a stream's encoders and decoders is logged once in this time."""
MOST_LATENCY = 10.0
"""Seconds before its decoding that a picture can have been captured; one that seems older is of another publisher."""
LEAST_TRUSTED = 0.1
"""Seconds after its decoding that a picture may seem to be captured: the clocks of two tracks agree no better."""

log = structlog.get_logger(__name__)


class OutgoingOptions(EncodingOptions, Protocol):
    """The part of a stream's options that its way out needs."""

    @property
    def max_viewers(self) -> int: ...

    @property
    def outputs(self) -> OutputOptions: ...


class OutgoingMedia:
    """The half of `media.ports.MediaStream` that is the same under every back end."""

    def __init__(
        self, stream_id: str, size: PictureSize, options: OutgoingOptions, listener: MediaListener, clock: Clock
    ) -> None:
        self._size = size
        self._max_viewers = options.max_viewers
        self._listener = listener
        self._clock = clock
        self._log = log.bind(stream_id=stream_id)
        self._faults = FoldedReporter(self._log, clock, FAULT_SECONDS)
        self._counters = StreamCounters(hop=listener.on_hop)
        self._closed = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._placard: tuple[Placard, PictureSize] | None = None
        self._distribution = Distribution(options, self._counters, clock, self._faults)
        self._picture_viewers = WholePictureViewers(
            lambda: self._distribution.latest, self._counters, clock, self._faults, self._count_viewers
        )
        self._outputs = OutputSet(
            self._distribution,
            options.outputs,
            OutputEvents(listener.on_output, listener.on_recording),
            clock,
            self._faults,
        )

    def _captured_at(self, frame: I420Frame) -> float | None:
        """The monotonic second at which the picture was captured, as far as that is known. From any thread."""
        raise NotImplementedError

    def has_place(self) -> bool:
        """Whether one more viewer may come."""
        raise NotImplementedError

    def _count_viewers(self) -> None:
        """The number of viewers may have changed."""
        raise NotImplementedError

    @property
    def closed(self) -> bool:
        return self._closed

    def _picture_publisher(
        self,
        deliver: Callable[[WholePicturePublisher, I420Frame], None],
        on_closed: Callable[[WholePicturePublisher, str], None],
    ) -> WholePicturePublisher:
        self._refuse_when_closed()
        return WholePicturePublisher(self._counters, self._clock, self._faults, deliver=deliver, on_closed=on_closed)

    async def watch_pictures(self) -> PictureViewer:
        self._refuse_viewer()
        return self._picture_viewers.open()

    def send(self, frame: I420Frame) -> None:
        picture = OwnedPicture.copy_of(frame, self._captured_at(frame))
        self._placard = None
        self._distribution.send(lambda: picture)
        self._picture_viewers.show()

    def send_placard(self, placard: Placard) -> None:
        wanted = (placard, self._size)
        if wanted == self._placard:
            return
        self._placard = wanted
        self._distribution.send(functools.partial(_placard_picture, placard, self._size))
        self._picture_viewers.show()

    def resize(self, size: PictureSize) -> None:
        if size == self._size:
            return
        self._size = size
        if self._placard is not None:
            self.send_placard(self._placard[0])
        self._distribution.request_keyframes()

    def push_to(self, urls: Sequence[str]) -> None:
        self._outputs.push_to(urls)

    def record_to(self, file: Path | None) -> None:
        self._outputs.record_to(file)

    async def hls_file(self, name: str) -> HlsFile | None:
        return await self._outputs.hls_file(name)

    def latest_picture(self) -> I420Frame | None:
        latest = self._distribution.latest
        return None if latest is None else latest().as_i420()

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise ShuttingDown("this stream is being closed")

    def _refuse_viewer(self) -> None:
        """Raises `CapacityReached` when one more viewer may not come, and `ShuttingDown`."""
        self._refuse_when_closed()
        if not self.has_place():
            raise CapacityReached(f"this stream has {self._max_viewers} viewers, the most it may have")

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        """Have `work` done soon; `_close_outgoing` waits for it."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _close_outgoing(self) -> None:
        await self._outputs.close()
        await self._distribution.close()
        while self._tasks:
            tasks = tuple(self._tasks)
            await asyncio.gather(*tasks, return_exceptions=True)
            # Their callbacks may not have run: from Python 3.12 on `gather` does not pause for tasks that are done, and
            # this would go round for ever.
            self._tasks.difference_update(tasks)

    def _statistics(
        self, publisher: PublisherState, viewers: int, tracks: tuple[TrackStatistics, ...] = (), problem: str = ""
    ) -> MediaStatistics:
        counters = self._counters
        return MediaStatistics(
            publisher=publisher,
            viewers=viewers,
            frames_decoded=counters.frames_decoded,
            decode_errors=counters.decode_errors,
            frames_encoded=counters.frames_encoded,
            keyframes=counters.keyframes,
            bytes_received=counters.bytes_received,
            bytes_sent=counters.bytes_sent,
            input_size=counters.input_size,
            output_size=counters.output_size,
            drops=counters.drops,
            warnings=(*counters.warnings, *((COARSER,) if self._distribution.is_limited else ())),
            publisher_problem=problem,
            tracks=tracks,
            encode_seconds=counters.encode_seconds,
            video_bitrate=self._distribution.bitrate,
            sound=self._distribution.sound_statistics(),
            outputs=self._outputs.statistics(),
            hls_active=self._outputs.hls_active,
            recording=self._outputs.recording(),
        )


def trusted_capture(captured_at: float | None, frame: I420Frame) -> float | None:
    """When the picture was captured: `captured_at`, unless that is another publisher's clock or not known, which leaves
    the moment of its decoding."""
    if captured_at is None or not -MOST_LATENCY < captured_at - frame.received_at <= LEAST_TRUSTED:
        return frame.received_at or None
    return captured_at


def unconnected(who: str, reason: str, told: Sequence[str]) -> str:
    """What is said of somebody who was answered and never connected; `told` are our addresses in the answer."""
    where = f" Of this server's own addresses it was told {', '.join(told)}." if told else ""
    return f"{who} was answered but did not connect: {reason}.{where} `sdstream doctor` looks at the ways in."


def _placard_picture(placard: Placard, size: PictureSize) -> OwnedPicture:
    picture = OwnedPicture.copy_of(draw_placard(placard, size))
    return OwnedPicture(picture.frame, picture.size)


__all__ = ["OutgoingMedia", "OutgoingOptions", "trusted_capture", "unconnected"]
