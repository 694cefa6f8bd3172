"""One picture in the hands of several encoders at once."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import pytest

from sdstream.clock import SystemClock
from sdstream.media.embedded import broadcast as broadcast_module
from sdstream.media.embedded.broadcast import Broadcast
from sdstream.media.embedded.counters import StreamCounters
from sdstream.media.embedded.encoding import PictureEncoder
from sdstream.media.embedded.negotiation import VIDEO_CODECS
from sdstream.media.embedded.rates import Bitrates
from tests.media.test_threads import Watcher, picture, reporter
from tests.support.waiting import eventually

ROOT = Path(__file__).parents[2]
AT_ONCE = """
import threading
import numpy
from sdstream.frames import I420Frame
from sdstream.media.embedded.pictures import OwnedPicture

luma = numpy.random.default_rng(0).integers(0, 255, (512, 512), dtype=numpy.uint8)
for _ in range(400):
    picture = OwnedPicture.copy_of(I420Frame(luma, luma[:256, :256], luma[256:, 256:], full_range=True))
    asked = (picture.for_encoder, picture.apart().for_jpeg, picture.for_encoder, picture.for_jpeg)
    threads = [threading.Thread(target=ask) for ask in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_a_picture_that_several_encoders_ask_for_at_once_ends_no_process() -> None:
    done = subprocess.run([sys.executable, "-c", AT_ONCE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


async def test_encoders_of_different_codecs_write_their_time_stamps_into_frames_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given: dict[str, av.VideoFrame] = {}

    class Noting(PictureEncoder):
        def encode(self, frame: av.VideoFrame, timestamp: int, *, keyframe: bool) -> Any:
            given[self.codec] = frame
            return super().encode(frame, timestamp, keyframe=keyframe)

    monkeypatch.setattr(broadcast_module, "PictureEncoder", Noting)
    one = picture()
    broadcasts = [
        Broadcast(codec, Bitrates(500_000), "x264", StreamCounters(), SystemClock(), reporter())
        for codec in VIDEO_CODECS
    ]
    for broadcast in broadcasts:
        broadcast.sinks.add(Watcher())
        broadcast.put(lambda: one)
    await eventually(lambda: len(given) == len(VIDEO_CODECS))
    for broadcast in broadcasts:
        await broadcast.close()
    assert given["H264"] is one.frame, "without a copy, for most streams have no other"
    assert given["VP8"] is not one.frame
