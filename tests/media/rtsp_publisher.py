"""Publishes pictures of 256x256 and Opus in real time by RTSP, until it is ended or its connection is.

    python -m tests.media.rtsp_publisher URL

A program of its own: PyAV keeps Python's lock while it waits for the server, which asks the test's process meanwhile.
"""

import sys
import time
from fractions import Fraction
from typing import Any

import av
import numpy

RATE = 25


def publish(container: Any) -> None:
    options = {"preset": "ultrafast", "tune": "zerolatency"}
    video = container.add_stream("libx264", rate=RATE, options=options)
    video.width = video.height = 256
    video.pix_fmt = "yuv420p"
    video.gop_size = RATE
    sound = container.add_stream("libopus", rate=48000)
    tone = (numpy.sin(numpy.arange(48000 // RATE) / 20) * 8000).astype(numpy.int16)[None]
    began = time.monotonic()
    number = 0
    while True:
        shade = numpy.full((256, 256, 3), number * 7 % 256, dtype=numpy.uint8)
        picture = av.VideoFrame.from_ndarray(shade, format="rgb24")
        picture.pts, picture.time_base = number, Fraction(1, RATE)
        container.mux(video.encode(picture))
        heard = av.AudioFrame.from_ndarray(tone, format="s16", layout="mono")
        heard.sample_rate = 48000
        heard.pts, heard.time_base = number * len(tone[0]), Fraction(1, 48000)
        container.mux(sound.encode(heard))
        number += 1
        time.sleep(max(0.0, began + number / RATE - time.monotonic()))


if __name__ == "__main__":
    with av.open(sys.argv[1], "w", format="rtsp", options={"rtsp_transport": "tcp"}) as opened:
        publish(opened)
