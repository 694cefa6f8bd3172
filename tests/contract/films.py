"""Real video for cameras, as packets that a camera sends as they are, and how alike two pictures are."""

import itertools
import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy

from tests.support.peers import CardTrack
from tests.support.pictures import Picture

RATE = 25


class FilmTrack(CardTrack):
    """A camera that sends encoded pictures again and again; the first of them is a keyframe."""

    def __init__(self, packets: list[bytes], *, fps: float) -> None:
        super().__init__(lambda number: av.VideoFrame(2, 2, "yuv420p"), fps=fps)
        self._packets = packets

    def _encode(self, frame: av.VideoFrame) -> bytes:
        return self._packets[self.sent % len(self._packets)]


def write_film(source: Path, target: Path, *, every: int, side: int) -> list[bytes]:
    """Write each `every`-th picture of a film, square, coded in the order in which they are shown; returns what a
    camera sends for each."""
    sent: list[bytes] = []
    with av.open(str(source)) as reading, av.open(str(target), "w") as writing:
        stream: Any = writing.add_stream("libx264", rate=RATE)
        stream.width = stream.height = side
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, RATE)
        stream.codec_context.options = {"preset": "ultrafast", "tune": "zerolatency", "crf": "16"}
        stream.codec_context.profile = "Baseline"
        for number, frame in enumerate(itertools.islice(reading.decode(video=0), 0, None, every)):
            square = frame.reformat(width=side, height=side, format="yuv420p")
            square.pts, square.time_base = number, Fraction(1, RATE)
            for packet in stream.encode(square):
                # A file has the parameter sets once in its header, a camera sends them with each keyframe.
                header = bytes(stream.codec_context.extradata) if packet.is_keyframe else b""
                sent.append(header + bytes(packet))
                writing.mux(packet)
        assert not stream.encode(None)
    return sent


def peak_ratio(one: Picture, other: Picture) -> float:
    """Peak signal to noise over red, green and blue, in decibels."""
    error = float(numpy.square(one.rgb.astype(numpy.float32) - other.rgb.astype(numpy.float32)).mean())
    return math.inf if error == 0 else 10 * math.log10(255**2 / error)
