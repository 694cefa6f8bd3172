"""The schema of the stream store, as the steps that lead to it."""

import sqlite3

_STEPS: tuple[tuple[str, ...], ...] = (
    (
        """CREATE TABLE streams (
            id TEXT PRIMARY KEY,
            stream_key TEXT NOT NULL UNIQUE,
            output_playback_id TEXT NOT NULL UNIQUE,
            created_at TEXT NOT NULL,
            name TEXT NOT NULL,
            author TEXT NOT NULL,
            params TEXT NOT NULL,
            revision INTEGER NOT NULL,
            output_rtmp_url TEXT,
            from_playground INTEGER NOT NULL,
            is_smoke_test INTEGER NOT NULL
        ) STRICT""",
        "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
    ),
)
"""The statements that take the schema from version n to n + 1, for n from 0; a released step is never edited."""

SCHEMA_VERSION = len(_STEPS)


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Bring a database at schema `version` to `SCHEMA_VERSION`, each step whole or not at all."""
    for number in range(version, SCHEMA_VERSION):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in _STEPS[number]:
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number + 1}")
            connection.execute("COMMIT")
        except sqlite3.Error:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


__all__ = ["SCHEMA_VERSION", "migrate"]
