"""The way out of a stream, the same under every back end: pictures and placards to the encoders, and other outputs."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from sdstream.clock import Clock
from sdstream.frames import I420Frame, PictureSize
from sdstream.logs import FoldedReporter
from sdstream.media.embedded.counters import StreamCounters
from sdstream.media.embedded.distribution import Distribution, EncodingOptions
from sdstream.media.embedded.outputs.manager import OutputEvents, OutputOptions, OutputSet
from sdstream.media.embedded.pictures import OwnedPicture
from sdstream.media.placard import draw_placard
from sdstream.media.ports import (
    HlsFile,
    MediaListener,
    MediaStatistics,
    Placard,
    PublisherState,
    TrackStatistics,
)

COARSER = (
    "The viewers' networks carry less than the video bitrate, so pictures are made coarser until they carry more; "
    "SDSTREAM_VIDEO_BITRATE_FOLLOWS=false has them sent as they are."
)


class OutgoingOptions(EncodingOptions, Protocol):
    """The part of a stream's options that its way out needs."""

    @property
    def outputs(self) -> OutputOptions: ...


class OutgoingMedia:
    """The half of `media.ports.MediaStream` that is not about sessions."""

    def __init__(
        self,
        size: PictureSize,
        options: OutgoingOptions,
        listener: MediaListener,
        counters: StreamCounters,
        clock: Clock,
        faults: FoldedReporter,
    ) -> None:
        self._size = size
        self._counters = counters
        self._placard: tuple[Placard, PictureSize] | None = None
        self._distribution = Distribution(options, counters, clock, faults)
        self._outputs = OutputSet(
            self._distribution,
            options.outputs,
            OutputEvents(listener.on_output, listener.on_recording),
            clock,
            faults,
        )

    def _captured_at(self, frame: I420Frame) -> float | None:
        """The monotonic second at which the picture was captured, as far as that is known. From any thread."""
        raise NotImplementedError

    def send(self, frame: I420Frame) -> None:
        picture = OwnedPicture.copy_of(frame, self._captured_at(frame))
        self._placard = None
        self._distribution.send(lambda: picture)

    def send_placard(self, placard: Placard) -> None:
        wanted = (placard, self._size)
        if wanted == self._placard:
            return
        self._placard = wanted
        self._distribution.send(functools.partial(_placard_picture, placard, self._size))

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


def unconnected(who: str, reason: str, told: Sequence[str]) -> str:
    """What is said of somebody who was answered and never connected; `told` are our addresses in the answer."""
    where = f" Of this server's own addresses it was told {', '.join(told)}." if told else ""
    return f"{who} was answered but did not connect: {reason}.{where} `sdstream doctor` looks at the ways in."


def _placard_picture(placard: Placard, size: PictureSize) -> OwnedPicture:
    picture = OwnedPicture.copy_of(draw_placard(placard, size))
    return OwnedPicture(picture.frame, picture.size)


__all__ = ["OutgoingMedia", "OutgoingOptions", "unconnected"]
