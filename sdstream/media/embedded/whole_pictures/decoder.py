"""Whole pictures in any of the formats that a canvas writes, behind the interface of libav's decoders."""

from typing import Any

from av.error import InvalidDataError
from av.video.frame import VideoFrame

from sdstream.media.embedded.decoding import open_decoder
from sdstream.params.pictures import MOST_SCANS, has_endless_scans

PictureFormat = str
"""A decoder of libav: `mjpeg`, `png` or `webp`."""
NAMES = {"mjpeg": "JPEG", "png": "PNG", "webp": "WebP"}


def format_of(data: bytes) -> PictureFormat | None:
    """Which picture these bytes begin like; None for something else."""
    if data.startswith(b"\xff\xd8\xff"):
        return "mjpeg"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "webp"
    return None


class WholePictureDecoder:
    """Decodes each packet by itself, whatever the one before was."""

    def __init__(self) -> None:
        self._contexts: dict[PictureFormat, Any] = {}

    def decode(self, packet: Any) -> list[VideoFrame]:
        """The picture in an `av.Packet`. Raises libav's `FFmpegError` when it is none."""
        data = bytes(packet)
        library = format_of(data[:16])
        if library is None:
            raise InvalidDataError(_INVALID_DATA, "this is no JPEG, PNG or WebP")
        if has_endless_scans(data):
            raise InvalidDataError(_INVALID_DATA, f"this is a JPEG of more than {MOST_SCANS} scans")
        context = self._contexts.get(library)
        if context is None:
            context = self._contexts[library] = open_decoder(library)
        return context.decode(packet)


_INVALID_DATA = 1094995529  # libav's AVERROR_INVALIDDATA, without its sign

__all__ = ["NAMES", "PictureFormat", "WholePictureDecoder", "format_of"]
