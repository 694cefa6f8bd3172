"""The recordings, on disk and in the bucket: where each goes, which there are, and which must go for age or size."""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import structlog

from sdstream.clock import Clock
from sdstream.errors import Conflict, NotFound, RecordingsUnavailable, SdstreamError
from sdstream.settings import Settings
from sdstream.streams.recording_bucket import Download, RecordingBucket, StoredObject

FOLDER = "recordings"
TEND_SECONDS = 60.0
TEND_BUCKET_SECONDS = 600.0
"""The same with a bucket, whose lists cost something."""
MOVE_SECONDS = 5.0
"""How often is looked for recordings to be moved into the bucket."""
LONGEST_PAUSE = 600.0
MOST_REMEMBERED = 1000
"""Streams whose last recording's name is remembered: its file is made a moment later."""
_NAME = re.compile(r"[0-9]{8}-[0-9]{6}(-[0-9]{1,6}){0,2}\.mp4")
_PARTIAL = ".recording"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Recording:
    """One file. `finished` says that it is whole; one that is being written cannot be fetched yet.

    `path` is None where it lies in the bucket.
    """

    stream_id: str
    name: str
    path: Path | None
    started_at: datetime
    byte_count: int
    finished: bool


class RecordingShelf:
    """The folder of recordings, one folder in it for each stream, and the bucket to which whole ones are moved.

    `on_moved` is told of each that was moved, or, once for each, why it could not be: it stays and is tried again.
    """

    def __init__(
        self,
        data_dir: Path,
        settings: Settings,
        clock: Clock,
        on_moved: Callable[[str, str, str | None], None] = lambda stream_id, name, problem: None,
    ) -> None:
        self.folder = data_dir / FOLDER
        self._bucket = RecordingBucket.from_settings(settings)
        self._on_moved = on_moved
        self._complained: set[str] = set()
        self._settings = settings
        self._clock = clock
        self._given: dict[str, tuple[str, int]] = {}
        """The last name each stream was given: its second, and how many were given in it before."""
        self._tasks: list[asyncio.Task[None]] = []

    def start(self, finish: Callable[[Path], Awaitable[int]]) -> None:
        """Have what a killed server left made whole by `finish`, then look each minute for recordings that must go."""
        self._tasks = [asyncio.create_task(self._tend(finish), name="recordings")]
        if self._bucket is not None:
            self._tasks.append(asyncio.create_task(self._move_all(), name="recordings to the bucket"))

    async def close(self) -> None:
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def new_file(self, stream_id: str) -> Path:
        """A free name for a recording that begins now; its folder is made. Raises `OSError` when the disk refuses."""
        stem = self._clock.now().strftime("%Y%m%d-%H%M%S")
        before, given = self._given.get(stream_id, ("", 0))
        number = given + 1 if before == stem else 0
        self._given[stream_id] = stem, number
        while len(self._given) > MOST_REMEMBERED:
            del self._given[next(iter(self._given))]
        return await asyncio.to_thread(_new_file, self.folder / stream_id, stem, number)

    async def list(self, stream_id: str) -> list[Recording]:
        """The recordings of a stream, oldest first. Raises `RecordingsUnavailable` when the bucket does not answer."""
        return await asyncio.to_thread(_list_both, self.folder / stream_id, self._bucket)

    async def find(self, stream_id: str, name: str) -> Recording:
        """A whole recording. Raises `NotFound`, `RecordingsUnavailable`, or `Conflict` while it is being written."""
        if _NAME.fullmatch(name):
            for recording in await self.list(stream_id):
                if recording.name == name:
                    if not recording.finished:
                        raise Conflict("This recording is still being written.")
                    return recording
        raise NotFound("There is no such recording.")

    async def delete(self, stream_id: str, name: str) -> None:
        """Raises `NotFound`, or `Conflict` while it is being written."""
        recording = await self.find(stream_id, name)
        await asyncio.to_thread(self._remove, recording)

    async def download(self, recording: Recording, byte_range: str | None) -> Download:
        """Begin to read one that lies in the bucket; `byte_range` is a Range header. Raises as `find` does."""
        assert self._bucket is not None
        return await asyncio.to_thread(self._bucket.get, recording.stream_id, recording.name, byte_range)

    async def move(self) -> bool:
        """Move each whole recording into the bucket, oldest first; whether one failed, behind which none is tried."""
        bucket = self._bucket
        assert bucket is not None
        for recording in await asyncio.to_thread(_list_all, self.folder):
            path, key = recording.path, f"{recording.stream_id}/{recording.name}"
            if path is None or not recording.finished:
                continue
            try:
                await asyncio.to_thread(bucket.put, recording.stream_id, path)
                await asyncio.to_thread(_unlink, path)
            except (RecordingsUnavailable, NotFound, OSError) as error:
                if key not in self._complained:
                    self._complained.add(key)
                    problem = error.message if isinstance(error, SdstreamError) else str(error)
                    self._on_moved(recording.stream_id, recording.name, problem)
                return True
            self._complained.discard(key)
            self._on_moved(recording.stream_id, recording.name, None)
        return False

    async def prune(self) -> None:
        """Remove what is too old or, oldest first, too much."""
        await asyncio.to_thread(self._prune)

    def _prune(self) -> None:
        recordings = _list_all(self.folder)
        if self._bucket is not None:
            recordings += _stored(self._bucket.objects())
        settings = self._settings
        for recording in choose_expired(
            recordings, self._clock.now(), settings.recording_max_days, settings.recording_max_bytes
        ):
            log.info("recording removed", stream_id=recording.stream_id, name=recording.name)
            with contextlib.suppress(OSError):
                self._remove(recording)

    def _remove(self, recording: Recording) -> None:
        if recording.path is not None:
            _unlink(recording.path)
        if self._bucket is not None:  # also behind a file that is here: it may have been stored just now
            self._bucket.remove(recording.stream_id, recording.name)

    async def _move_all(self) -> None:
        """Move what is whole, over and over; after a failure with growing pauses."""
        pause = MOVE_SECONDS
        while True:
            try:
                failed = await self.move()
            except OSError as error:
                log.warning("recordings cannot be looked through", error=str(error))
                failed = True
            pause = min(2 * pause, LONGEST_PAUSE) if failed else MOVE_SECONDS
            await asyncio.sleep(pause)

    async def _tend(self, finish: Callable[[Path], Awaitable[int]]) -> None:
        count = await finish(self.folder)
        if count:
            log.info("recordings of an earlier run were made whole", count=count)
        while True:
            try:
                await self.prune()
            except (OSError, RecordingsUnavailable) as error:
                log.warning("recordings cannot be looked through", error=str(error))
            await asyncio.sleep(TEND_SECONDS if self._bucket is None else TEND_BUCKET_SECONDS)


