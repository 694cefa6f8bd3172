"""Files as answers: the whole of one, or the ranges that a client asks for."""

import re
from pathlib import Path

from starlette.responses import FileResponse
from starlette.types import Receive, Scope, Send

from sdstream.api.answers import HEAD

_RANGES = re.compile(r"bytes=(.+)", re.IGNORECASE)
_RANGE = re.compile(r"([0-9]{0,18})-([0-9]{0,18})")


class FileDownload(FileResponse):
    """Starlette's, but a `HEAD` reads nothing of the file, and a `Range` that cannot be answered is passed over.

    Starlette answers one with words of its own, which are no error of this API, and all ranges for the sake of one.
    """

    def __init__(self, path: Path, byte_count: int, media_type: str) -> None:
        super().__init__(path, media_type=media_type, filename=path.name)
        self._byte_count = byte_count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers: list[tuple[bytes, bytes]] = []
        for name, value in scope["headers"]:
            if name != b"range":
                headers.append((name, value))
            elif ranges := answerable_ranges(value.decode("latin-1"), self._byte_count):
                headers.append((name, ranges.encode()))
        method = "HEAD" if scope.get(HEAD) else scope["method"]
        await super().__call__({**scope, "method": method, "headers": headers}, receive, send)


def answerable_ranges(header: str, byte_count: int) -> str | None:
    """The value of a `Range` header with those of its ranges that a file of `byte_count` bytes has something of.

    None where there is none, where it breaks the grammar of RFC 9110, and for other units than bytes.
    """
    found = _RANGES.fullmatch(header.strip())
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
    return f"bytes={','.join(kept)}" if kept and byte_count else None


__all__ = ["FileDownload", "answerable_ranges"]
