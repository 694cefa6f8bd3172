"""Fragmented MP4 made from units: a head for each size of picture, and a fragment for each keyframe interval."""

import io
import threading
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Protocol

import av
from av.packet import Packet

from sdstream.frames import VIDEO_CLOCK, PictureSize
from sdstream.media.embedded.outputs.units import SOUND_RATE, PictureUnit, SoundUnit, Unit
from sdstream.media.embedded.rtp import split_units

MOVE_FLAGS = "frag_keyframe+empty_moov+default_base_moof+frag_discont+negative_cts_offsets"
NAL_SPS = 7


@dataclass(frozen=True, slots=True)
class Head:
    """The initialisation of the fragments that follow. `codecs` is as RFC 6381 writes it."""

    number: int
    data: bytes
    size: PictureSize
    codecs: str


@dataclass(frozen=True, slots=True)
class Fragment:
    """The pictures from one keyframe to the next, and their sound. `seconds` is its duration."""

    head: Head
    data: bytes
    seconds: float
    pictures: int = 1


class FragmentSink(Protocol):
    """Takes fragments in order, on the feed's thread."""

    def take_fragment(self, fragment: Fragment) -> None: ...


class _Boxes(io.RawIOBase):
    """A file that hands over each pair of `moof` and `mdat`, and all boxes before the first one as the head."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._head = bytearray()
        self._fragment = bytearray()
        self.fragments: deque[bytes] = deque()

    @property
    def head(self) -> bytes:
        return bytes(self._head)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._buffer += data
        while len(self._buffer) >= 8:
            size = int.from_bytes(self._buffer[:4], "big")
            if size < 8 or len(self._buffer) < size:
                break
            kind = bytes(self._buffer[4:8])
            box = self._buffer[:size]
            del self._buffer[:size]
            if kind in (b"ftyp", b"moov"):
                self._head += box
            elif kind in (b"moof", b"mdat", b"styp", b"sidx"):
                self._fragment += box
                if kind == b"mdat":
                    self.fragments.append(bytes(self._fragment))
                    self._fragment.clear()
        return len(data)


class FragmentMuxer:
    """Implements `UnitSink`: makes fragments for its sinks. A new size or new parameter sets begin with a new head."""

    def __init__(self) -> None:
        self._sinks: tuple[FragmentSink, ...] = ()
        self._lock = threading.Lock()
        self._numbers = 0
        self._boxes = _Boxes()
        self._container: Any = None
        self._video: Any = None
        self._audio: Any = None
        self._head: Head | None = None
        self._parameters: tuple[bytes, ...] = ()
        self._size: PictureSize | None = None
        self._begin = 0
        self._codecs = ""
        self._last = -1
        self._last_sound = -1
        self._keyframes: deque[int] = deque()
        self._pictures: deque[int] = deque()
        """How many pictures each fragment has that was begun and not handed over."""

    def add(self, sink: FragmentSink) -> None:
        self._sinks = (*self._sinks, sink)

    def remove(self, sink: FragmentSink) -> None:
        self._sinks = tuple(other for other in self._sinks if other is not sink)

    @property
    def is_wanted(self) -> bool:
        return bool(self._sinks)

    def take(self, unit: Unit) -> None:
        with self._lock:
            if isinstance(unit, PictureUnit):
                self._take_picture(unit)
            else:
                self._take_sound(unit)

    def finish(self) -> None:
        """Hand over what there is of the last fragment; what follows has a new head. From any thread."""
        with self._lock:
            self._finish()

    def _finish(self) -> None:
        container, self._container = self._container, None
        if container is not None:
            container.close()
            self._keyframes.append(self._last + 3000)
            self._collect()

    def _take_picture(self, unit: PictureUnit) -> None:
        if unit.keyframe:
            parameters = tuple(part for part in split_units(unit.data) if part[0] & 31 in (NAL_SPS, 8))
            if self._container is not None and (parameters, unit.size) != (self._parameters, self._size):
                self._finish()
            if self._container is None:
                self._open(unit, parameters)
        if self._container is None:
            return
        ticks = unit.time - self._begin
        if ticks <= self._last:
            return
        self._last = ticks
        if unit.keyframe:
            self._keyframes.append(ticks)
            self._pictures.append(0)
        self._pictures[-1] += 1
        self._write(self._video, unit.data, ticks, VIDEO_CLOCK, keyframe=unit.keyframe)
        self._collect()

    def _take_sound(self, unit: SoundUnit) -> None:
        if self._container is None:
            return
        samples = unit.time - self._begin * SOUND_RATE // 90_000
        if samples < 0 or samples <= self._last_sound:
            return
        self._last_sound = samples
        self._write(self._audio, unit.data, samples, Fraction(1, SOUND_RATE), keyframe=True)
        self._collect()

    def _write(self, stream: Any, data: bytes, time: int, time_base: Fraction, *, keyframe: bool) -> None:
        packet: Any = Packet(data)
        packet.stream = stream
        packet.time_base = time_base
        packet.pts = packet.dts = time
        packet.is_keyframe = keyframe
        if stream is self._audio:
            packet.duration = 1024
        self._container.mux_one(packet)

    def _open(self, unit: PictureUnit, parameters: tuple[bytes, ...]) -> None:
        self._boxes = _Boxes()
        self._container = av.open(self._boxes, "w", format="mp4", options={"movflags": MOVE_FLAGS})
        # No encoder is opened for the pictures: their parameter sets are read from the first keyframe.
        self._video = self._container.add_mux_stream("h264", rate=30, width=unit.size.width, height=unit.size.height)
        self._video.time_base = VIDEO_CLOCK
        self._audio = self._container.add_stream("aac", rate=SOUND_RATE)
        self._audio.time_base = Fraction(1, SOUND_RATE)
        self._parameters, self._size = parameters, unit.size
        self._begin = unit.time
        self._last = self._last_sound = -1
        self._head = None
        self._keyframes.clear()
        self._pictures.clear()
        sequence = next((part for part in parameters if part[0] & 31 == NAL_SPS), b"\x67\x42\xc0\x1f")
        self._codecs = f"avc1.{sequence[1:4].hex()},mp4a.40.2"

    def _collect(self) -> None:
        boxes = self._boxes
        while boxes.fragments:
            data = boxes.fragments.popleft()
            if self._head is None:
                assert self._size is not None
                self._numbers += 1
                self._head = Head(self._numbers, boxes.head, self._size, self._codecs)
            begin = self._keyframes.popleft()
            end = self._keyframes[0] if self._keyframes else self._last
            fragment = Fragment(self._head, data, max(end - begin, 1) / 90_000, self._pictures.popleft())
            for sink in self._sinks:
                sink.take_fragment(fragment)


__all__ = ["Fragment", "FragmentMuxer", "FragmentSink", "Head"]