def choose_expired(recordings: Sequence[Recording], now: datetime, max_days: float, max_bytes: int) -> list[Recording]:
    """Which whole recordings must go: those older than `max_days`, then the oldest until `max_bytes` hold the rest."""
    oldest_first = sorted(recordings, key=lambda recording: (recording.started_at, _order(recording.name)))
    expired: list[Recording] = []
    rest: list[Recording] = []
    for recording in oldest_first:
        days = (now - recording.started_at).total_seconds() / 86400
        (expired if recording.finished and days > max_days else rest).append(recording)
    held = sum(recording.byte_count for recording in rest)
    for recording in rest:
        if held <= max_bytes:
            break
        if recording.finished:
            expired.append(recording)
            held -= recording.byte_count
    return expired


def _new_file(folder: Path, stem: str, number: int) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    taken = {_final_name(path) for path in folder.iterdir()}
    names = [f"{stem}.mp4", *(f"{stem}-{1000 + count}.mp4" for count in range(number + len(taken) + 1))]
    return folder / next(name for name in names[number:] if name not in taken)


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir()) if folder.is_dir() else []


def _list(folder: Path) -> list[Recording]:
    found: list[Recording] = []
    entries = (path for path in folder.iterdir() if _is_name(_final_name(path))) if folder.is_dir() else ()
    for path in sorted(entries, key=lambda path: _order(_final_name(path))):
        name = _final_name(path)
        if path.suffix not in (".mp4", _PARTIAL):
            continue
        with contextlib.suppress(OSError):  # removed meanwhile
            size = path.stat().st_size
            found.append(Recording(folder.name, name, path, _started_at(name), size, path.suffix == ".mp4"))
    return found


def _final_name(path: Path) -> str:
    return path.name.removesuffix(_PARTIAL)


def _list_all(folder: Path) -> list[Recording]:
    return [item for below in _folders(folder) for item in _list(below)]


def _list_both(folder: Path, bucket: RecordingBucket | None) -> list[Recording]:
    here = _list(folder)
    if bucket is None:
        return here
    names = {recording.name for recording in here}
    there = [item for item in _stored(bucket.objects(folder.name)) if item.name not in names]
    return sorted(here + there, key=lambda recording: _order(recording.name))


def _stored(objects: Sequence[StoredObject]) -> list[Recording]:
    """What lies in the bucket, without what others may have put there."""
    return [
        Recording(item.stream_id, item.name, None, _started_at(item.name), item.byte_count, True)
        for item in objects
        if _is_name(item.name)
    ]


def _is_name(name: str) -> bool:
    """Whether a recording has such a name; what others put beside them need not have a date in it."""
    if not _NAME.fullmatch(name):
        return False
    try:
        _started_at(name)
    except ValueError:
        return False
    return True


def _order(name: str) -> tuple[int, ...]:
    """Sorts recordings of a stream by their age: in one second by the number, and behind it the parts of one."""
    return tuple(int(part) for part in name.removesuffix(".mp4").split("-"))


def _started_at(name: str) -> datetime:
    return datetime.strptime(name[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC)


def _unlink(path: Path) -> None:
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        path.parent.rmdir()  # the last one takes its folder along


__all__ = ["FOLDER", "Recording", "RecordingShelf", "choose_expired"]
