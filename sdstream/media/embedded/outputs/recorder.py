"""A recording: fragments into a file as they come, made into a plain MP4 when it ends.

A process that is killed leaves a file that plays up to its last whole fragment, about a second before the end. What
was left so is made whole at the next start.
"""

import contextlib
import errno
import os
import queue
import shutil
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import av
import structlog
from av.error import FFmpegError

from sdstream.media.embedded.outputs.fragments import Fragment, Head
from sdstream.media.ports import RecordingStatistics

PARTIAL = ".recording"
"""The suffix behind `.mp4` of a file that is being written."""
FINISHING = ".finishing"
MOST_WAITING = 30
"""Fragments that may wait for the disk; behind that the recording stops, because a hole in it would be worse."""
LOOK_SECONDS = 0.5

log = structlog.get_logger(__name__)


class Recorder:
    """Implements `FragmentSink`. Writes on a thread of its own: a disk that hangs stops the recording and no more.

    `on_stopped` is told, on that thread, why a recording stopped by itself, or None at its ordinary end. A change of
    size begins a further file, since one MP4 has one size.
    """

    def __init__(self, file: Path, on_stopped: Callable[[str | None], None], least_free: int) -> None:
        self._file = file
        self._on_stopped = on_stopped
        self._least_free = least_free
        self._queue: queue.Queue[Fragment | None] = queue.Queue(MOST_WAITING)
        self._part = 0
        self._head: Head | None = None
        self._handle: Any = None
        self._open_file: Path | None = None
        self._seconds = 0.0
        self._bytes = 0
        self._stopping = threading.Event()
        self._too_slow = False
        self._stop_after_next = False
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def statistics(self) -> RecordingStatistics:
        return RecordingStatistics(self._file.name, self._seconds, self._bytes)

    def take_fragment(self, fragment: Fragment) -> None:
        if self._stopping.is_set():
            return
        try:
            self._queue.put_nowait(fragment)
        except queue.Full:
            self._too_slow = True
            self._stopping.set()
        if self._stop_after_next:
            self.stop()

    def stop_soon(self) -> None:
        """End the recording behind the fragment that is being made."""
        self._stop_after_next = True

    def stop(self) -> None:
        """End the recording now; the file is made whole on the recorder's thread. Idempotent."""
        self._stopping.set()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(None)

    def join(self, seconds: float) -> bool:
        """Wait until the file is whole; False after `seconds`."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        problem: str | None = None
        try:
            try:
                problem = self._write_all()
            finally:
                self._finish()
        except OSError as error:
            problem = f"the disk refuses to be written: {error.strerror or error}"
        finally:
            self._on_stopped(problem)

    def _write_all(self) -> str | None:
        while True:
            try:
                fragment = self._queue.get(timeout=LOOK_SECONDS)
            except queue.Empty:
                if self._stopping.is_set():
                    return None
                continue
            if fragment is None:
                return None
            self._write(fragment)
            if self._too_slow:
                return "the disk is too slow"

    def _write(self, fragment: Fragment) -> None:
        if fragment.head is not self._head:
            self._finish()
            self._head = fragment.head
            self._part += 1
            name = self._file.name if self._part == 1 else f"{self._file.stem}-{self._part}.mp4"
            self._open_file = self._file.with_name(name + PARTIAL)
            self._handle = self._open_file.open("xb")
            self._handle.write(fragment.head.data)
        if shutil.disk_usage(self._file.parent).free < self._least_free + len(fragment.data):
            raise OSError(errno.ENOSPC, "the disk is nearly full")
        self._handle.write(fragment.data)
        self._handle.flush()  # into the kernel: a killed process has lost nothing of it
        self._seconds += fragment.seconds
        self._bytes += len(fragment.data)

    def _finish(self) -> None:
        handle, self._handle = self._handle, None
        file, self._open_file = self._open_file, None
        if handle is None or file is None:
            return
        with contextlib.suppress(OSError):
            handle.close()
        finalise(file, self._least_free)


def finalise(partial: Path, least_free: int = 0) -> Path | None:
    """Make a plain MP4 with its index in front out of what was being recorded, and take the partial file away.

    Returns the file, or None when nothing of it can be read; then it is removed. Without room for the copy, beside
    `least_free` bytes, the fragmented file stays under its final name: it plays as well.
    """
    final = partial.with_name(partial.name.removesuffix(PARTIAL))
    copy = partial.with_name(final.name + FINISHING)
    try:
        if shutil.disk_usage(partial.parent).free < least_free + partial.stat().st_size:
            raise OSError(errno.ENOSPC, "the disk has no room for a copy")
        _remux(partial, copy)
    except (FFmpegError, OSError, ValueError) as error:
        with contextlib.suppress(OSError):
            copy.unlink(missing_ok=True)
        lacks_room = isinstance(error, OSError) and not isinstance(error, FFmpegError)
        if lacks_room:
            log.warning("a recording stays fragmented", file=final.name, error=str(error))
        with contextlib.suppress(OSError):
            if not lacks_room and partial.stat().st_size < 4096:
                partial.unlink()
                return None
            os.replace(partial, final)
        return final
    os.replace(copy, final)
    partial.unlink(missing_ok=True)
    return final


def find_unfinished(folder: Path) -> list[Path]:
    """What a killed server left in `folder` and below; copies it was making are taken away."""
    for stray in folder.rglob(f"*{FINISHING}"):
        with contextlib.suppress(OSError):
            stray.unlink()
    return sorted(folder.rglob(f"*{PARTIAL}"))


def finalise_all(partials: Iterable[Path], least_free: int = 0) -> int:
    """Make each of `partials` whole, as `finalise` does; the number of files."""
    count = 0
    for partial in partials:
        with contextlib.suppress(OSError):
            count += finalise(partial, least_free) is not None
    return count


def _remux(source: Path, target: Path) -> None:
    reader: Any
    writer: Any
    with av.open(str(source)) as reader:
        with av.open(str(target), "w", format="mp4", options={"movflags": "faststart"}) as writer:
            streams = {stream.index: writer.add_stream_from_template(stream) for stream in reader.streams}
            packets = 0
            for packet in reader.demux():
                if packet.dts is None:
                    continue
                packet.stream = streams[packet.stream.index]
                writer.mux(packet)
                packets += 1
    if not packets:
        raise ValueError("nothing was recorded")


__all__ = ["PARTIAL", "Recorder", "finalise", "finalise_all", "find_unfinished"]
