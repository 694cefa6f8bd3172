"""The names of RTMP servers: looked up on threads of their own, and only for addresses that may be dialled."""

import asyncio
import contextlib
import socket
import threading

from sdstream.fetching import is_public
from sdstream.media.embedded.outputs.rtmp import STEP_SECONDS, RtmpError

LOOK_UPS_AT_ONCE = 4
"""Of one stream. A name server that is silent keeps each for ten seconds and more, and nothing can end it."""


class NameLookUp:
    """Looks names up for the pushes of one stream. On the threads of `asyncio.to_thread` a silent name server would
    keep out all else that is done there, such as snapshots and lists of recordings."""

    def __init__(self, *, allow_private: bool) -> None:
        self._allow_private = allow_private
        self._free = asyncio.Semaphore(LOOK_UPS_AT_ONCE)

    async def resolve(self, host: str, port: int) -> str:
        """An address of `host`, which is then dialled itself: the name is asked once. Raises `RtmpError` or `OSError`.

        Without `allow_private` every address of the name must be of the public internet.
        """
        try:
            async with asyncio.timeout(STEP_SECONDS):
                addresses = await self._look_up(host, port)
        except TimeoutError:
            raise RtmpError("the name of the server was not found in time") from None
        except UnicodeError:
            raise RtmpError("the name of the server is not one that a server can have") from None
        if not addresses:
            raise RtmpError("the name of the server has no address")
        if not self._allow_private and not all(is_public(address) for address in addresses):
            raise RtmpError("the server is in a private network, where this server must not push to")
        return addresses[0]

    async def _look_up(self, host: str, port: int) -> list[str]:
        await self._free.acquire()
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[list[str]] = loop.create_future()

        def tell(addresses: list[str], problem: Exception | None) -> None:
            self._free.release()
            if answer.done():  # nobody waits any more
                return
            if problem is None:
                answer.set_result(addresses)
            else:
                answer.set_exception(problem)

        def run() -> None:
            addresses: list[str] = []
            problem: Exception | None = None
            try:
                found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
                addresses = [str(entry[4][0]) for entry in found]
            except (OSError, UnicodeError) as error:
                problem = error
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(tell, addresses, problem)

        try:
            threading.Thread(target=run, name="look-up", daemon=True).start()
        except RuntimeError:
            self._free.release()
            raise RtmpError("the name of the server is not looked up: this server has no thread for it") from None
        return await answer


__all__ = ["LOOK_UPS_AT_ONCE", "NameLookUp"]
