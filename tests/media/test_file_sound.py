"""Sound on its way into a file whose format does not take it as it is: as many channels as fit, or a reason."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import av
import numpy
import pytest

from sdstream.errors import CommandFailed
from sdstream.media.files.reader import VideoReader
from tests.media.test_file_times import SIZE, pass_on

PASS_ON = """
import sys
from pathlib import Path
from tests.media.test_file_times import pass_on
print(pass_on(Path(sys.argv[1]), Path(sys.argv[2])))
"""


def film(path: Path, layout: str, *, rate: int = 48_000, codec: str = "pcm_s16le", samples: int | None = None) -> Path:
    """One picture, and so many samples of silence, or a tenth of a second."""
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = SIZE.width, SIZE.height, "yuv420p"
        sound: Any = container.add_stream(codec, rate=rate)
        sound.layout = layout
        container.mux(video.encode(av.VideoFrame(SIZE.width, SIZE.height, "yuv420p")))
        container.mux(video.encode(None))
        silence = numpy.zeros((1, (samples or rate // 10) * av.AudioLayout(layout).nb_channels), numpy.int16)
        heard = av.AudioFrame.from_ndarray(silence, format="s16", layout=layout)
        heard.sample_rate = rate
        container.mux(sound.encode(heard))
        container.mux(sound.encode(None))
    return path


def written(path: Path) -> tuple[str, int, int]:
    """The codec of a file's sound, its channels and its rate."""
    with av.open(str(path)) as container:
        context = container.streams.audio[0].codec_context
        return context.name, context.layout.nb_channels, context.sample_rate


@pytest.mark.parametrize(
    ("ending", "expected"),
    [
        ("mp4", ("aac", 8, 48_000)),
        ("flv", ("aac", 2, 48_000)),
        ("ts", ("aac", 8, 48_000)),
        ("webm", ("opus", 8, 48_000)),
    ],
)
def test_eight_channels_without_names_become_as_many_as_fit(
    tmp_path: Path, ending: str, expected: tuple[str, int, int]
) -> None:
    target = tmp_path / f"out.{ending}"
    pass_on(film(tmp_path / "film.mkv", "7.1"), target)  # whose format keeps the number alone
    assert written(target) == expected


def test_channels_in_an_order_of_their_own_are_encoded(tmp_path: Path) -> None:
    source, target = film(tmp_path / "film.mov", "7.1"), tmp_path / "out.flv"
    content = source.read_bytes()
    named, in_order = bytes.fromhex("00000000 00010000 0000063f"), bytes.fromhex("00000000 00800008 00000000")
    assert b"chan" + named in content
    source.write_bytes(content.replace(b"chan" + named, b"chan" + in_order))
    # In a process of its own, which PyAV would end.
    done = subprocess.run(
        [sys.executable, "-c", PASS_ON, str(source), str(target)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "taken as 7.1: they are 8 channels (FL+FR+" in done.stdout
    assert "mixed down from 7.1 to stereo" in done.stdout
    assert written(target)[1] == 2


def test_a_rate_that_the_codec_does_not_take_is_changed(tmp_path: Path) -> None:
    target = tmp_path / "out.flv"
    pass_on(film(tmp_path / "film.mkv", "mono", rate=192_000), target)
    assert written(target) == ("aac", 1, 48_000)


def test_sound_that_changes_its_form_goes_on(tmp_path: Path) -> None:
    content = b""
    for layout, rate in (("mono", 48_000), ("stereo", 44_100)):
        content += film(tmp_path / "film.ts", layout, rate=rate, codec="mp2", samples=11_520).read_bytes()
    (tmp_path / "joined.ts").write_bytes(content)
    pass_on(tmp_path / "joined.ts", tmp_path / "out.flv")
    with av.open(str(tmp_path / "out.flv")) as container:
        assert sum(frame.samples for frame in container.decode(audio=0)) >= 21_000


@pytest.mark.parametrize(("kind", "words"), [("A_PCM/INT/LIT", ""), ("V_MPEG4/ISO/AVC", "not known")])
def test_a_form_that_is_not_known_is_told(tmp_path: Path, kind: str, words: str) -> None:
    content = film(tmp_path / "film.mkv", "mono").read_bytes()
    assert kind.encode() in content
    (tmp_path / "film.mkv").write_bytes(content.replace(kind.encode(), kind[:-3].encode() + b"XXX"))
    if words:
        with pytest.raises(CommandFailed, match=words):
            VideoReader(tmp_path / "film.mkv")
    else:
        assert pass_on(tmp_path / "film.mkv", tmp_path / "out.mp4") == [
            "sound in a form that is not known was left out"
        ]
