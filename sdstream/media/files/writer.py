"""The writing half of `sdstream render`: H.264 pictures and the source's own sound into a file that appears whole."""

import contextlib
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error

from sdstream.errors import CommandFailed
from sdstream.file_errors import NO_ROOM, DiskFull
from sdstream.frames import I420Frame, PictureSize
from sdstream.media.files.reader import VideoReader, from_i420
from sdstream.media.files.sound import SoundTrack

LONGEST_NAME = 255
"""Bytes of a file's name on the common file systems."""


class VideoWriter:
    """A video file under a temporary name beside the wanted one; `finish` renames it, anything else removes it.

    Methods raise `CommandFailed` for what the format or the disk does not take, `DiskFull` where that is full. Pictures
    keep their pts. Sound is copied packet by packet where the container takes its codec, else encoded anew.
    """

    def __init__(self, target: Path, source: VideoReader, size: PictureSize, quality: int) -> None:
        self.target = target
        self.notes: list[str] = []
        """What was done differently than a plain copy, for the user."""
        self._source = source
        self._quality = quality
        self._temporary = target.with_name(_temporary_name(target))
        self._started = False
        self._sound: dict[int, SoundTrack] = {}
        self._early: list[Any] = []
        """Sound packets from before the first processed picture, when the file has no header yet."""
        try:
            # libav opens it with the first packet only, when a model has been loaded for it.
            self._temporary.open("wb").close()
            self._container: Any = av.open(str(self._temporary), "w")
            self._video = self._add_video(size)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            with contextlib.suppress(OSError):
                self._temporary.unlink(missing_ok=True)
            hint = "The ending picks the format: .mp4, .mkv, .webm, .mov."
            raise _write_failure(target, error, hint) from None

    def add_sound(self) -> None:
        """Take over every sound track of the source."""
        for stream in self._source.container.streams:
            if stream.type == "audio" and stream.codec_context is None:
                self.notes.append("sound in a form that is not known was left out")
            elif stream.type == "audio":
                self._sound[stream.index] = SoundTrack.open(self._container, stream, self.notes)
            elif stream.type not in ("video",):
                self.notes.append(f"a {stream.type} stream was left out")

    def write_picture(self, picture: I420Frame) -> None:
        """Encode the next picture, in order; its pts must grow."""
        frame = from_i420(picture)
        if not self._started:
            self._start(frame)
        try:
            packets = self._video.encode(frame)
        except av.error.FFmpegError as error:
            raise _write_failure(self.target, error) from None
        self._mux(packets)

    def write_sound(self, packet: Any) -> None:
        """Take a sound packet of the source."""
        track = self._sound.get(packet.stream.index)
        if track is None:
            return
        if not self._started:
            self._early.append(packet)
            return
        try:
            packets = track.convert(packet)
        except av.error.FFmpegError as error:
            raise _write_failure(self.target, error) from None
        self._mux(packets)

    def finish(self) -> None:
        """Flush the encoders, close the file and give it its name."""
        try:
            self._mux(self._video.encode(None))
            for track in self._sound.values():
                self._mux(track.flush())
            self._container.close()
            os.replace(self._temporary, self.target)
        except (av.error.FFmpegError, OSError) as error:
            raise _write_failure(self.target, error) from None

    def abandon(self) -> None:
        """Remove the unfinished file."""
        with contextlib.suppress(av.error.FFmpegError, OSError, ValueError):  # a full disk fails again here
            self._container.close()
        self._temporary.unlink(missing_ok=True)

    def _add_video(self, size: PictureSize) -> Any:
        codec = "libvpx-vp9" if self.target.suffix.lower() == ".webm" else "libx264"
        source = self._source.stream
        stream: Any = self._container.add_stream(codec, rate=source.average_rate or Fraction(25))
        stream.width, stream.height = size.width, size.height
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = source.time_base
        if codec == "libx264":
            stream.codec_context.options = {"preset": "medium", "crf": str(self._quality)}
        else:
            stream.codec_context.options = {"crf": str(self._quality), "row-mt": "1", "cpu-used": "4"}
            stream.codec_context.bit_rate = 0
        return stream

    def _start(self, frame: Any) -> None:
        """The first picture settles the colours; from here on sound can be written."""
        self._video.codec_context.color_range = frame.color_range
        self._video.codec_context.colorspace = frame.colorspace
        self._started = True
        early, self._early = self._early, []
        for packet in early:
            self.write_sound(packet)

    def _mux(self, packets: Any) -> None:
        try:
            for packet in packets:
                self._container.mux(packet)
        except (av.error.FFmpegError, OSError) as error:
            raise _write_failure(self.target, error) from None


def _temporary_name(target: Path) -> str:
    """A name beside that of `target`, as long as a name may be."""
    ending = f".{os.getpid()}.partial{target.suffix}"
    stem = target.stem.encode()[: LONGEST_NAME - 1 - len(ending.encode())].decode(errors="ignore")
    return f".{stem}{ending}"


def _write_failure(target: Path, error: Exception, hint: str | None = None) -> CommandFailed:
    reason = f"cannot write {target}: {getattr(error, 'strerror', None) or error}"
    return DiskFull(reason) if getattr(error, "errno", None) in NO_ROOM else CommandFailed(reason, hint=hint)


__all__ = ["VideoWriter"]
