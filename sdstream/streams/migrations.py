"""The schema of the stream store, as the steps that lead to it."""

import sqlite3

_FORGET_UNNAMED = """DELETE FROM style_images WHERE digest = OLD.style_image
    AND NOT EXISTS (SELECT 1 FROM streams WHERE style_image = OLD.style_image)"""

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
    (
        # Pictures that params only name, by the SHA-256 of `uri`. Each goes with the last stream that names it.
        "CREATE TABLE style_images (digest TEXT PRIMARY KEY, uri TEXT NOT NULL) STRICT",
        "ALTER TABLE streams ADD COLUMN style_image TEXT",
        "CREATE INDEX streams_by_style_image ON streams (style_image)",
        f"""CREATE TRIGGER stream_left_style_image AFTER UPDATE OF style_image ON streams
            WHEN OLD.style_image IS NOT NEW.style_image BEGIN {_FORGET_UNNAMED}; END""",
        f"CREATE TRIGGER stream_took_style_image_along AFTER DELETE ON streams BEGIN {_FORGET_UNNAMED}; END",
    ),
    ("ALTER TABLE streams ADD COLUMN delivery TEXT NOT NULL DEFAULT '{}'",),
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
