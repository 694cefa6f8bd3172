"""Looking at what an image processor made last: the server's questions under way, and the worker's small picture."""

import asyncio
import contextlib
from itertools import count

from sdstream.worker.channel import Channel
from sdstream.worker.messages import TapLane, TapOut

TAP_SECONDS = 5.0
"""A worker that is at a long call answers when it reads again."""


_numbers = count(1)
"""Of questions, over all lanes: an answer names nothing else."""


class Taps:
    """Questions of one lane to its worker. `ask` is for the event loop, `answer` for the reader's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._asked: dict[int, asyncio.Future[bytes | None]] = {}

    async def ask(self, channel: Channel | None, lane: int, processor: str) -> bytes | None:
        """The picture, a JPEG; None when there is none, or nobody answers in time."""
        if channel is None:
            return None
        number = next(_numbers)
        asked: asyncio.Future[bytes | None] = self._loop.create_future()
        self._asked[number] = asked
        try:
            channel.send(TapLane(number, lane, processor))
            async with asyncio.timeout(TAP_SECONDS):
                return await asked
        except TimeoutError:
            return None
        finally:
            del self._asked[number]

    def answer(self, message: TapOut) -> None:
        """The worker has answered; late answers are nobody's."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
            self._loop.call_soon_threadsafe(self._settle, message)

    def _settle(self, message: TapOut) -> None:
        asked = self._asked.get(message.number)
        if asked is not None and not asked.done():
            asked.set_result(message.picture)


__all__ = ["TAP_SECONDS", "Taps"]
