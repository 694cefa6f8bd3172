"""The recordings on disk: where each goes, which there are, and which must go for age or size."""

import asyncio
import contextlib
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import structlog

from sdstream.clock import Clock
from sdstream.errors import Conflict, NotFound
from sdstream.settings import Settings

FOLDER = "recordings"
TEND_SECONDS = 60.0
MOST_REMEMBERED = 1000
"""Streams whose last recording's name is remembered: its file is made a moment later."""
_NAME = re.compile(r"[0-9]{8}-[0-9]{6}(-[0-9]{1,6}){0,2}\.mp4")
_PARTIAL = ".recording"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Recording:
    """One file. `finished` says that it is whole; one that is being written cannot be fetched yet."""

    stream_id: str
    name: str
    path: Path
    started_at: datetime
    byte_count: int
    finished: bool


class RecordingShelf:
    """The folder of recordings, one folder in it for each stream."""

    def __init__(self, data_dir: Path, settings: Settings, clock: Clock) -> None:
        self.folder = data_dir / FOLDER
        self._settings = settings
        self._clock = clock
        self._given: dict[str, tuple[str, int]] = {}
        """The last name each stream was given: its second, and how many were given in it before."""
        self._task: asyncio.Task[None] | None = None

    def start(self, finish: Callable[[Path], Awaitable[int]]) -> None:
        """Have what a killed server left made whole by `finish`, then look each minute for recordings that must go."""
        self._task = asyncio.create_task(self._tend(finish), name="recordings")

    async def close(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

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
        """The recordings of a stream, oldest first."""
        return await asyncio.to_thread(_list, self.folder / stream_id)

    async def find(self, stream_id: str, name: str) -> Recording:
        """A whole recording. Raises `NotFound`, or `Conflict` while it is being written."""
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
        await asyncio.to_thread(_remove, recording)

    async def prune(self) -> None:
        """Remove what is too old or, oldest first, too much."""
        await asyncio.to_thread(self._prune)

    def _prune(self) -> None:
        recordings = [item for folder in _folders(self.folder) for item in _list(folder)]
        settings = self._settings
        for recording in choose_expired(
            recordings, self._clock.now(), settings.recording_max_days, settings.recording_max_bytes
        ):
            log.info("recording removed", stream_id=recording.stream_id, name=recording.name)
            with contextlib.suppress(OSError):
                _remove(recording)

    async def _tend(self, finish: Callable[[Path], Awaitable[int]]) -> None:
        count = await finish(self.folder)
        if count:
            log.info("recordings of an earlier run were made whole", count=count)
        while True:
            try:
                await self.prune()
            except OSError as error:
                log.warning("recordings cannot be looked through", error=str(error))
            await asyncio.sleep(TEND_SECONDS)


def choose_expired(recordings: Sequence[Recording], now: datetime, max_days: float, max_bytes: int) -> list[Recording]:
    """Which whole recordings must go: those older than `max_days`, then the oldest until `max_bytes` hold the rest."""
    oldest_first = sorted(recordings, key=lambda recording: recording.started_at)
    expired = [
        recording
        for recording in oldest_first
        if recording.finished and now - recording.started_at > timedelta(days=max_days)
    ]
    rest = [recording for recording in oldest_first if recording not in expired]
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
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        name = _final_name(path)
        if not _NAME.fullmatch(name) or path.suffix not in (".mp4", _PARTIAL):
            continue
        with contextlib.suppress(OSError):  # removed meanwhile
            started = datetime.strptime(name[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC)
            size = path.stat().st_size
            found.append(Recording(folder.name, name, path, started, size, path.suffix == ".mp4"))
    return found


def _final_name(path: Path) -> str:
    return path.name.removesuffix(_PARTIAL)


def _remove(recording: Recording) -> None:
    recording.path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        recording.path.parent.rmdir()  # the last one takes its folder along


__all__ = ["FOLDER", "Recording", "RecordingShelf", "choose_expired"]
