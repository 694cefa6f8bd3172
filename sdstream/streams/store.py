"""Stream records on disk: SQLite under the data directory, written by one thread.

A write is answered once its transaction is committed, so a process killed after the answer has lost nothing. Writes
that wait together share a transaction. The event loop only ever waits for an `asyncio.Future`.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from sdstream.clock import Clock
from sdstream.errors import Unavailable
from sdstream.logs import FoldedReporter
from sdstream.params import Delivery, StyleImage
from sdstream.streams.database import open_database
from sdstream.streams.rows import INSERT, StoredStream, read_rows, row_of
from sdstream.streams.views import StreamRecord

WAITING_WRITES = 4096
WRITES_IN_A_TRANSACTION = 256
QUIET_SECONDS = 0.5
"""After so long without a write the log is moved into the database file, which waits for the disk."""

UNRESTORED = "stream cannot be restored"
"""The event in the log; the row stays for a version, or settings, that understand it."""

MOST_UNMOVED_BYTES = 16 * 1024 * 1024
"""With more params than this in the log it is moved although others wait."""

_DELIVER = "UPDATE streams SET output_rtmp_url = ?, delivery = ? WHERE id = ?"
_UPDATE = "UPDATE streams SET params = ?, revision = ?, style_image = ? WHERE id = ? AND revision < ?"
_DELETE = "DELETE FROM streams WHERE id = ?"
_HAS_IMAGE = "SELECT 1 FROM style_images WHERE digest = ?"
_INSERT_IMAGE = "INSERT INTO style_images (digest, uri) VALUES (?, ?)"
_DELETE_UNNAMED_IMAGE = (
    "DELETE FROM style_images WHERE digest = ? AND NOT EXISTS (SELECT 1 FROM streams WHERE style_image = digest)"
)


log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class StoreStatistics:
    """What the writer has done: `seconds` is the time spent in transactions."""

    writes: int = 0
    commits: int = 0
    seconds: float = 0.0
    slowest_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class _Write:
    stream_id: str
    statement: str
    values: tuple[object, ...]
    image: StyleImage | None
    done: asyncio.Future[int]

    @property
    def size(self) -> int:
        return 100 + sum(len(value) for value in self.values if isinstance(value, str))


class StreamStore:
    """The table of streams. One process at a time has the file; everything but the writer runs on the event loop."""

    def __init__(self, file: Path, clock: Clock) -> None:
        """Open or make `file`; raises `ConfigurationError` when it cannot be read and written."""
        self._clock = clock
        self._reporter = FoldedReporter(log, clock)
        self._connection = open_database(file)
        self._writes: queue.Queue[_Write | None] = queue.Queue(WAITING_WRITES)
        self._closed = False
        self.statistics = StoreStatistics()
        self._thread = threading.Thread(target=self._run, name="stream-store", daemon=True)
        self._unmoved = 0
        """Bytes that are in the log and not in the database file yet."""
        self._rows, self._images = read_rows(self._connection, file, _tell_unreadable)
        self._thread.start()

    def load(self) -> tuple[list[StoredStream], Mapping[str, StyleImage]]:
        """What was there when the store was opened: rows, oldest first, and by digest the style images they name.

        Once: megabytes that no stream names any more are not to stay in memory.
        """
        rows, self._rows = self._rows, []
        images, self._images = self._images, {}
        return rows, images

    async def insert(self, record: StreamRecord, params: str, image: StyleImage | None = None) -> None:
        """Store a new stream, with the style image that `params` only name.

        Raises `Unavailable` when the disk refuses; nothing is stored then.
        """
        await self._write(record.id, INSERT, row_of(record, params, image), image)

    async def update(self, stream_id: str, params: str, revision: int, image: StyleImage | None = None) -> bool:
        """Store new params; a lower revision never replaces a higher. False when nothing changed.

        `image` is the style image that `params` only name; it is written when it is not there yet.
        """
        digest = None if image is None else image.digest
        return await self._write(stream_id, _UPDATE, (params, revision, digest, stream_id, revision), image) > 0

    async def deliver(self, stream_id: str, delivery: Delivery) -> bool:
        """Store where the output goes; False when the stream is not there."""
        return await self._write(stream_id, _DELIVER, (delivery.output_rtmp_url, delivery.dump(), stream_id)) > 0

    async def delete(self, stream_id: str) -> bool:
        """Delete a stream; False when it was not there."""
        return await self._write(stream_id, _DELETE, (stream_id,)) > 0

    async def close(self) -> None:
        """Commit what waits and let go of the file. Idempotent."""
        if self._closed:
            return
        self._closed = True
        await asyncio.to_thread(self._writes.put, None)
        await asyncio.to_thread(self._thread.join)
        self._connection.close()

    async def _write(
        self, stream_id: str, statement: str, values: tuple[object, ...], image: StyleImage | None = None
    ) -> int:
        if self._closed:
            raise Unavailable("The stream store is closed.")
        write = _Write(stream_id, statement, values, image, asyncio.get_running_loop().create_future())
        try:
            self._writes.put_nowait(write)
        except queue.Full:
            raise Unavailable(
                "Too many changes wait for the disk.", hint="The data directory's disk is slow."
            ) from None
        try:
            return await write.done
        except sqlite3.Error as error:
            self._reporter.report(str(error), "the disk refuses to store streams", problem=str(error))
            raise Unavailable(
                "The stream cannot be stored.", hint=f"The data directory's disk refuses: {error}."
            ) from error

    def _run(self) -> None:
        while True:
            try:
                first = self._writes.get(timeout=QUIET_SECONDS if self._unmoved else None)
            except queue.Empty:
                self._move_log()
                continue
            if first is None:
                return
            batch, last = self._gather(first)
            self._commit(batch)
            if last:
                return
            self._unmoved += sum(write.size for write in batch)
            if self._unmoved >= MOST_UNMOVED_BYTES:
                self._move_log()

    def _move_log(self) -> None:
        with contextlib.suppress(sqlite3.Error):  # the log still has everything; the next write tells of a full disk
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        self._unmoved = 0

    def _gather(self, first: _Write) -> tuple[list[_Write], bool]:
        batch = [first]
        while len(batch) < WRITES_IN_A_TRANSACTION:
            try:
                write = self._writes.get_nowait()
            except queue.Empty:
                break
            if write is None:
                return batch, True
            batch.append(write)
        return batch, False

    def _commit(self, batch: list[_Write]) -> None:
        began = self._clock.monotonic()
        try:
            outcomes = self._apply(batch)
        except sqlite3.Error as refusal:
            if len(batch) > 1:  # one bad write must not fail its neighbours
                for write in batch:
                    self._commit([write])
                return
            _answer(batch[0], lambda done, refusal=refusal: done.set_exception(refusal))
            return
        seconds = self._clock.monotonic() - began
        self.statistics = replace(
            self.statistics,
            writes=self.statistics.writes + len(batch),
            commits=self.statistics.commits + 1,
            seconds=self.statistics.seconds + seconds,
            slowest_seconds=max(self.statistics.slowest_seconds, seconds),
        )
        for write, count in zip(batch, outcomes, strict=True):
            _answer(write, lambda done, count=count: done.set_result(count))

    def _execute(self, batch: list[_Write]) -> list[int]:
        outcomes = [0] * len(batch)
        replaced_by = _superseded(batch)
        for place, write in enumerate(batch):
            if replaced_by[place] is None:
                outcomes[place] = self._execute_one(write)
        for place in reversed(range(len(batch))):
            after = replaced_by[place]
            if after is not None:
                outcomes[place] = outcomes[after]
        return outcomes

    def _execute_one(self, write: _Write) -> int:
        image = write.image
        is_new = image is not None and self._connection.execute(_HAS_IMAGE, (image.digest,)).fetchone() is None
        if image is not None and is_new:
            self._connection.execute(_INSERT_IMAGE, (image.digest, str(image)))
            self._unmoved += len(image)
        count = self._connection.execute(write.statement, write.values).rowcount
        if image is not None and is_new and not count:
            self._connection.execute(_DELETE_UNNAMED_IMAGE, (image.digest,))
        return count

    def _apply(self, batch: list[_Write]) -> list[int]:
        connection = self._connection
        connection.execute("BEGIN IMMEDIATE")
        try:
            outcomes = self._execute(batch)
            connection.execute("COMMIT")
        except sqlite3.Error:
            with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                connection.execute("ROLLBACK")
            raise
        return outcomes


def _tell_unreadable(stream_id: str, problem: str) -> None:
    log.error(UNRESTORED, stream_id=stream_id, problem=problem)


def _superseded(batch: list[_Write]) -> list[int | None]:
    """For each write the place of the update that replaces it, if it is an update that another directly follows."""
    replaced_by: list[int | None] = [None] * len(batch)
    newest: dict[str, int] = {}
    for place in reversed(range(len(batch))):
        write = batch[place]
        after = newest.get(write.stream_id)
        if after is not None and write.statement == _UPDATE == batch[after].statement:
            replaced_by[place] = after
        newest[write.stream_id] = place
    return replaced_by


def _answer(write: _Write, settle: Callable[[asyncio.Future[int]], None]) -> None:
    def settle_once() -> None:
        if not write.done.done():  # the caller may have gone away meanwhile
            settle(write.done)

    with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
        write.done.get_loop().call_soon_threadsafe(settle_once)


__all__ = ["UNRESTORED", "StoreStatistics", "StreamStore"]
