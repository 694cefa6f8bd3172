"""Identifiers that nobody can guess: stream ids, stream keys, playback ids; and the record that is born with them."""

import secrets
from datetime import datetime

from sdstream.params import CreateRequest
from sdstream.streams.views import StreamRecord

UNTITLED = "untitled"

RANDOM_BYTES = 18
"""144 bits, which base64url writes as 24 characters with no padding."""


def new_stream_id() -> str:
    """`str_` and 24 characters of `[A-Za-z0-9_-]`, as the status page is open to whoever knows the id."""
    return f"str_{secrets.token_urlsafe(RANDOM_BYTES)}"


def new_stream_key() -> str:
    """`stk_` and 24 characters of `[A-Za-z0-9_-]`: the right to publish."""
    return f"stk_{secrets.token_urlsafe(RANDOM_BYTES)}"


def new_playback_id() -> str:
    """`pb_` and 24 characters of `[A-Za-z0-9_-]`: the right to watch."""
    return f"pb_{secrets.token_urlsafe(RANDOM_BYTES)}"


def new_record(
    request: CreateRequest, author: str, now: datetime, *, from_playground: bool, stream_id: str | None = None
) -> StreamRecord:
    """The record of a stream that is made now; `stream_id` None makes one."""
    return StreamRecord(
        id=stream_id or new_stream_id(),
        stream_key=new_stream_key(),
        output_playback_id=new_playback_id(),
        created_at=now,
        name=request.name or UNTITLED,
        author=author,
        params=request.params,
        delivery=request.delivery,
        from_playground=from_playground,
    )


__all__ = ["new_playback_id", "new_record", "new_stream_id", "new_stream_key"]
