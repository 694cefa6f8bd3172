"""HLS: playable at once, in step, bounded, and made only while somebody asks."""

import asyncio
import io
import re
import shutil
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import av
import pytest

from sdstream.clock import ManualClock
from sdstream.frames import PictureSize
from sdstream.media.embedded import EmbeddedMedia, distribution
from sdstream.media.embedded.encoding import PictureEncoder
from sdstream.media.embedded.outputs import hls
from sdstream.media.embedded.outputs.fragments import Fragment, FragmentMuxer, Head
from sdstream.media.embedded.outputs.playlist import KEPT, LISTED, SegmentWindow
from sdstream.media.embedded.outputs.units import PictureUnit
from sdstream.media.ports import MediaStream, Placard
from tests.media.conftest import SIZE
from tests.media.flash import RATE, DelayedEcho, FlashingCamera, clock, onsets_of
from tests.media.probe import rate_of, streams_of
from tests.support.waiting import eventually

CLOSE = 0.04


@pytest.fixture
async def delayed(media: EmbeddedMedia) -> DelayedEcho:
    echo = DelayedEcho(0.02)
    echo.stream = await media.open_stream("stream", SIZE, echo)
    return echo


async def save(stream: MediaStream, folder: Path, seen: set[str]) -> str:
    """Fetch the playlist and what it names that is not in `folder` yet; the playlist."""
    playlist = await stream.hls_file("stream.m3u8")
    assert playlist is not None
    text = playlist.data.decode()
    for name in re.findall(r'^[^#].*\.m4s$|(?<=URI=")[^"]+', text, re.MULTILINE):
        if name not in seen:
            file = await stream.hls_file(name)
            assert file is not None, name
            (folder / name).write_bytes(file.data)
            seen.add(name)
    return text


def joined(folder: Path, names: set[str]) -> Path:
    """One file of the first head and all segments in order."""
    segments = sorted(
        (name for name in names if name.endswith(".m4s")), key=lambda name: int(re.findall(r"\d+", name)[0])
    )
    heads = sorted(name for name in names if name.endswith(".mp4"))
    target = folder / "joined.mp4"
    target.write_bytes(b"".join((folder / name).read_bytes() for name in (heads[0], *segments)))
    return target


@pytest.mark.slow
@pytest.mark.alone
async def test_hls_plays_in_step_while_the_latency_jumps(delayed: DelayedEcho, tmp_path: Path) -> None:
    stream = delayed.stream
    assert stream is not None
    async with FlashingCamera(stream):
        asked = clock.monotonic()
        index = await stream.hls_file("index.m3u8")
        waited = clock.monotonic() - asked
        assert index is not None
        assert waited < 3
        assert stream.statistics().hls_active
        seen: set[str] = set()
        text = ""
        # The last step is long enough for pictures to be shown again before the next one comes.
        for delay in (0.02, 0.4, 0.02, 0.8):
            delayed.delay = delay
            segments = len(seen)
            while len(seen) < segments + 2:
                text = await save(stream, tmp_path, seen)
                await asyncio.sleep(0.2)
    flashes, beeps = onsets_of(joined(tmp_path, seen))
    # The first beeps lie before the first sender reports.
    apart = [min((flash - beep for beep in beeps), key=abs) for flash in flashes if 1.5 < flash < max(beeps)]
    assert len(apart) >= 3
    assert max(map(abs, apart)) < CLOSE, apart
    durations = [float(value) for value in re.findall(r"#EXTINF:([\d.]+),", text)]
    target = int(re.findall(r"#EXT-X-TARGETDURATION:(\d+)", text)[0])
    assert all(round(duration) <= target for duration in durations)
    assert "#EXT-X-INDEPENDENT-SEGMENTS" in text
    if shutil.which("ffprobe") is not None:
        (tmp_path / "index.m3u8").write_bytes(index.data)
        (tmp_path / "stream.m3u8").write_text(text + "#EXT-X-ENDLIST\n")
        facts = streams_of(tmp_path / "index.m3u8")
        assert {item["codec_name"] for item in facts} == {"h264", "aac"}
        video = next(item for item in facts if item["codec_name"] == "h264")
        assert (video["width"], video["height"]) == (SIZE.width, SIZE.height)
        assert rate_of(tmp_path / "stream.m3u8") == pytest.approx(RATE, rel=0.01)
        said = re.findall(r"RESOLUTION=(\d+)x(\d+)", index.data.decode())[0]
        assert said == (str(SIZE.width), str(SIZE.height))


