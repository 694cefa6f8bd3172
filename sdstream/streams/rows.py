"""A stream as a row of the stream store's table: what is written of a record, and what is read back."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sdstream.errors import ConfigurationError
from sdstream.params import Delivery, StreamParams, StyleImage
from sdstream.streams.views import StreamRecord

_COLUMNS = (
    "id, stream_key, output_playback_id, created_at, name, author, params, revision, output_rtmp_url,"
    " from_playground, is_smoke_test, delivery"
)
INSERT = f"INSERT INTO streams ({_COLUMNS}, style_image) VALUES ({', '.join(13 * '?')})"
"""What `row_of` gives the values for."""
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


def row_of(record: StreamRecord, params: str, image: StyleImage | None) -> tuple[object, ...]:
    """The values of `INSERT` for a record, whose `params` are given as text and only name their style image."""
    return (
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
    )


def read_rows(
    connection: sqlite3.Connection, file: Path, on_unreadable: Callable[[str, str], None]
) -> tuple[list[StoredStream], dict[str, StyleImage]]:
    """All rows, oldest first, and by digest the style images that they name.

    One row that nobody understands keeps no other stream from coming back: `on_unreadable` is told its id and why.
    Raises `ConfigurationError`, and closes the connection, where the table cannot be read.
    """
    try:
        rows = connection.execute(_SELECT).fetchall()
        images = {digest: StyleImage(uri) for digest, uri in connection.execute(_SELECT_IMAGES)}
    except sqlite3.Error as error:
        connection.close()
        raise ConfigurationError(f"{file} cannot be read: {error}.") from error
    stored: list[StoredStream] = []
    for row in rows:
        try:
            stored.append(_stored(row))
        except (ValueError, TypeError) as error:
            on_unreadable(row[0], str(error))
    return stored, images


def _stored(row: tuple[str, str, str, str, str, str, str, int, str | None, int, int, str]) -> StoredStream:
    identity, key, playback, created, name, author, params, revision, rtmp, playground, smoke, delivery = row
    return StoredStream(
        identity, key, playback, datetime.fromisoformat(created), name, author, params, revision,
        Delivery.load(rtmp, delivery), bool(playground), bool(smoke),
    )  # fmt: skip


__all__ = ["INSERT", "StoredStream", "read_rows", "row_of"]
