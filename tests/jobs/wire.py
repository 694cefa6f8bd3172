"""A TCP connection's way to a server of this machine, which can be lost as networks lose it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Wire:
    """Stands at a port of its own before the server at `port`.

    `forget` has the connections of now swallow everything from now on, without a word, as a NAT does that has
    forgotten them; later ones work.
    """

    def __init__(self, port: int) -> None:
        self.port = 0
        self._target = port
        self._lost: set[asyncio.StreamWriter] = set()
        self._ends: set[asyncio.StreamWriter] = set()

    @property
    def url(self) -> str:
        """Of the Redis behind it."""
        return f"redis://127.0.0.1:{self.port}/0"

    def forget(self) -> None:
        self._lost |= self._ends

    @contextlib.asynccontextmanager
    async def run(self) -> AsyncIterator["Wire"]:
        server = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for end in self._ends:
                end.close()
            await server.wait_closed()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._ends |= {writer, far_writer}
        await asyncio.gather(self._pass(reader, far_writer), self._pass(far_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if writer not in self._lost:
                    writer.write(data)
        if writer not in self._lost:
            writer.close()


__all__ = ["Wire"]
