"""Where `sdstream render` writes: what takes no file is told before the work, not after it."""

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy
import pytest

from sdstream.errors import CommandFailed
from sdstream.file_errors import DiskFull
from sdstream.frames import PictureSize
from sdstream.media.files.reader import VideoReader
from sdstream.media.files.writer import VideoWriter
from tests.media.test_file_times import pass_on
from tests.project.commands import environment, sdstream

SIZE = PictureSize(64, 64)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pictures and a tenth of a second of AAC."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = SIZE.width, SIZE.height, "yuv420p"
        sound: Any = container.add_stream("aac", rate=48000)
        for _ in range(2):
            container.mux(video.encode(av.VideoFrame(SIZE.width, SIZE.height, "yuv420p")))
        container.mux(video.encode(None))
        silence = av.AudioFrame.from_ndarray(numpy.zeros((2, 4800), numpy.float32), format="fltp", layout="stereo")
        silence.sample_rate = 48000
        container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    return path


@pytest.fixture
def reader(film: Path) -> Iterator[VideoReader]:
    with VideoReader(film) as reader:
        yield reader


def test_a_name_as_long_as_a_name_may_be_is_written(reader: VideoReader, tmp_path: Path) -> None:
    target = tmp_path / f"{'ü' * 125}.mp4"
    writer = VideoWriter(target, reader, SIZE, 18)
    for picture in reader.pictures():
        writer.write_picture(picture)
    writer.finish()
    assert list(tmp_path.iterdir()) == [target]


def test_a_directory_that_takes_no_file_is_told_before_anything_is_made(reader: VideoReader, tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match="cannot write"):
        VideoWriter(tmp_path / "gone" / "out.mp4", reader, SIZE, 18)


def test_a_disk_that_fills_is_told_as_that(
    reader: VideoReader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = VideoWriter(tmp_path / "out.mp4", reader, SIZE, 18)
    writer.write_picture(next(reader.pictures()))
    monkeypatch.setattr("os.replace", refuse)
    with pytest.raises(DiskFull, match="No space left"):
        writer.finish()


@pytest.mark.parametrize("ending", ["mp3", "xyz"])
def test_a_format_that_takes_no_pictures_leaves_nothing_behind(
    reader: VideoReader, tmp_path: Path, ending: str
) -> None:
    with pytest.raises(CommandFailed, match="cannot write"):
        VideoWriter(tmp_path / f"out.{ending}", reader, SIZE, 18)
    assert list(tmp_path.iterdir()) == []


def test_mpeg_ts_is_given_aac_as_it_was(film: Path, tmp_path: Path) -> None:
    assert pass_on(film, tmp_path / "out.ts") == []
    with av.open(str(tmp_path / "out.ts")) as container:
        assert [stream.codec_context.name for stream in container.streams.audio] == ["aac"]
        assert sum(frame.samples for frame in container.decode(audio=0)) >= 4800


def test_sound_that_the_format_takes_by_its_list_alone_is_encoded_anew(tmp_path: Path) -> None:
    path = tmp_path / "opus.mkv"
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = SIZE.width, SIZE.height, "yuv420p"
        sound: Any = container.add_stream("libopus", rate=48000)
        container.mux(video.encode(av.VideoFrame(SIZE.width, SIZE.height, "yuv420p")))
        container.mux(video.encode(None))
        silence = av.AudioFrame.from_ndarray(numpy.zeros((1, 9600), numpy.int16), format="s16", layout="stereo")
        silence.sample_rate = 48000
        container.mux(sound.encode(silence))
        container.mux(sound.encode(None))
    with VideoReader(path) as opened:
        writer = VideoWriter(tmp_path / "out.mov", opened, SIZE, 18)
        writer.add_sound()
        for packet in opened.packets():
            if packet.stream is opened.stream:
                for picture in opened.decode(packet):
                    writer.write_picture(picture)
            else:
                writer.write_sound(packet)
        writer.finish()
    assert writer.notes == ["sound was encoded anew as aac: this container does not take opus"]
    with av.open(str(tmp_path / "out.mov")) as container:
        assert [stream.codec_context.name for stream in container.streams.audio] == ["aac"]


@pytest.mark.parametrize(
    ("name", "words"), [(f"{'y' * 300}.mp4", "File name too long"), ("folder.mp4", "is a directory")]
)
def test_a_target_that_cannot_be_a_file_is_refused(film: Path, tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "folder.mp4").mkdir()
    options = ["--skip-diffusion", "--overwrite"]
    done = sdstream("render", str(film), str(tmp_path / name), *options, environment=environment(tmp_path / "data"))
    assert (done.returncode, words in done.stderr, "Traceback" in done.stderr) == (2, True, False)
