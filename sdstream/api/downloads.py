"""Files as answers: the whole of one, or the ranges that a client asks for."""

import re
from collections.abc import Mapping
from pathlib import Path

from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

from sdstream.api.answers import HEAD
from sdstream.file_errors import RangeNotSatisfiable

_RANGES = re.compile(r"bytes=(.+)", re.IGNORECASE)
_RANGE = re.compile(r"([0-9]{0,18})-([0-9]{0,18})")


class FileDownload(FileResponse):
    """Starlette's, but a `HEAD` reads nothing of the file, and of ranges only `ranges` are looked at.

    Starlette refuses all of them for the sake of one, with words that are no error of this API.
    """

    def __init__(self, path: Path, ranges: str | None, media_type: str) -> None:
        """`ranges` are `answerable_ranges` of the request."""
        super().__init__(path, media_type=media_type, filename=path.name)
        self._ranges = ranges

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: list[tuple[bytes, bytes]] = [header for header in scope["headers"] if header[0] != b"range"]
        if self._ranges is not None:
            headers.append((b"range", self._ranges.encode()))
        method = "HEAD" if scope.get(HEAD) else scope["method"]
        await super().__call__({**scope, "method": method, "headers": headers}, receive, send)


def answerable_ranges(headers: Mapping[str, str], byte_count: int) -> str | None:
    """The `Range` of a GET request with those of its ranges that a file of `byte_count` bytes has something of.

    None where the whole file is to be sent: without one, where it breaks the grammar of RFC 9110, and for other units
    than bytes. Raises `RangeNotSatisfiable` where the file has nothing of any range; not beside an `If-Range`, which
    may ask for the whole file.
    """
    found = _RANGES.fullmatch(headers.get("range", "").strip())
    if found is None:
        return None
    kept: list[str] = []
    for part in found[1].split(","):
        match = _RANGE.fullmatch(part.strip())
        if match is None or not any(match.groups()):
            return None
        first, last = match.groups()
        if first and last and int(last) < int(first):
            return None
        if int(first) < byte_count if first else int(last) > 0:
            kept.append(f"{first}-{last}")
    if kept and byte_count:
        return f"bytes={','.join(kept)}"
    if "if-range" in headers:
        return None
    raise RangeNotSatisfiable(f"the file has {byte_count} bytes, none of them in this range", byte_count=byte_count)


__all__ = ["FileDownload", "answerable_ranges"]
