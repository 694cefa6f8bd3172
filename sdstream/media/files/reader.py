"""Video files as the commands read them: I420 pictures in display order, upright, with the file's own clock."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy

from sdstream.errors import CommandFailed
from sdstream.frames import ColourMatrix, I420Frame, Plane
from sdstream.media.files.times import GoingOn

HIGH_DEFINITION_LINES = 720
"""From this height on an unmarked picture is BT.709, below it BT.601, as players assume."""

UNTRUSTED = {
    "format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,flv,ogg,asf,mxf,ivf,yuv4mpegpipe,gif",
    "protocol_whitelist": "file",
}
"""FFmpeg's options for files of strangers: playlists and scripts, which name other files and hosts, are not read."""

_JPEG_RANGE = 2
_MATRICES: dict[int, ColourMatrix] = {1: "bt709", 5: "bt601", 6: "bt601"}
"""FFmpeg's numbers of colour matrices."""


@dataclass(frozen=True, slots=True)
class VideoFacts:
    """What is known of a file before its first picture is decoded.

    `width` and `height` are those of the pictures as shown: turned upright and with square pixels. `frame_count` is
    exact where the container counts, else an estimate from duration and rate, or None.
    """

    width: int
    height: int
    rate: Fraction | None
    time_base: Fraction
    frame_count: int | None
    duration: float | None


