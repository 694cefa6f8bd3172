"""Identifiers that nobody can guess: stream ids, stream keys and playback ids."""

import secrets

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


__all__ = ["new_playback_id", "new_stream_id", "new_stream_key"]
