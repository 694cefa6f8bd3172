"""What a server would find of streams in a data directory, read from outside: nothing there is changed."""

import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from sdstream.errors import ConfigurationError, InvalidParams
from sdstream.params import ModelTable, load_params
from sdstream.streams.database import FILE_NAME, check_database, explain
from sdstream.streams.migrations import migrate
from sdstream.streams.rows import read_rows


@dataclass(frozen=True, slots=True)
class KeptStreams:
    """How many streams there are, and by id why some of them would not come back."""

    count: int = 0
    unrestored: tuple[tuple[str, str], ...] = ()


def read_kept(data_dir: Path, models: ModelTable) -> KeptStreams:
    """Go through the streams of `data_dir` as the start of a server does, on a copy in memory.

    Raises `ConfigurationError` where a server would not start with them, or has them open.
    """
    file = data_dir / FILE_NAME
    if not file.is_file():
        return KeptStreams()
    unrestored: list[tuple[str, str]] = []
    try:
        with (
            closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True, timeout=0)) as there,
            closing(sqlite3.connect(":memory:", isolation_level=None)) as copy,
        ):
            version = check_database(there, file)
            there.backup(copy)
            migrate(copy, version)
            rows, images = read_rows(copy, file, lambda name, problem: unrestored.append((name, problem)))
    except sqlite3.Error as error:
        raise ConfigurationError(explain(file, error)) from error
    count = len(rows) + len(unrestored)
    for row in rows:
        try:
            load_params(row.params, models, images)
        except InvalidParams as error:
            unrestored.append((row.id, error.message))
    return KeptStreams(count, tuple(unrestored))


__all__ = ["KeptStreams", "read_kept"]
