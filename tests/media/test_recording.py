"""Recordings: whole after any end, bounded by the disk, and never in the way of the stream."""

import errno
import itertools
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import av
import pytest

from sdstream.clock import ManualClock
from sdstream.frames import PictureSize
from sdstream.media.embedded import EmbeddedMedia
from sdstream.media.embedded.outputs.fragments import Fragment, FragmentMuxer
from sdstream.media.embedded.outputs.recorder import MOST_WAITING, PARTIAL, Recorder, finalise_all, find_unfinished
from sdstream.media.embedded.outputs.units import PictureUnit
from sdstream.streams.recordings import Recording, RecordingShelf, choose_expired
from tests.media.clients import make_settings
from tests.media.conftest import SIZE
from tests.media.flash import RATE, DelayedEcho, FlashingCamera, FlashViewer, film, onsets_of
from tests.support.waiting import eventually


@pytest.fixture
async def delayed(media: EmbeddedMedia) -> DelayedEcho:
    echo = DelayedEcho(0.02)
    echo.stream = await media.open_stream("stream", SIZE, echo)
    return echo


def fragments(count: int) -> list[Fragment]:
    """Fragments of one flash period each."""
    made: list[Fragment] = []

    class Sink:
        def take_fragment(self, fragment: Fragment) -> None:
            made.append(fragment)

    muxer = FragmentMuxer()
    muxer.add(Sink())
    pictures = film()
    for index in range(count * len(pictures)):
        picture = pictures[index % len(pictures)]
        muxer.take(PictureUnit(picture.data, index * 90_000 // RATE, picture.keyframe, PictureSize(384, 384)))
    muxer.finish()
    return made


def seconds_of(file: Path) -> float:
    with av.open(str(file)) as container:
        times = [float(packet.pts * packet.time_base) for packet in container.demux(video=0) if packet.pts is not None]
    return max(times) - min(times)


@pytest.mark.alone
async def test_a_recording_is_a_plain_file_in_step(delayed: DelayedEcho, tmp_path: Path) -> None:
    stream = delayed.stream
    assert stream is not None
    file = tmp_path / "20260101-000000.mp4"
    async with FlashingCamera(stream), FlashViewer(stream) as viewer:
        await eventually(lambda: len(viewer.beeps) >= 2)
        stream.record_to(file)
        await eventually(lambda: (facts := stream.statistics().recording) is not None and facts.seconds >= 2)
        stream.record_to(None)
        await eventually(file.exists)
        await eventually(lambda: not file.with_name(file.name + PARTIAL).exists())
    assert delayed.recordings == [(file.name, None)]
    flashes, beeps = onsets_of(file)
    apart = [min((flash - beep for beep in beeps), key=abs) for flash in flashes if 0.1 < flash < max(beeps)]
    assert apart
    assert max(map(abs, apart)) < 0.04
    boxes = file.read_bytes()
    assert boxes.find(b"moov") < boxes.find(b"mdat"), "the index lies in front, so that a player can start at once"
    assert b"moof" not in boxes


def test_what_a_killed_process_recorded_plays_to_the_last_second(tmp_path: Path) -> None:
    program = textwrap.dedent(
        """
        import sys, time
        from pathlib import Path
        from sdstream.media.embedded.outputs.recorder import Recorder
        from tests.media.test_recording import fragments
        recorder = Recorder(Path(sys.argv[1]), print, 0)
        for fragment in fragments(6):
            recorder.take_fragment(fragment)
        while recorder.statistics().seconds < 3:
            time.sleep(0.01)
        print("recorded", flush=True)
        time.sleep(60)
        """
    )
    file = tmp_path / "stream" / "20260101-000000.mp4"
    file.parent.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", program, str(file)], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == "recorded"
        process.kill()
    partial = file.with_name(file.name + PARTIAL)
    partial.write_bytes(partial.read_bytes() + fragments(1)[0].data[:700])  # the kill came within a write
    assert seconds_of(partial) > 2.4, "it plays as it is"
    assert finalise_all(find_unfinished(tmp_path)) == 1
    assert seconds_of(file) > 2.4
    assert list(tmp_path.rglob("*")) == [file.parent, file]


def test_a_full_disk_stops_the_recording_and_keeps_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = itertools.chain([10_000_000, 10_000_000], itertools.repeat(1000))
    usage: Any = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=next(free)))
    problems: list[str | None] = []
    file = tmp_path / "20260101-000000.mp4"
    recorder = Recorder(file, problems.append, least_free=5000)
    for fragment in fragments(4):
        recorder.take_fragment(fragment)
    assert recorder.join(30)
    assert problems == ["the disk refuses to be written: the disk is nearly full"]
    assert seconds_of(file) == pytest.approx(1.16, abs=0.02)


def test_a_recording_is_made_whole_only_where_its_copy_leaves_free_what_must_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage: Any = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=20_000))
    made = fragments(6)
    least_free = 20_000 - max(len(fragment.data) for fragment in made)
    problems: list[str | None] = []
    file = tmp_path / "20260101-000000.mp4"
    recorder = Recorder(file, problems.append, least_free)
    for fragment in made:
        recorder.take_fragment(fragment)
    recorder.stop()
    assert recorder.join(30)
    assert problems == [None]
    assert b"moof" in file.read_bytes(), "it plays as it is"
    assert seconds_of(file) > 2.4
    unfinished = file.with_name("20260101-000001.mp4" + PARTIAL)
    for least, is_whole in ((least_free, False), (0, True)):
        shutil.copy(file, unfinished)
        assert finalise_all([unfinished], least) == 1
        assert (b"moof" not in (tmp_path / "20260101-000001.mp4").read_bytes()) == is_whole
    short = file.with_name("20260101-000002.mp4" + PARTIAL)
    short.write_bytes(made[0].head.data + made[0].data)
    assert short.stat().st_size < 4096
    assert finalise_all([short], 20_000) == 1, "it is short, but there is nothing wrong with it"


