"""The SQLite file of the stream store: one server at a time opens it, and a person is told what is wrong with it."""

import sqlite3
from pathlib import Path

from sdstream.errors import ConfigurationError
from sdstream.streams.migrations import SCHEMA_VERSION, migrate

FILE_NAME = "state.sqlite"
LOCK_SECONDS = 5.0
"""How long a start waits for the server before it to let go of the file."""


def open_database(file: Path) -> sqlite3.Connection:
    """Open or make `file`, with the newest schema. It is this process's alone until the connection is closed.

    Raises `ConfigurationError` when it cannot be read and written, or is of a newer version.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"The data directory {file.parent} cannot be made: {error.strerror}.") from error
    try:
        connection = sqlite3.connect(file, timeout=LOCK_SECONDS, isolation_level=None, check_same_thread=False)
    except sqlite3.Error as error:
        raise ConfigurationError(explain(file, error)) from error
    try:
        _prepare(connection, file)
    except sqlite3.Error as error:
        connection.close()
        raise ConfigurationError(explain(file, error)) from error
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
    migrate(connection, check_database(connection, file))
    # A write at once, so that a full or read-only disk is named now and not at the first create.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("INSERT OR REPLACE INTO facts (name, value) VALUES ('opened', hex(randomblob(2048)))")
    connection.execute("COMMIT")


def check_database(connection: sqlite3.Connection, file: Path) -> int:
    """The schema's version of an open database. Raises `ConfigurationError` for a newer one and for damage."""
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
    return version


def explain(file: Path, error: sqlite3.Error) -> str:
    """Why `file` cannot be used, for a person."""
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


__all__ = ["FILE_NAME", "check_database", "explain", "open_database"]
