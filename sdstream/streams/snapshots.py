"""One picture as a JPEG file."""

import io

import numpy
from numpy.typing import NDArray
from PIL import Image

from sdstream.frames import I420Frame

QUALITY = 90

_RED_WEIGHT = {"bt601": 0.299, "bt709": 0.2126}
_BLUE_WEIGHT = {"bt601": 0.114, "bt709": 0.0722}


def encode_jpeg(frame: I420Frame) -> bytes:
    """The picture as JPEG (4:2:0, quality 90). Takes milliseconds: call it on a thread."""
    file = io.BytesIO()
    Image.fromarray(to_rgb(frame)).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


def to_rgb(frame: I420Frame) -> NDArray[numpy.uint8]:
    """uint8 [height, width, 3] from the planes, by the frame's own matrix and range."""
    luma = frame.y.astype(numpy.float32)
    blue_difference, red_difference = (_enlarge(plane).astype(numpy.float32) - 128 for plane in (frame.u, frame.v))
    if not frame.full_range:
        luma = (luma - 16) * (255 / 219)
        blue_difference *= 255 / 224
        red_difference *= 255 / 224
    red_weight, blue_weight = _RED_WEIGHT[frame.matrix], _BLUE_WEIGHT[frame.matrix]
    red = luma + 2 * (1 - red_weight) * red_difference
    blue = luma + 2 * (1 - blue_weight) * blue_difference
    green = (luma - red_weight * red - blue_weight * blue) / (1 - red_weight - blue_weight)
    picture = numpy.stack((red, green, blue), axis=-1)
    return numpy.clip(numpy.rint(picture), 0, 255).astype(numpy.uint8)


def _enlarge(plane: NDArray[numpy.uint8]) -> NDArray[numpy.uint8]:
    return plane.repeat(2, axis=0).repeat(2, axis=1)


__all__ = ["QUALITY", "encode_jpeg", "to_rgb"]
