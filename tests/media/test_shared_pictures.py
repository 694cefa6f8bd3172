"""One picture in the hands of several encoders at once."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
AT_ONCE = """
import threading
import numpy
from sdstream.frames import I420Frame
from sdstream.media.embedded.pictures import OwnedPicture

luma = numpy.random.default_rng(0).integers(0, 255, (512, 512), dtype=numpy.uint8)
for _ in range(400):
    picture = OwnedPicture.copy_of(I420Frame(luma, luma[:256, :256], luma[256:, 256:], full_range=True))
    asked = (picture.for_encoder, picture.for_jpeg, picture.for_encoder, picture.for_jpeg)
    threads = [threading.Thread(target=ask) for ask in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""


def test_a_picture_that_several_encoders_ask_for_at_once_ends_no_process() -> None:
    done = subprocess.run([sys.executable, "-c", AT_ONCE], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