class VideoReader:
    """One open video file. Not safe between threads; use as a context manager.

    Raises `CommandFailed` when the file cannot be opened or has no video.
    """

    def __init__(self, path: Path, *, name: str | None = None, trusted: bool = True) -> None:
        """`name` is what errors call the file. One that is not `trusted` may not lead FFmpeg to other files."""
        self.path = path
        self._name = name or str(path)
        self.undecodable = 0
        """Packets that the decoder refused; players skip them too."""
        self._options: dict[str, str] = {} if trusted else UNTRUSTED
        self._sequence = 0
        self._last_pts: int | None = None
        self._times = GoingOn()
        self._open()

    def __enter__(self) -> "VideoReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.container.close()

    def packets(self) -> Iterator[Any]:
        """Packets of all streams in file order; the last ones are empty and flush the decoders.

        Where the file's times turn back, as where two films of MPEG-TS were joined, they are made to go on.
        """
        try:
            for packet in self.container.demux():
                self._go_on(packet)
                yield packet
        except av.error.FFmpegError as error:
            raise CommandFailed(f"{self._name} is damaged after {self._sequence} pictures: {error}") from None

    def decode(self, packet: Any) -> list[I420Frame]:
        """The pictures that a packet of the video stream completes, in display order, in memory of their own."""
        return [self._picture(frame) for frame in self._decode(packet)]

    def pictures(self) -> Iterator[I420Frame]:
        """Every picture of the file."""
        for packet in self.packets():
            if packet.stream is self.stream:
                yield from self.decode(packet)

    def rewind(self) -> None:
        """Start again from the first picture; `sequence` goes on counting.

        `container` and `stream` may be others then. Raises as the opening does.
        """
        try:
            self.container.seek(0)
        except av.error.FFmpegError:  # raw H.264, for one, has no times to look for
            self.container.close()
            self._open()
        self._last_pts = None
        self._times = GoingOn()

    def facts(self) -> VideoFacts:
        """Decodes one picture to learn how it is turned, then starts again."""
        stream = self.stream
        context = stream.codec_context
        width, height = context.width, context.height
        aspect = stream.sample_aspect_ratio or context.sample_aspect_ratio
        if aspect and aspect != 1:
            width = round(width * float(aspect))
        frames = (frame for packet in self.packets() if packet.stream is stream for frame in self._decode(packet))
        first = next(frames, None)
        if first is None:
            raise CommandFailed(f"{self._name} has no picture that can be decoded")
        if first.rotation % 180:
            width, height = height, width
        self.rewind()
        self.undecodable = 0  # they come again
        rate: Fraction | None = stream.average_rate or stream.guessed_rate
        duration = _duration(stream, self.container)
        count = stream.frames or (round(duration * rate) if duration and rate else None)
        return VideoFacts(width, height, rate, stream.time_base, count, duration)

    def _open(self) -> None:
        try:
            self.container: Any = av.open(str(self.path), "r", options=self._options)
        except (av.error.FFmpegError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise CommandFailed(f"cannot open {self._name} as a video: {reason}") from None
        if not self.container.streams.video:
            self.container.close()
            raise CommandFailed(f"{self._name} has no video stream")
        self.stream: Any = self.container.streams.video[0]
        if self.stream.codec_context is None:
            self.container.close()
            raise CommandFailed(f"{self._name} has video in a form that is not known")
        self.stream.thread_type = "AUTO"

    def _go_on(self, packet: Any) -> None:
        if packet.dts is None or packet.stream.type not in ("video", "audio"):
            return
        base: Fraction = packet.time_base
        shown = packet.dts if packet.pts is None else packet.pts
        shift = self._times.shift(packet.stream.index, packet.dts * base, shown * base, (packet.duration or 0) * base)
        if shift:
            packet.dts += round(shift / base)
            packet.pts = shown + round(shift / base)

    def _decode(self, packet: Any) -> list[Any]:
        try:
            return packet.decode()
        except av.error.InvalidDataError:
            self.undecodable += 1
            return []
        except av.error.FFmpegError as error:
            raise CommandFailed(f"{self._name} cannot be decoded after {self._sequence} pictures: {error}") from None

    def _picture(self, frame: Any) -> I420Frame:
        pts: int | None = frame.pts
        time_base: Fraction = frame.time_base or self.stream.time_base
        if pts is None:  # raw streams have no clock of their own
            rate = self.stream.average_rate or self.stream.guessed_rate or Fraction(25)
            step = max(1, round(1 / (rate * time_base)))
            pts = 0 if self._last_pts is None else self._last_pts + step
        elif self._last_pts is not None:  # of a damaged file, and where pictures of two films lie over each other
            pts = max(pts, self._last_pts + 1)
        self._last_pts = pts
        picture = to_i420(frame, pts, time_base, self._sequence)
        self._sequence += 1
        return picture


def to_i420(frame: Any, pts: int, time_base: Fraction, sequence: int) -> I420Frame:
    """An upright picture from a decoded `av.VideoFrame`, in memory of its own; odd sides lose a row or a column,
    those of one pixel get a second."""
    width, height = max(2, frame.width & ~1), max(2, frame.height & ~1)
    full_range = frame.color_range == _JPEG_RANGE or frame.format.name.startswith("yuvj")
    unmarked: ColourMatrix = "bt709" if frame.height >= HIGH_DEFINITION_LINES else "bt601"
    matrix = _MATRICES.get(frame.colorspace, unmarked)
    turn = round(frame.rotation / 90) % 4
    if frame.format.name not in ("yuv420p", "yuvj420p") or (width, height) != (frame.width, frame.height):
        frame = frame.reformat(width=width, height=height, format="yuvj420p" if full_range else "yuv420p")
    y, u, v = (_plane(plane, turn) for plane in frame.planes)
    return I420Frame(
        y=y, u=u, v=v, pts=pts, time_base=time_base, sequence=sequence, full_range=full_range, matrix=matrix
    )


def from_i420(picture: I420Frame) -> Any:
    """An `av.VideoFrame` in memory of its own with the picture's planes, clock and colour meaning."""
    size = picture.size
    frame: Any = av.VideoFrame(size.width, size.height, "yuv420p")
    for plane, source in zip(frame.planes, picture.planes, strict=True):
        target = numpy.frombuffer(plane, numpy.uint8).reshape(-1, plane.line_size)
        target[: source.shape[0], : source.shape[1]] = source
    frame.pts = picture.pts
    frame.time_base = picture.time_base
    frame.color_range = _JPEG_RANGE if picture.full_range else 1
    frame.colorspace = 1 if picture.matrix == "bt709" else 6
    return frame


def _plane(plane: Any, turn: int) -> Plane:
    view = numpy.frombuffer(plane, numpy.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]
    return numpy.ascontiguousarray(numpy.rot90(view, turn)) if turn else view.copy()


def _duration(stream: Any, container: Any) -> float | None:
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else None


__all__ = ["VideoFacts", "VideoReader", "from_i420", "to_i420"]
