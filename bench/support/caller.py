"""A caller of the HTTP API that costs next to nothing itself."""

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

from bench.support.targets import KEY


@dataclass(frozen=True)
class Reply:
    """An answer: its status, its headers in lower case, its body."""

    status: int
    headers: dict[str, str]
    body: bytes


class Caller:
    """One connection that is kept; the least HTTP client there is, so that it measures the server and not itself."""

    def __init__(self, host: str, port: int, number: int) -> None:
        self.host, self.port, self.number = host, port, number
        self.stream: dict[str, Any] = {}
        self.count = 0
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def call(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        content_type: str = "application/json",
        *,
        endless: bool = False,
    ) -> Reply:
        """Send and wait for the whole answer; of an `endless` one only for the headers and its first bytes."""
        if self._writer is None or self._reader is None:
            self._reader, self._writer = await asyncio.open_connection(self.host, self.port)
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nAuthorization: Bearer {KEY}\r\n"
            f"Content-Type: {content_type}\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        self._writer.write(head.encode() + body)
        lines = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)}
        status = int(lines[0].split(" ", 2)[1])
        if endless:
            content = await self._reader.read(1)
            await self.close()
        else:
            content = await self._reader.readexactly(int(headers.get("content-length", 0)))
        return Reply(status, headers, content)

    async def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(ConnectionError):
                await self._writer.wait_closed()
        self._reader = self._writer = None


__all__ = ["Caller", "Reply"]
