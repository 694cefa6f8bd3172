"""A thread whose end the event loop can wait for."""

import asyncio
import threading
from collections.abc import Callable


class LoopThread:
    """Runs `target` on a daemon thread. Made and awaited on one event loop."""

    def __init__(self, name: str, target: Callable[[], None]) -> None:
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._target = target
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    async def ended(self, seconds: float) -> bool:
        """Wait up to `seconds` for the end; whether the thread has ended."""
        try:
            async with asyncio.timeout(seconds):
                await self._ended.wait()
        except TimeoutError:
            return False
        self._thread.join()
        return True

    @property
    def loop_is_closed(self) -> bool:
        return self._loop.is_closed()

    def call(self, callback: Callable[[], None]) -> bool:
        """From any thread: have `callback` called on the loop; False when the loop is closed."""
        try:
            self._loop.call_soon_threadsafe(callback)
        except RuntimeError:
            return False
        return True

    def _run(self) -> None:
        try:
            self._target()
        finally:
            # Whose method it was has this thread: in a ring its encoders would stay, with the threads libav gave them.
            self._target = _nothing
            self.call(self._ended.set)


def _nothing() -> None:
    """In the place of a target that has run."""


__all__ = ["LoopThread"]
