"""A film of pictures that say their own number, encoded once and sent many times."""

from dataclasses import dataclass

import av
import numpy
from msgspec.structs import replace
from numpy.typing import NDArray

from sdstream.frames import PictureSize
from sdstream.media.embedded.encoding import EncodedPicture, PictureEncoder
from sdstream.media.embedded.negotiation import VideoCodec

SIZE = PictureSize(512, 512)
LENGTH = 90
FRAME_RATE = 30
TICKS = 90_000 // FRAME_RATE
CELL = 32
BITS = 12
"""Seven of number, five of check; each is one cell in the top row."""


@dataclass(frozen=True, slots=True)
class Clip:
    """`pictures[n]` shows number n; one a second is a keyframe. `rate` is pictures a second."""

    pictures: tuple[EncodedPicture, ...]
    frames: tuple[av.VideoFrame, ...]
    size: PictureSize = SIZE
    rate: int = FRAME_RATE
    codec: VideoCodec = "H264"

    @property
    def ticks(self) -> int:
        """Of the 90 kHz clock from one picture to the next."""
        return 90_000 // self.rate

    def picture(self, index: int) -> EncodedPicture:
        """Picture `index` of the endless repetition, with its time stamp."""
        made = self.pictures[index % LENGTH]
        return replace(made, timestamp=index * self.ticks)


def make_clip(
    bitrate: int = 1_500_000, size: PictureSize = SIZE, rate: int = FRAME_RATE, codec: VideoCodec = "H264"
) -> Clip:
    """A textured picture that moves, as a camera's does. `size` is 384 or more wide, and at most 1216 either way."""
    encoder = PictureEncoder(codec, size, bitrate)
    rng = numpy.random.default_rng(11)
    coarse = rng.integers(30, 225, (48, 48), dtype=numpy.uint8).repeat(32, 0).repeat(32, 1).astype(numpy.float32)
    kernel = numpy.ones(24, numpy.float32) / 24
    smooth = numpy.apply_along_axis(lambda row: numpy.convolve(row, kernel, "same"), 1, coarse)
    texture = (smooth + rng.normal(0, 4, smooth.shape)).clip(16, 235).astype(numpy.uint8)
    pictures: list[EncodedPicture] = []
    frames: list[av.VideoFrame] = []
    for index in range(LENGTH):
        frame = av.VideoFrame(size.width, size.height, "yuv420p")
        shift = round(120 * numpy.sin(2 * numpy.pi * index / LENGTH)) + 200
        luma = texture[shift : shift + size.height, 3 * index : 3 * index + size.width].copy()
        stamp(luma, index)
        _plane(frame, 0)[:] = luma
        for plane in (1, 2):
            _plane(frame, plane)[:] = 118 + 20 * ((index // 10) % 2)
        made = encoder.encode(frame, index * (90_000 // rate), keyframe=index % rate == 0)
        assert made is not None
        pictures.append(made)
        frames.append(frame)
    return Clip(tuple(pictures), tuple(frames), size, rate, codec)


def stamp(luma: NDArray[numpy.uint8], number: int) -> None:
    """Write `number`, 0 to 127, into the top row of cells."""
    for cell, bit in enumerate(_bits(number)):
        luma[:CELL, cell * CELL : (cell + 1) * CELL] = 225 if bit else 25


def read_stamp(luma: NDArray[numpy.uint8]) -> int | None:
    """The number in the picture, None when it cannot be read."""
    row = luma[CELL // 4 : -CELL // 4 if luma.shape[0] == CELL else CELL * 3 // 4, : BITS * CELL]
    means = row.reshape(row.shape[0], BITS, CELL)[:, :, CELL // 4 : CELL * 3 // 4].mean((0, 2))
    if ((means > 90) & (means < 160)).any():
        return None
    bits = [bool(mean > 125) for mean in means]
    number = sum(bit << (6 - place) for place, bit in enumerate(bits[:7]))
    return number if bits == _bits(number) else None


def _bits(number: int) -> list[bool]:
    bits = [bool(number >> place & 1) for place in range(6, -1, -1)]
    check = (number * 13 + 5) % 31
    return bits + [bool(check >> place & 1) for place in range(4, -1, -1)]


def _plane(frame: av.VideoFrame, index: int) -> NDArray[numpy.uint8]:
    plane = frame.planes[index]
    flat = numpy.frombuffer(memoryview(plane), numpy.uint8)
    return flat.reshape(-1, plane.line_size)[: plane.height, : plane.width]


__all__ = ["FRAME_RATE", "LENGTH", "SIZE", "TICKS", "Clip", "make_clip", "read_stamp"]
