"""Files whose times turn back, as where two films of MPEG-TS were joined: they go on, and sound stays with pictures."""

import itertools
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy
import pytest

from sdstream.frames import PictureSize
from sdstream.media.files.reader import VideoReader
from sdstream.media.files.times import MOST_PARTS, GoingOn
from sdstream.media.files.writer import VideoWriter

SIZE = PictureSize(64, 64)
PICTURES, SOUNDS = 10, 20
PICTURE, SOUND = Fraction(1, 25), Fraction(1024, 48_000)


def film(path: Path) -> Path:
    """MPEG-TS of ten pictures and some 0.43 s of AAC."""
    with av.open(str(path), "w", format="mpegts") as container:
        video: Any = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = SIZE.width, SIZE.height, "yuv420p"
        sound: Any = container.add_stream("aac", rate=48_000)
        for number in range(PICTURES):
            picture = av.VideoFrame(SIZE.width, SIZE.height, "yuv420p")
            picture.pts, picture.time_base = number, PICTURE
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        for number in range(SOUNDS):
            heard = av.AudioFrame.from_ndarray(numpy.zeros((2, 1024), numpy.float32), format="fltp", layout="stereo")
            heard.sample_rate, heard.pts, heard.time_base = 48_000, 1024 * number, Fraction(1, 48_000)
            container.mux(sound.encode(heard))
        container.mux(sound.encode(None))
    return path


@pytest.fixture(scope="module")
def joined(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film, and the same film once more behind it."""
    folder = tmp_path_factory.mktemp("joined")
    content = film(folder / "film.ts").read_bytes()
    (folder / "joined.ts").write_bytes(2 * content)
    return folder / "joined.ts"


def pass_on(source: Path, target: Path) -> list[str]:
    """All of a file into another; what the writer noted."""
    with VideoReader(source) as reader:
        writer = VideoWriter(target, reader, SIZE, 40)
        writer.add_sound()
        for packet in reader.packets():
            if packet.stream is reader.stream:
                for picture in reader.decode(packet):
                    writer.write_picture(picture)
            else:
                writer.write_sound(packet)
        writer.finish()
    return writer.notes


def shown(path: Path) -> list[Fraction]:
    with VideoReader(path) as reader:
        return [picture.pts * picture.time_base for picture in reader.pictures()]


def test_the_pictures_of_a_joined_film_go_on_in_time(joined: Path) -> None:
    times = shown(joined)
    steps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(times) == 2 * PICTURES
    assert all(step == PICTURE for number, step in enumerate(steps) if number != PICTURES - 1)
    assert PICTURE <= steps[PICTURES - 1] <= 4 * PICTURE


def test_what_was_read_is_read_with_the_same_times_again(joined: Path) -> None:
    with VideoReader(joined) as reader:
        first = [picture.pts for picture in reader.pictures()]
        reader.rewind()
        assert [picture.pts for picture in reader.pictures()] == first


@pytest.mark.parametrize("ending", ["mp4", "mkv", "mov", "webm", "flv", "ts"])
def test_a_joined_film_is_written_whole(joined: Path, tmp_path: Path, ending: str) -> None:
    target = tmp_path / f"out.{ending}"
    pass_on(joined, target)
    assert len(shown(target)) == 2 * PICTURES
    with av.open(str(target)) as container:
        heard = sum(frame.samples for frame in container.decode(audio=0))
    assert heard >= (2 * SOUNDS - 2) * 1024


def given(packets: Iterable[tuple[int, float]], duration: Fraction = PICTURE) -> list[Fraction]:
    """The times that packets get, of each a stream's number and the file's time."""
    times = GoingOn()
    moments = [(stream, Fraction(moment).limit_denominator(1000)) for stream, moment in packets]
    return [moment + times.shift(stream, moment, moment, duration) for stream, moment in moments]


def test_times_that_do_not_turn_back_stay() -> None:
    packets = [(0, 5.0), (1, 4.9), (0, 5.04), (0, 5.02), (1, 9.0), (0, 30.0)]
    assert given(packets) == [Fraction(moment).limit_denominator(1000) for _, moment in packets]


def test_all_streams_turn_back_by_the_same_step_each_at_its_own_packet() -> None:
    before, after = [(0, 1.0), (1, 1.01)], [(0, 0.5), (1, 1.03), (1, 0.51)]
    times = given(before + after)
    assert times[2] == Fraction(101, 100) + PICTURE  # where all that was known had ended
    assert times[3] == Fraction(103, 100)
    assert times[4] - times[2] == Fraction(1, 100)


def test_a_stream_that_turns_back_once_more_than_another_leaves_that_one_its_place() -> None:
    times = given([(0, 8.0), (1, 100.0), (1, 1.0), (1, 60.0), (0, 2.0)])
    assert times[-1] >= max(times[:-1])


def test_three_films_are_three_parts() -> None:
    times = given([(0, 1.0), (0, 0.0), (0, 1.0), (0, 0.0)])
    assert times == [1, 1 + PICTURE, 2 + PICTURE, 2 + 2 * PICTURE]


def test_a_file_that_turns_back_all_the_time_is_remembered_no_longer_for_it() -> None:
    times = GoingOn()
    moments = [Fraction(number % 2) for number in range(1000)]
    given = [moment + times.shift(stream, moment, moment, PICTURE) for moment in moments for stream in (0, 1)]
    assert all(later >= earlier for earlier, later in itertools.pairwise(given[::2]))
    assert given[::2] == given[1::2]
    assert len(times._begun) == MOST_PARTS
