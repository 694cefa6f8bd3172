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
from datetime import datetime
from pathlib import Path

from sdstream.clock import Clock
from sdstream.errors import ConfigurationError, Unavailable
from sdstream.params import Delivery, StreamParams, StyleImage
from sdstream.streams.migrations import SCHEMA_VERSION, migrate
from sdstream.streams.views import StreamRecord

FILE_NAME = "state.sqlite"
WAITING_WRITES = 4096
WRITES_IN_A_TRANSACTION = 256
QUIET_SECONDS = 0.5
"""After so long without a write the log is moved into the database file, which waits for the disk."""

MOST_UNMOVED_BYTES = 16 * 1024 * 1024
"""With more params than this in the log it is moved although others wait."""

LOCK_SECONDS = 5.0
"""How long a start waits for the server before it to let go of the file."""

_COLUMNS = (
    "id, stream_key, output_playback_id, created_at, name, author, params, revision, output_rtmp_url,"
    " from_playground, is_smoke_test, delivery"
)
_INSERT = f"INSERT INTO streams ({_COLUMNS}, style_image) VALUES ({', '.join(13 * '?')})"
_DELIVER = "UPDATE streams SET output_rtmp_url = ?, delivery = ? WHERE id = ?"
_UPDATE = "UPDATE streams SET params = ?, revision = ?, style_image = ? WHERE id = ? AND revision < ?"
_DELETE = "DELETE FROM streams WHERE id = ?"
_HAS_IMAGE = "SELECT 1 FROM style_images WHERE digest = ?"
_INSERT_IMAGE = "INSERT INTO style_images (digest, uri) VALUES (?, ?)"
_DELETE_UNNAMED_IMAGE = (
    "DELETE FROM style_images WHERE digest = ? AND NOT EXISTS (SELECT 1 FROM streams WHERE style_image = digest)"
)
_SELECT_IMAGES = "SELECT digest, uri FROM style_images"
_SELECT = f"SELECT {_COLUMNS} FROM streams ORDER BY created_at, id"


@dataclass(frozen=True, slots=True)
class StoredStream:
    """A row: a record whose params are still text."""

    id: str
    stream_key: str
    output_playback_id: str
    created_at: datetime
    name: str
    author: str
    params: str
    revision: int
    delivery: Delivery
    from_playground: bool
    is_smoke_test: bool

    def record(self, params: StreamParams) -> StreamRecord:
        """The record, given what `params` says."""
        return StreamRecord(
            id=self.id,
            stream_key=self.stream_key,
            output_playback_id=self.output_playback_id,
            created_at=self.created_at,
            name=self.name,
            author=self.author,
            params=params,
            revision=self.revision,
            delivery=self.delivery,
            from_playground=self.from_playground,
            is_smoke_test=self.is_smoke_test,
        )


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
        self._connection = _open(file)
        self._writes: queue.Queue[_Write | None] = queue.Queue(WAITING_WRITES)
        self._closed = False
        self.statistics = StoreStatistics()
        self._thread = threading.Thread(target=self._run, name="stream-store", daemon=True)
        self._unmoved = 0
        """Bytes that are in the log and not in the database file yet."""
        self._rows, self._images = _read(self._connection, file)
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
        await self._write(
            record.id,
            _INSERT,
            (
                record.id,
                record.stream_key,
                record.output_playback_id,
                record.created_at.isoformat(),
                record.name,
                record.author,
                params,
                record.revision,
                record.delivery.output_rtmp_url,
                int(record.from_playground),
                int(record.is_smoke_test),
                record.delivery.dump(),
                None if image is None else image.digest,
            ),
            image,
        )

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


def _open(file: Path) -> sqlite3.Connection:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"The data directory {file.parent} cannot be made: {error.strerror}.") from error
    try:
        connection = sqlite3.connect(file, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise ConfigurationError(_explain(file, error)) from error
    try:
        _prepare(connection, file)
    except sqlite3.Error as error:
        connection.close()
        raise ConfigurationError(_explain(file, error)) from error
    except ConfigurationError:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection, file: Path) -> None:
    # One process owns the file: two servers with the same streams would undo each other's updates, and without the
    # shared index WAL also works on network volumes.
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    # A killed process loses nothing with NORMAL; a power cut may lose the last moments, never the file.
    connection.execute("PRAGMA synchronous = NORMAL")
    # Moving the log waits for the disk, which no caller should: the writer does it in quiet moments.
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > SCHEMA_VERSION:
        raise ConfigurationError(
            f"{file} was written by a newer sdstream (schema {version}, this one knows {SCHEMA_VERSION}).",
            hint="Run the newer version, or name another data directory with SDSTREAM_DATA_DIR.",
        )
    problem = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if problem != "ok":
        raise ConfigurationError(
            f"{file} is damaged: {problem}.", hint="Move the file away; a new one is made, without the old streams."
        )
    migrate(connection, version)
    # A write at once, so that a full or read-only disk is named now and not at the first create.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT OR REPLACE INTO facts (name, value) VALUES ('opened', hex(randomblob(2048)))")
    connection.execute("COMMIT")


def _read(connection: sqlite3.Connection, file: Path) -> tuple[list[StoredStream], dict[str, StyleImage]]:
    try:
        rows = connection.execute(_SELECT).fetchall()
        images = {digest: StyleImage(uri) for digest, uri in connection.execute(_SELECT_IMAGES)}
        return [_stored(row) for row in rows], images
    except (sqlite3.Error, ValueError) as error:
        connection.close()
        raise ConfigurationError(f"{file} cannot be read: {error}.") from error


def _stored(row: tuple[str, str, str, str, str, str, str, int, str | None, int, int, str]) -> StoredStream:
    identity, key, playback, created, name, author, params, revision, rtmp, playground, smoke, delivery = row
    return StoredStream(
        identity, key, playback, datetime.fromisoformat(created), name, author, params, revision,
        Delivery.load(rtmp, delivery), bool(playground), bool(smoke),
    )  # fmt: skip


def _explain(file: Path, error: sqlite3.Error) -> str:
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith("SQLITE_BUSY"):
        return f"{file} is in use by another sdstream server; one data directory serves one server."
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return f"{file} is damaged or not a database: {error}. Move it away to start with no streams."
    if name.startswith("SQLITE_FULL"):
        return f"The disk of {file.parent} is full."
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return f"{file} cannot be written: {error}. Name a writable directory with SDSTREAM_DATA_DIR."
    if name.startswith("SQLITE_IOERR"):
        return f"The disk of {file.parent} refuses to be written ({error}): it may be full or over its quota."
    return f"{file} cannot be used: {error}."


__all__ = ["FILE_NAME", "StoreStatistics", "StoredStream", "StreamStore"]
