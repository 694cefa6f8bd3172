"""A whole file through lanes: read, process and write at the same time, every picture, in order."""

import asyncio
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import structlog

from sdstream.frames import I420Frame
from sdstream.jobs.side_by_side import SideBySide
from sdstream.media.files.reader import VideoReader
from sdstream.media.files.writer import VideoWriter
from sdstream.params import StreamParams
from sdstream.params.independence import why_dependent
from sdstream.settings import Settings
from sdstream.worker.ports import LaneStatus, ProcessedPicture

logger = structlog.get_logger(__name__)


class FilePlan(NamedTuple):
    """How a file's pictures are made: under which params, and how many at once."""

    params: StreamParams
    at_once: int
    note: str
    """What the person should know, if anything."""


def plan_file(params: StreamParams, at_once: int, settings: Settings) -> FilePlan:
    """How a file is made that was asked for with `params`, `at_once` pictures at a time.

    Every picture counts in a file, so none is skipped for its likeness to another. Pictures that are made of earlier
    ones are made one after another, and the note says so. `settings` are the worker's.
    """
    params = params.model_copy(update={"enable_similar_image_filter": False})
    aligned, check_interval = settings.control_pictures == "aligned", settings.safety_check_interval
    reason = why_dependent(params, aligned=aligned, check_interval=check_interval)
    if at_once == 1 or not reason:
        return FilePlan(params, at_once, "")
    return FilePlan(params, 1, f"pictures are made one after another, not {at_once} at once: {reason}")


class SilentListener:
    """Hears a lane and says nothing: `process` raises what matters."""

    def on_picture(self, picture: ProcessedPicture) -> None:
        logger.warning("picture_nobody_waits_for", sequence=picture.frame.sequence)

    def on_lane_status(self, status: LaneStatus) -> None:
        logger.debug("lane", phase=status.phase.value, detail=status.detail)


class FileListener(SilentListener):
    """Keeps which image processors the lanes of a file passed over: a live stream goes on without one and says so in
    its status, but a file is what was asked for or nothing."""

    def __init__(self) -> None:
        self._absent: dict[str, tuple[str, str]] = {}
        """Name and problem of each, by its place."""

    def on_lane_status(self, status: LaneStatus) -> None:
        super().on_lane_status(status)
        for each in status.processors:
            if each.phase == "left_out":
                self._absent[each.place] = (each.name, each.problem)

    @property
    def problems(self) -> tuple[str, ...]:
        """A line for each of them: one that one lane had and another had not counts, too."""
        return tuple(f"{name}: {problem}" for name, problem in self._absent.values())

    @property
    def hint(self) -> str:
        """What brings their weights."""
        names = dict.fromkeys(name for name, _ in self._absent.values())
        return f"`sdstream models pull {' '.join(f'--for {name}' for name in names)}` fetches weights."


class _Owed(NamedTuple):
    """A picture of the source whose result is yet to be written."""

    result: "asyncio.Future[I420Frame]"
    pts: int
    time_base: Fraction


async def pass_all(
    reader: VideoReader, writer: VideoWriter, lanes: SideBySide, on_written: Callable[[int], None]
) -> int:
    """Every picture of `reader` through `lanes` into `writer` with its time, sound going along between the pictures.

    Returns the number of pictures written, of which `on_written` is told each time. Raises what `Lane.process` and the
    two files raise.
    """
    passage = _Passage(reader, writer, lanes)
    reading = asyncio.ensure_future(passage.read())
    written = 0
    try:
        while await passage.write_next():
            written += 1
            on_written(written)
        await reading
    finally:
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)
        await lanes.give_up()
    return written


class _Passage:
    """Reads and writes side by side, so that neither decoder nor encoder stands still while the other works."""

    def __init__(self, reader: VideoReader, writer: VideoWriter, lanes: SideBySide) -> None:
        self._reader = reader
        self._writer = writer
        self._lanes = lanes
        self._room = asyncio.Semaphore(lanes.room)
        """Of pictures that were read and are not written yet: it bounds `_owed`, too."""
        self._owed: asyncio.Queue[_Owed | None] = asyncio.Queue()
        self._writing = asyncio.Lock()

    async def read(self) -> None:
        """Hand every picture to the lanes, and sound to the file."""
        packets = self._reader.packets()
        try:
            while (packet := await _in_a_thread(next, packets, None)) is not None:
                if packet.stream is not self._reader.stream:
                    async with self._writing:
                        await _in_a_thread(self._writer.write_sound, packet)
                    continue
                for picture in await _in_a_thread(self._reader.decode, packet):
                    await self._room.acquire()
                    result = self._lanes.process(picture)
                    self._owed.put_nowait(_Owed(result, picture.pts, picture.time_base))
        finally:
            self._lanes.finish()
            self._owed.put_nowait(None)

    async def write_next(self) -> bool:
        """Write the next picture when it is made; False when there is none."""
        owed = await self._owed.get()
        if owed is None:
            return False
        picture = await owed.result
        async with self._writing:
            await _in_a_thread(self._writer.write_picture, picture.at(owed.pts, owed.time_base))
        self._room.release()
        return True


async def _in_a_thread(call: Callable[..., Any], *given: Any) -> Any:
    """What `call` gives, on a thread. Whoever gives up waits for it all the same: files are closed after that, and
    libav crashes when one is closed that a thread still reads."""
    running = asyncio.get_running_loop().run_in_executor(None, partial(call, *given))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait((running,))
        raise


__all__ = ["FileListener", "FilePlan", "SilentListener", "pass_all", "plan_file"]
