"""The errors of files that are written and given out. `sdstream.errors` draws the tree."""

import errno
from typing import Any

from sdstream.errors import CommandFailed, RequestError

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
"""What an `OSError` of a full disk, or a quota that is used up, has as `errno`."""


class DiskFull(CommandFailed):
    """There is no room for a file that a command writes."""

    code = "COMMAND/DISK_FULL"
    hint = "Free some space, or write to another disk."


class RangeNotSatisfiable(RequestError):
    """A `Range` of which a file has nothing; `byte_count` is what it has."""

    code = "RANGE_NOT_SATISFIABLE"
    status = 416
    hint = "The `Content-Range` header has the file's length."

    def __init__(self, message: str, *, byte_count: int = 0, hint: str | None = None, details: Any = None) -> None:
        super().__init__(message, hint=hint, details=details)
        self.headers = {"Content-Range": f"bytes */{byte_count}"}  # pyright: ignore[reportAttributeAccessIssue]


__all__ = ["NO_ROOM", "DiskFull", "RangeNotSatisfiable"]