async def test_a_recording_that_stops_leaves_the_stream_alone(
    delayed: DelayedEcho, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = delayed.stream
    assert stream is not None
    usage: Any = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=0))
    async with FlashingCamera(stream), FlashViewer(stream) as viewer:
        stream.record_to(tmp_path / "20260101-000000.mp4")
        await eventually(lambda: len(delayed.recordings) == 2)
        name, problem = delayed.recordings[1]
        assert name == "20260101-000000.mp4"
        assert problem is not None
        assert stream.statistics().recording is None
        seen = len(viewer.flashes)
        await eventually(lambda: len(viewer.flashes) > seen)


def test_a_slow_disk_stops_the_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers = threading.Event()
    usage: Any = shutil.disk_usage(tmp_path)

    def hang(path: Path) -> Any:
        answers.wait(60)
        return usage

    monkeypatch.setattr(shutil, "disk_usage", hang)
    problems: list[str | None] = []
    recorder = Recorder(tmp_path / "20260101-000000.mp4", problems.append, 0)
    made = fragments(2)
    for _ in range(MOST_WAITING + 2):
        recorder.take_fragment(made[0])
    answers.set()
    assert recorder.join(30)
    assert problems == ["the disk is too slow"]


async def test_a_recording_that_cannot_be_given_its_name_ends_and_says_so(delayed: DelayedEcho, tmp_path: Path) -> None:
    stream = delayed.stream
    assert stream is not None
    file = tmp_path / "20260101-000000.mp4"
    (file / "in the way").mkdir(parents=True)
    async with FlashingCamera(stream):
        stream.record_to(file)
        await eventually(lambda: (facts := stream.statistics().recording) is not None and facts.seconds > 0)
        stream.record_to(None)
        await eventually(lambda: len(delayed.recordings) == 2)
        name, problem = delayed.recordings[1]
        assert (name, problem) == (file.name, f"the disk refuses to be written: {os.strerror(errno.EISDIR)}")
        await eventually(lambda: stream.statistics().video_bitrate is None, what="the end of the encoder")
    assert find_unfinished(tmp_path) == [file.with_name(file.name + PARTIAL)], "for the next start"


DAY = datetime(2026, 3, 1, tzinfo=UTC)


def recording(days: float, size: int, *, finished: bool = True) -> Recording:
    return Recording("str_1", f"{days}", Path("x"), DAY - timedelta(days=days), size, finished)


async def test_recordings_of_one_second_and_their_parts_are_listed_by_age(tmp_path: Path) -> None:
    shelf = RecordingShelf(tmp_path, make_settings(), ManualClock())
    stems = ["", "-2", "-10", "-1000", "-1000-2", "-1001"]
    names = ["20260102-030404.mp4", *(f"20260102-030405{stem}.mp4" for stem in stems)]
    (shelf.folder / "str_1").mkdir(parents=True)
    for name in [*reversed(names), "99999999-999999.mp4"]:
        (shelf.folder / "str_1" / name).write_bytes(bytes(10))
    held = await shelf.list("str_1")
    assert [recording.name for recording in held] == names
    expired = choose_expired(held[::-1], held[0].started_at, max_days=1, max_bytes=50)
    assert [recording.name for recording in expired] == names[:2]


def test_the_oldest_go_first_and_none_that_is_being_written() -> None:
    held = [recording(9, 10), recording(3, 10), recording(2, 10, finished=False), recording(1, 10)]
    expired = choose_expired(held, DAY, max_days=7, max_bytes=15)
    assert [item.name for item in expired] == ["9", "3", "1"]
    assert choose_expired(held, DAY, max_days=30, max_bytes=40) == []


def test_ten_thousand_old_recordings_are_chosen_without_comparing_each_with_each() -> None:
    class Uncompared(Recording):
        def __eq__(self, other: object) -> bool:
            raise AssertionError("compared")

        __hash__ = None  # type: ignore[assignment]

    held = [
        Uncompared("str_1", f"20260101-00000{number}.mp4", None, DAY - timedelta(days=9), 10, True)
        for number in range(3)
    ]
    assert len(choose_expired(held, DAY, max_days=7, max_bytes=10)) == 3


def test_recordings_may_be_kept_for_longer_than_there_are_dates() -> None:
    held = [Recording("str_1", "20260101-000000.mp4", None, DAY - timedelta(days=9), 10, True)]
    assert choose_expired(held, DAY, max_days=1e12, max_bytes=10) == []


async def test_the_shelf_gives_names_lists_and_prunes(tmp_path: Path) -> None:
    clock = ManualClock()
    shelf = RecordingShelf(tmp_path, make_settings(recording_max_days=1.0), clock)
    first, second = await shelf.new_file("str_1"), await shelf.new_file("str_1")
    assert second != first, "though neither is there yet"
    first.write_bytes(b"a")
    second.with_name(second.name + PARTIAL).write_bytes(b"bc")
    listed = await shelf.list("str_1")
    assert [(item.name, item.finished, item.byte_count) for item in listed] == [
        (first.name, True, 1),
        (second.name, False, 2),
    ]
    clock.advance(2 * 86_400)
    await shelf.prune()
    assert [item.name for item in await shelf.list("str_1")] == [second.name]
