"""Pictures as the project moves them: I420 planes with the clock of their source.

A picture is decoded into three 8-bit planes and stays so until the worker's GPU: no RGB, no PIL and no float array is
ever made of it on the CPU. Planes are numpy views that may point into a decoder's buffer or into shared memory, so
whoever keeps a picture beyond the call that delivered it must `copy()` it.
"""

import threading
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Generic, Literal, TypeVar

import msgspec
import numpy
from numpy.typing import NDArray

from sdstream.clock import SystemClock

Plane = NDArray[numpy.uint8]
ColourMatrix = Literal["bt601", "bt709"]
VIDEO_CLOCK = Fraction(1, 90_000)
"""The time base of RTP video, in seconds."""


@dataclass(frozen=True, slots=True)
class PictureSize:
    """Width and height in pixels, both even and at least 2, as 4:2:0 sampling needs."""

    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 2 or self.height < 2 or self.width % 2 or self.height % 2:
            raise ValueError(f"an I420 picture needs even sides of at least 2, not {self.width}x{self.height}")

    @property
    def byte_count(self) -> int:
        """Bytes of the three planes packed one after the other."""
        return self.width * self.height * 3 // 2

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"


@lru_cache(maxsize=64)
def picture_size(width: int, height: int) -> PictureSize:
    """As `PictureSize`, of which a stream has one or two. Raises `ValueError` as that."""
    return PictureSize(width, height)


class I420Frame(msgspec.Struct, frozen=True, eq=False):
    """One picture: planes, colour meaning and clock.

    `y` is uint8 [height, width]; `u` and `v` are uint8 [height/2, width/2]; strides may be padded.
    `pts` counts `time_base` seconds on the publisher's clock and is never rewritten on the way through.
    `received_at` is the monotonic second at which the picture left the decoder; `sequence` counts from 0 per stream.
    """

    y: Plane
    u: Plane
    v: Plane
    pts: int = 0
    time_base: Fraction = VIDEO_CLOCK
    received_at: float = 0.0
    sequence: int = 0
    full_range: bool = False
    matrix: ColourMatrix = "bt601"

    @property
    def size(self) -> PictureSize:
        height, width = self.y.shape
        return picture_size(width, height)

    @property
    def planes(self) -> tuple[Plane, Plane, Plane]:
        return self.y, self.u, self.v

    def copy(self) -> "I420Frame":
        """The same picture in memory of its own."""
        packed = numpy.empty(self.size.byte_count, numpy.uint8)
        self.pack_into(packed)
        y, u, v = split_planes(packed, self.size)
        return self.with_planes(y, u, v)

    def with_planes(self, y: Plane, u: Plane, v: Plane) -> "I420Frame":
        """Other planes of the same moment and meaning."""
        return msgspec.structs.replace(self, y=y, u=u, v=v)

    def at(self, pts: int, time_base: Fraction = VIDEO_CLOCK, sequence: int | None = None) -> "I420Frame":
        """The same planes at another time; its number stays where none is given."""
        number = self.sequence if sequence is None else sequence
        return msgspec.structs.replace(self, pts=pts, time_base=time_base, sequence=number)

    def pack_into(self, target: Plane) -> None:
        """Write the planes one after the other into `target`, uint8 [at least size.byte_count]."""
        for source, plane in zip(self.planes, split_planes(target, self.size), strict=True):
            plane[...] = source


def split_planes(packed: Plane, size: PictureSize) -> tuple[Plane, Plane, Plane]:
    """Views of the Y, U and V planes in `packed`, uint8 [at least size.byte_count]."""
    luma = size.width * size.height
    chroma = luma // 4
    half = (size.height // 2, size.width // 2)
    return (
        packed[:luma].reshape(size.height, size.width),
        packed[luma : luma + chroma].reshape(half),
        packed[luma + chroma : luma + 2 * chroma].reshape(half),
    )


Item = TypeVar("Item")


class LatestSlot(Generic[Item]):
    """A queue of one in which the newest item replaces an unread one; replaced items are counted.

    Safe between threads. `put` never waits.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        # Held while there is nothing to take. A bare lock, since a condition costs several times as much to wait on.
        self._vacant = threading.Lock()
        self._vacant.acquire()
        self._item: Item | None = None
        self._closed = False
        self.superseded = 0
        """Items that were replaced before anybody read them."""

    def put(self, item: Item) -> None:
        """Store `item`, dropping the one before it if nobody took it."""
        with self._lock:
            if self._closed:
                return
            if self._item is not None:
                self.superseded += 1
            self._item = item
            self._wake()

    def take(self, timeout: float | None = None) -> Item | None:
        """The newest item, waiting up to `timeout` seconds; None after the time or once closed."""
        deadline = None if timeout is None else _clock.monotonic() + timeout
        while self._vacant.acquire(timeout=-1 if deadline is None else max(0.0, deadline - _clock.monotonic())):
            with self._lock:
                item, self._item = self._item, None
                if self._closed:
                    self._wake()  # the next reader
                if item is not None or self._closed:
                    return item
            # An item that was put while this thread had woken for the one before it, and took both at once.
        return None

    def close(self) -> None:
        """Wake every waiting reader; later items are ignored."""
        with self._lock:
            self._closed = True
            self._item = None
            self._wake()

    def _wake(self) -> None:
        if self._vacant.locked():
            self._vacant.release()

    @property
    def closed(self) -> bool:
        return self._closed


_clock = SystemClock()

__all__ = [
    "VIDEO_CLOCK",
    "ColourMatrix",
    "I420Frame",
    "LatestSlot",
    "PictureSize",
    "Plane",
    "picture_size",
    "split_planes",
]
