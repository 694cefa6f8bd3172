"""Pictures between libav's frames and ours. The only place that knows how libav writes colours."""

from fractions import Fraction
from typing import Any

import msgspec
import numpy
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter

from sdstream.frames import VIDEO_CLOCK, ColourMatrix, I420Frame, PictureSize, Plane

_PLANAR = ("yuv420p", "yuvj420p")
_FULL_RANGE, _BT709 = 2, 1  # libav's AVCOL_RANGE_JPEG and AVCOL_SPC_BT709


class OwnedPicture(msgspec.Struct, frozen=True, eq=False):
    """A picture in memory of its own, as the encoder takes it, with the clock of its source.

    `pts` is None for what was made here and has no clock.
    """

    frame: VideoFrame
    size: PictureSize
    pts: int | None = None
    time_base: Fraction = VIDEO_CLOCK
    received_at: float = 0.0
    sequence: int = 0
    full_range: bool = False
    matrix: ColourMatrix = "bt601"
    captured_at: float | None = None
    """The monotonic second at which a camera took it, where that is known."""

    @classmethod
    def copy_of(cls, picture: I420Frame, captured_at: float | None = None) -> "OwnedPicture":
        """Copy `picture`, whose planes may be gone after the call."""
        size = picture.size
        frame = VideoFrame(size.width, size.height, "yuv420p")
        for plane, source in zip(_planes(frame, size.width, size.height), picture.planes, strict=True):
            plane[...] = source
        return cls(
            frame,
            size,
            picture.pts,
            picture.time_base,
            picture.received_at,
            picture.sequence,
            picture.full_range,
            picture.matrix,
            captured_at,
        )

    def apart(self) -> "OwnedPicture":
        """The same picture in a frame of its own, for no two may share one that they ask for at once.

        Encoders write time stamps into theirs, and a conversion writes the colours into its source for as long as it
        reads it.
        """
        width, height = self.size.width, self.size.height
        frame = VideoFrame(width, height, "yuv420p")
        for plane, source in zip(_planes(frame, width, height), _planes(self.frame, width, height), strict=True):
            plane[...] = source
        return msgspec.structs.replace(self, frame=frame)

    def for_encoder(self) -> VideoFrame:
        """The picture in BT.601 and limited range, which is what the encoder says it sends."""
        if not self.full_range and self.matrix == "bt601":
            return self.frame
        return self._converted("yuv420p", ColorRange.MPEG)

    def for_jpeg(self) -> VideoFrame:
        """The picture in BT.601 and full range, as a JPEG has it."""
        return self._converted("yuvj420p", ColorRange.JPEG)

    def _converted(self, form: str, to: ColorRange) -> VideoFrame:
        # Not `frame.reformat`, which keeps one context for all threads that ask the same frame at once.
        return VideoReformatter().reformat(
            self.frame,
            format=form,
            src_colorspace=Colorspace.ITU709 if self.matrix == "bt709" else Colorspace.ITU601,
            dst_colorspace=Colorspace.ITU601,
            src_color_range=ColorRange.JPEG if self.full_range else ColorRange.MPEG,
            dst_color_range=to,
            threads=1,
        )

    def as_i420(self) -> I420Frame:
        """A copy for whoever keeps it."""
        y, u, v = _planes(self.frame, self.size.width, self.size.height)
        return I420Frame(
            y,
            u,
            v,
            pts=self.pts or 0,
            time_base=self.time_base,
            received_at=self.received_at,
            sequence=self.sequence,
            full_range=self.full_range,
            matrix=self.matrix,
        ).copy()


def view_of(
    frame: VideoFrame, *, received_at: float, sequence: int, time_base: Fraction | None = None
) -> I420Frame | None:
    """A decoded frame as I420 whose planes point into it; None when it is too small to be a picture.

    Odd sides lose their last row or column. Pixel formats other than 8-bit 4:2:0 are converted.
    `frame.pts` is taken to count `time_base`, or, without it, `frame.time_base`, which libav gives anew each time.
    """
    pts, time_base = frame.pts or 0, time_base or frame.time_base or VIDEO_CLOCK
    name = frame.format.name
    full_range = name.startswith("yuvj") or int(frame.color_range) == _FULL_RANGE
    if name not in _PLANAR:
        converted = frame.reformat(
            format="yuv420p",
            src_color_range=ColorRange.JPEG if full_range else ColorRange.MPEG,
            dst_color_range=ColorRange.MPEG,
            threads=1,
        )
        frame, full_range = converted, False
    width, height = frame.width & ~1, frame.height & ~1
    if width < 2 or height < 2:
        return None
    y, u, v = _planes(frame, width, height)
    return I420Frame(
        y,
        u,
        v,
        pts=pts,
        time_base=time_base,
        received_at=received_at,
        sequence=sequence,
        full_range=full_range,
        matrix="bt709" if int(frame.colorspace) == _BT709 else "bt601",
    )


def _planes(frame: VideoFrame, width: int, height: int) -> tuple[Plane, Plane, Plane]:
    """Views of the upper left part of `width` x `height`, both even and not above the frame's."""
    y, u, v = frame.planes[:3]
    return _plane(y, width, height), _plane(u, width // 2, height // 2), _plane(v, width // 2, height // 2)


def _plane(plane: Any, width: int, height: int) -> Plane:
    return numpy.ndarray((height, width), numpy.uint8, plane, strides=(plane.line_size, 1))


__all__ = ["OwnedPicture", "view_of"]