@pytest.mark.alone
async def test_hls_is_made_only_while_somebody_asks(delayed: DelayedEcho, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = delayed.stream
    assert stream is not None
    stream.send_placard(Placard("Waiting"))
    assert await stream.hls_file("segment-0.m4s") is None
    assert not stream.statistics().hls_active
    assert await stream.hls_file("index.m3u8") is not None
    with monkeypatch.context() as patched:
        patched.setattr(hls, "IDLE_SECONDS", 0.5)
        await eventually(lambda: not stream.statistics().hls_active)
    await eventually(lambda: stream.statistics().video_bitrate is None, what="the end of the encoder")
    encoded = stream.statistics().frames_encoded
    await asyncio.sleep(0.7)  # a placard would be repeated after half a second
    assert stream.statistics().frames_encoded == encoded
    again = await stream.hls_file("stream.m3u8")
    assert again is not None
    assert b"DISCONTINUITY-SEQUENCE:1\n" in again.data, "players that were there before are told of the pause"


def fragment(head: Head, seconds: float = 1.0, size: int = 1000) -> Fragment:
    return Fragment(head, bytes(size), seconds, 30)


HEADS = [Head(number, b"head", PictureSize(384, 384 + 64 * number), "avc1.42c01f,mp4a.40.2") for number in range(3)]


def test_the_window_is_bounded_and_its_numbers_never_turn_back() -> None:
    window = SegmentWindow()
    before = -1
    for number in range(50):
        window.append(fragment(HEADS[0]), datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number))
        text = window.media_playlist()
        sequence = int(re.findall(r"MEDIA-SEQUENCE:(\d+)", text)[0])
        assert sequence >= before
        assert text.count("#EXTINF") == min(number + 1, LISTED)
        before = sequence
    assert len(window) == LISTED + KEPT
    assert window.find(f"segment-{50 - LISTED - KEPT}.m4s") is not None
    assert window.find(f"segment-{49 - LISTED - KEPT}.m4s") is None


def test_a_change_of_size_is_a_discontinuity_with_a_head_of_its_own() -> None:
    window = SegmentWindow()
    for number in range(30):
        window.append(fragment(HEADS[number // 10]), datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=number))
        text = window.media_playlist()
        breaks = text.count("#EXT-X-DISCONTINUITY\n")
        gone = int(re.findall(r"DISCONTINUITY-SEQUENCE:(\d+)", text)[0])
        assert breaks + gone == number // 10
        assert text.splitlines()[6].startswith(("#EXT-X-MAP", "#EXT-X-DISCONTINUITY"))
    assert window.find(window.head_name(HEADS[2])) == b"head"
    assert "RESOLUTION=384x512" in window.multivariant_playlist()


async def test_hls_that_begins_again_has_other_names_and_later_numbers() -> None:
    time = ManualClock()
    playlists: list[str] = []
    output: hls.HlsOutput | None = None
    for _ in range(2):
        output = hls.HlsOutput(time, 0 if output is None else output.breaks + 1)
        for _ in range(40):
            time.advance(0.5)  # as often as keyframes are made on demand
            output.take_fragment(fragment(HEADS[time.monotonic() > 1015], 0.5))
        playlist = await output.file("stream.m3u8")
        assert playlist is not None
        playlists.append(playlist.data.decode())
    assert output is not None
    for name in re.findall(r'^[^#].*\.m4s$|(?<=URI=")[^"]+', playlists[1], re.MULTILINE):
        assert name not in playlists[0]
        assert await output.file(name) is not None
    for counter in ("MEDIA-SEQUENCE", "DISCONTINUITY-SEQUENCE"):
        before, after = (int(re.findall(rf"{counter}:(\d+)", text)[0]) for text in playlists)
        assert before < after < 2**31
    assert re.findall(r"DISCONTINUITY-SEQUENCE:(\d+)", playlists[1]) == ["2"], "the change of heads, and the pause"


def test_a_new_size_begins_with_a_head_of_its_own() -> None:
    made: list[Fragment] = []

    class Sink:
        def take_fragment(self, fragment: Fragment) -> None:
            made.append(fragment)

    muxer = FragmentMuxer()
    muxer.add(Sink())
    sizes = (PictureSize(384, 384), PictureSize(448, 384), PictureSize(384, 384))
    for part, size in enumerate(sizes):
        encoder = PictureEncoder("H264", size, 300_000)
        for number in range(10):
            time = (part * 10 + number) * 3600
            picture = encoder.encode(av.VideoFrame(size.width, size.height, "yuv420p"), time, keyframe=number % 5 == 0)
            assert picture is not None
            muxer.take(PictureUnit(picture.data, time, picture.keyframe, size))
    muxer.finish()
    assert [fragment.head.number for fragment in made] == [1, 1, 2, 2, 3, 3]
    assert [fragment.head.size for fragment in made[::2]] == list(sizes)
    assert [fragment.pictures for fragment in made] == [5] * 6
    assert sum(fragment.seconds for fragment in made) == pytest.approx(30 * 0.04, abs=0.03)
    for fragment in made:
        with av.open(io.BytesIO(fragment.head.data + fragment.data), "r") as container:
            assert len(list(container.decode(video=0))) == 5


async def test_outputs_work_once_there_is_a_thread_for_them_again(
    media: EmbeddedMedia, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    echo = DelayedEcho(0.02)
    stream = echo.stream = await media.open_stream("stream", SIZE, echo)
    stream.send_placard(Placard("Hello"))
    before = set(threading.enumerate())
    with monkeypatch.context() as patched:
        patched.setattr(distribution, "Broadcast", refuse)
        with pytest.raises(RuntimeError):
            await stream.hls_file("index.m3u8")
        with pytest.raises(RuntimeError):
            stream.record_to(tmp_path / "20260101-000000.mp4")
    assert stream.statistics().recording is None
    await eventually(lambda: set(threading.enumerate()) <= before, what="the end of the threads")
    assert await stream.hls_file("index.m3u8") is not None
