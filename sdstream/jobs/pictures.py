"""Single pictures in and out of the pipeline."""

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from PIL import Image, ImageOps

from sdstream.fetching import FetchProblem
from sdstream.frames import I420Frame
from sdstream.job_errors import NotMedia
from sdstream.media.files.reader import to_i420
from sdstream.streams.snapshots import to_rgb
from sdstream.streams.style_images import decode

FORMATS = {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}
"""Pillow's name for each format of a result."""
CONTENT_TYPES = {"png": "image/png", "jpg": "image/jpeg", "webp": "image/webp"}
MAX_PICTURE_BYTES = 50_000_000
SMALLEST_SIDE = 2
"""Pixels: one sample of colour is for as many."""

_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM")


def read_picture(file: Path) -> I420Frame | None:
    """The picture in `file`, upright; None when it is no still picture but perhaps a video.

    Raises `NotMedia` for a picture that is broken or too large.
    """
    with file.open("rb") as source:
        head = source.read(16)
    still = head.startswith(_SIGNATURES) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")
    if not still:
        return None
    if file.stat().st_size > MAX_PICTURE_BYTES:
        raise NotMedia(f"the picture has more than {MAX_PICTURE_BYTES} bytes")
    try:
        image = decode(file.read_bytes())
    except FetchProblem as problem:
        raise NotMedia(f"the source {problem}") from problem
    image = ImageOps.exif_transpose(image).convert("RGB")
    if min(image.size) < SMALLEST_SIDE:
        raise NotMedia(f"the picture has {image.width}x{image.height} pixels; its sides need {SMALLEST_SIDE}")
    frames: Any = av.VideoFrame
    return to_i420(frames.from_image(image), 0, Fraction(1, 25), 0)


def write_picture(picture: I420Frame, kind: str) -> bytes:
    """The picture as a file of `kind`: png, jpg or webp."""
    target = io.BytesIO()
    Image.fromarray(to_rgb(picture)).save(target, FORMATS[kind], quality=92)
    return target.getvalue()


__all__ = ["CONTENT_TYPES", "FORMATS", "read_picture", "write_picture"]
