"""Whether a server holds a data directory, asked from outside."""

import sqlite3
from contextlib import closing
from pathlib import Path

from sdstream.streams.database import FILE_NAME


def is_held(data_dir: Path) -> bool:
    """Whether another process has the streams of `data_dir` open; it would not let a second server start there."""
    file = data_dir / FILE_NAME
    if not file.is_file():
        return False
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=0)) as connection:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:  # of all else that may be wrong with it, the server speaks
        return getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY")
    return False


__all__ = ["is_held"]
