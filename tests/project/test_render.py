"""`sdstream render`: every picture, in order, with its time; the sound as it was; a whole file or none."""

import json
import os
import signal
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import av.error
import numpy
import pytest

from sdstream.commands.render import collect_params, fit_size, make_job
from sdstream.commands.stamp import read_stamp, write_stamp
from sdstream.errors import CommandFailed, ConfigurationError
from sdstream.media.files.reader import VideoFacts, VideoReader
from sdstream.params import ModelTable
from sdstream.settings import Settings
from tests.project.commands import environment, sdstream, started
from tests.support.waiting import eventually_sync

FACTS = VideoFacts(640, 480, Fraction(25), Fraction(1, 12800), 24, 1.0)
TIMES = [0, 1, 2, 3, 5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17, 18, 20, 21, 22, 23]
"""Due times of the test film's pictures in 25ths of a second: some are missing, as in films of phones."""


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A numbered film of 640x480 with uneven times and a second of sound."""
    return write_film(tmp_path_factory.mktemp("film") / "film.mp4", TIMES)


def write_film(path: Path, times: list[int]) -> Path:
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = 640, 480, "yuv420p"
        video.time_base = video.codec_context.time_base = Fraction(1, 12800)
        video.codec_context.gop_size = 8
        sound: Any = container.add_stream("aac", rate=48000)
        sound.layout = "mono"
        for number, time in enumerate(times):
            y = numpy.full((480, 640), 60 + 5 * number, numpy.uint8)
            u, v = numpy.full((240, 320), 128, numpy.uint8), numpy.full((240, 320), 128, numpy.uint8)
            write_stamp(y, u, v, number)
            picture = av.VideoFrame.from_ndarray(
                numpy.concatenate([y.ravel(), u.ravel(), v.ravel()]).reshape(720, 640), format="yuv420p"
            )
            picture.pts, picture.time_base = time * 512, Fraction(1, 12800)
            container.mux(video.encode(picture))
        container.mux(video.encode(None))
        for start in range(0, 48000, 1024):
            tone = numpy.sin(numpy.arange(start, start + 1024) / 20).astype(numpy.float32)
            heard = av.AudioFrame.from_ndarray(tone.reshape(1, -1), format="fltp", layout="mono")
            heard.sample_rate, heard.pts, heard.time_base = 48000, start, Fraction(1, 48000)
            container.mux(sound.encode(heard))
        container.mux(sound.encode(None))
    return path


def damaged(film: Path, target: Path, packets: range) -> Path:
    """A copy of `film` whose video `packets`, by number, are noise."""
    content = bytearray(film.read_bytes())
    with av.open(str(film)) as container:
        for number, packet in enumerate(container.demux(video=0)):
            if number in packets and packet.pos is not None:
                content[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    target.write_bytes(content)
    return target


def test_a_raw_stream_which_cannot_be_sought_in_is_read_from_its_first_picture(film: Path, tmp_path: Path) -> None:
    raw = tmp_path / "film.h264"
    with av.open(str(film)) as source, av.open(str(raw), "w", format="h264") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    with VideoReader(raw) as reader:
        facts = reader.facts()
        pictures = list(reader.pictures())
    assert (facts.width, facts.height) == (640, 480)
    assert [read_stamp(picture.y) for picture in pictures] == list(range(len(TIMES)))


def test_a_picture_one_pixel_wide_gets_a_second(tmp_path: Path) -> None:
    path = tmp_path / "narrow.mkv"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = 1, 1, "yuv444p"
        container.mux(stream.encode(av.VideoFrame(1, 1, "yuv444p")))
        container.mux(stream.encode(None))
    with VideoReader(path) as reader:
        assert [str(picture.size) for picture in reader.pictures()] == ["2x2"]


def test_a_film_that_begins_damaged_gives_the_pictures_that_are_left(film: Path, tmp_path: Path) -> None:
    with VideoReader(damaged(film, tmp_path / "begins.mp4", range(1))) as reader:
        facts = reader.facts()
        assert (facts.width, facts.height) == (640, 480)
        assert reader.undecodable == 0
        assert len(list(reader.pictures())) < len(TIMES)
        assert reader.undecodable > 0


def test_a_film_without_one_good_picture_is_told_in_a_line(film: Path, tmp_path: Path) -> None:
    bad = damaged(film, tmp_path / "bad.mp4", range(len(TIMES)))
    done = sdstream(
        "render", str(bad), str(tmp_path / "out.mp4"), "--skip-diffusion", environment=environment(tmp_path)
    )
    assert done.returncode == 1
    assert "has no picture that can be decoded" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_decoder_that_fails_otherwise_is_told_in_a_line(film: Path) -> None:
    class Unlucky:
        def decode(self) -> list[Any]:
            raise av.error.MemoryError(12, "Cannot allocate memory")

    with VideoReader(film) as reader, pytest.raises(CommandFailed, match="cannot be decoded after 0 pictures"):
        reader.decode(Unlucky())


def sound_packets(path: Path) -> list[tuple[int | None, bytes]]:
    with av.open(str(path)) as container:
        return [(packet.pts, bytes(packet)) for packet in container.demux(audio=0) if packet.size]


@pytest.mark.slow
def test_pictures_order_times_and_sound_are_kept(film: Path, tmp_path: Path) -> None:
    out = tmp_path / "out[final].mp4"  # which is no markup
    done = sdstream(
        "render",
        str(film),
        str(out),
        "--skip-diffusion",
        "--width",
        "512",
        "--height",
        "384",
        environment=environment(tmp_path),
        seconds=250,
    )
    assert done.returncode == 0, done.stderr
    with VideoReader(out) as reader:
        pictures = list(reader.pictures())
    assert [read_stamp(picture.y) for picture in pictures] == list(range(len(TIMES)))
    assert [picture.pts * picture.time_base for picture in pictures] == [Fraction(time, 25) for time in TIMES]
    assert {str(picture.size) for picture in pictures} == {"512x384"}
    assert sound_packets(out) == sound_packets(film)
    assert "20 pictures of 512x384" in done.stderr
    assert done.stderr.endswith(f"{out}\n")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out[final].mp4"]


@pytest.mark.slow
def test_a_container_that_refuses_the_sound_gets_it_encoded_anew(film: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.webm"
    done = sdstream("render", str(film), str(out), "--skip-diffusion", environment=environment(tmp_path), seconds=250)
    assert done.returncode == 0, done.stderr
    assert "sound was encoded anew as libopus" in done.stderr
    with av.open(str(out)) as container:
        heard = sum(frame.samples for frame in container.decode(audio=0))
    assert 47000 <= heard <= 51000
    with VideoReader(out) as reader:
        assert len(list(reader.pictures())) == len(TIMES)


@pytest.mark.slow
@pytest.mark.timeout(900)  # three processes that import diffusers, which a busy machine makes long
def test_a_film_is_diffused_the_same_each_time_and_each_picture_has_its_own_at_once_or_not(tmp_path: Path) -> None:
    import torch

    from sdstream.diffusion.tiny import write_tiny_model
    from sdstream.worker import colour
    from sdstream.worker.pipelines import make_pipeline

    torch.set_num_threads(1)
    times = TIMES[: len(TIMES) // 2]
    film = write_film(tmp_path / "film.mp4", times)
    model = tmp_path / "model"
    write_tiny_model(model, "sd-turbo", width=16)
    models = json.dumps({"stabilityai/sd-turbo": str(model)})
    wanted: dict[str, Any] = {"width": 384, "height": 384, "t_index_list": [20, 35], "prompt": "the cat", "seed": 3}
    wanted["enable_similar_image_filter"] = True  # which has no say in a file
    (tmp_path / "params.json").write_text(json.dumps(wanted))
    films: list[list[Any]] = []
    for name, at_once in (("one.mp4", 1), ("two.mp4", 1), ("at_once.mp4", 3)):
        done = sdstream(
            *("render", str(film), str(tmp_path / name), "--params", str(tmp_path / "params.json"), "--quality", "0"),
            *("--at-once", str(at_once)),
            environment=environment(tmp_path) | {"SDSTREAM_MODELS": models},
            seconds=250,
        )
        assert done.returncode == 0, done.stderr
        with VideoReader(tmp_path / name) as reader:
            films.append(list(reader.pictures()))
    one, two, at_once = films
    assert [picture.pts * picture.time_base for picture in one] == [Fraction(time, 25) for time in times]
    assert all(
        numpy.array_equal(a, b) for x, y in zip(one, two, strict=True) for a, b in zip(x.planes, y.planes, strict=True)
    )
    for alone, together in zip(one, at_once, strict=True):
        assert alone.pts == together.pts
        assert numpy.abs(alone.y.astype(int) - together.y).max() <= 2  # batches of other sizes round otherwise
    # The twin that denoises one picture after another gives each at once, so it tells which one belongs where.
    settings = Settings.model_validate({"models": models})
    table = ModelTable.from_settings(settings)
    params = make_job(film, tmp_path / "x.mp4", wanted | {"use_denoising_batch": False}, 18, settings).params
    cpu = torch.device("cpu")
    pipeline = make_pipeline(params, cpu, lambda detail, percent: None, table)
    with VideoReader(film) as reader:
        for index, (source, made) in enumerate(zip(reader.pictures(), one, strict=True)):
            if index % 5 > 1:
                continue  # some, for the time they take
            packed = numpy.empty(384 * 384 * 3 // 2, numpy.uint8)
            colour.download(pipeline.process(colour.upload(source, params.output_size, cpu)), packed)
            luma = packed[: 384 * 384].reshape(384, 384)
            assert numpy.abs(luma.astype(int) - made.y).max() <= 2, f"picture {index}"


@pytest.mark.slow
def test_without_a_model_it_says_so_and_leaves_nothing(film: Path, tmp_path: Path) -> None:
    done = sdstream("render", str(film), str(tmp_path / "out.mp4"), environment=environment(tmp_path), seconds=250)
    assert done.returncode == 1
    assert "skip_diffusion" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_leaves_no_half_file(number: int, film: Path, tmp_path: Path) -> None:
    long_film = tmp_path / "long.mp4"
    loops = ["ffmpeg", "-v", "error", "-stream_loop", "200", "-i", str(film), "-c", "copy", str(long_film)]
    try:
        subprocess.run(loops, check=True)
    except FileNotFoundError:
        pytest.skip("ffmpeg is not installed")
    folder = tmp_path / "out"
    folder.mkdir()
    arguments = ["render", str(long_film), str(folder / "out.mp4"), "--skip-diffusion"]
    with started(*arguments, environment=environment(tmp_path)) as process:
        eventually_sync(
            lambda: sum(entry.stat().st_size for entry in folder.iterdir()) or None, seconds=60, what="a growing file"
        )
        process.send_signal(number)
        _, said = process.communicate(timeout=40)
    assert process.returncode == 130
    assert "Traceback" not in said
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ((1280, 720), "1024x576"),
        ((1920, 1080), "1024x576"),
        ((640, 480), "768x576"),
        ((512, 512), "512x512"),
        ((176, 144), "704x576"),
        ((640, 272), "896x384"),
        ((1080, 1920), "576x1024"),
        ((4000, 100), "1024x384"),
    ],
)
def test_the_size_has_the_aspect_of_the_file(source: tuple[int, int], expected: str) -> None:
    assert str(fit_size(*source)) == expected


def test_a_side_that_was_asked_for_is_kept() -> None:
    assert str(fit_size(1280, 720, fixed_width=512)) == "512x384"
    assert fit_size(1280, 720, fixed_height=576).height == 576


def test_flags_beat_the_file_of_parameters(tmp_path: Path) -> None:
    file = tmp_path / "params.json"
    file.write_text(json.dumps({"params": {"prompt": "of the file", "seed": 1}}))
    wanted = collect_params(
        file, {"prompt": "of the flag", "seed": None}, FACTS, skip_diffusion=True, processors="blur, canny"
    )
    assert (wanted["prompt"], wanted["seed"], wanted["skip_diffusion"]) == ("of the flag", 1, True)
    assert wanted["image_postprocessing"] == {"processors": [{"type": "blur"}, {"type": "canny"}]}
    assert (wanted["width"], wanted["height"]) == (768, 576)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"width": 100}, "width"),
        ({"model_id": "no/such"}, "no/such"),
        ({"image_postprocessing": {"processors": [{"type": "blr"}]}}, "blur"),
    ],
)
def test_wrong_parameters_are_named(wanted: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        make_job(Path("in.mp4"), Path("out.mp4"), {"skip_diffusion": True} | wanted, 18, Settings())


@pytest.mark.parametrize("content", ["[]", "{", ""])
def test_a_file_of_parameters_that_is_none_is_told(content: str, tmp_path: Path) -> None:
    file = tmp_path / "params.json"
    file.write_text(content)
    with pytest.raises(ConfigurationError, match="--params"):
        collect_params(file, {}, FACTS, skip_diffusion=True, processors=None)


def test_files_that_are_no_video_are_told(tmp_path: Path) -> None:
    text = tmp_path / "text.mp4"
    text.write_text("no video")
    for path in (text, tmp_path / "absent.mp4"):
        with pytest.raises(CommandFailed, match="cannot open"):
            VideoReader(path)


def test_an_output_that_exists_is_not_touched(film: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    out.write_text("precious")
    done = sdstream("render", str(film), str(out), "--skip-diffusion", environment=environment(tmp_path))
    assert done.returncode == 2
    assert "--overwrite" in done.stderr
    assert out.read_text() == "precious"


def test_a_turned_film_is_read_upright(film: Path, tmp_path: Path) -> None:
    turned = tmp_path / "turned.mp4"
    command = ["ffmpeg", "-v", "error", "-i", str(film), "-c", "copy", "-metadata:s:v", "rotate=180", str(turned)]
    try:
        subprocess.run(command, check=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("no ffmpeg that writes the rotation of a film")
    with VideoReader(turned) as reader:
        picture = next(reader.pictures())
    if read_stamp(picture.y) is not None:
        pytest.skip("this ffmpeg did not write the rotation")
    assert read_stamp(numpy.ascontiguousarray(picture.y[::-1, ::-1])) == 0


def test_a_processor_that_cannot_work_is_named_and_leaves_no_file(film: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.mp4"
    done = sdstream(
        *("render", str(film), str(target), "--skip-diffusion", "--processors", "hed", "--at-once", "2"),
        environment=environment(tmp_path / "data", offline="true", worker_spare="false"),
    )
    assert done.returncode == 1
    assert "`sdstream models pull --for hed` fetches weights." in done.stderr
    assert not target.exists()
