"""HLS of one stream: made while somebody asks for it, kept in memory."""

import asyncio
import contextlib
import threading

from sdstream.clock import Clock
from sdstream.media.embedded.outputs.fragments import Fragment
from sdstream.media.embedded.outputs.playlist import MEDIA, MULTIVARIANT, SegmentWindow, first_number
from sdstream.media.ports import HlsFile

FIRST_SECONDS = 6.0
"""How long a first viewer may be kept waiting for the first segment."""
IDLE_SECONDS = 12.0
"""Without a request for so long nothing is made any more; a player asks for the playlist every second or two."""

_PLAYLIST, _HEAD, _SEGMENT = "application/vnd.apple.mpegurl", "video/mp4", "video/iso.segment"


class HlsOutput:
    """Implements `FragmentSink`. `take_fragment` is for the feed's thread, the rest for the event loop.

    `breaks` are the discontinuities that players of the stream were told of before.
    """

    def __init__(self, clock: Clock, breaks: int = 0) -> None:
        self._clock = clock
        self._window = SegmentWindow(first_number(clock.now()), breaks)
        self._lock = threading.Lock()
        self._loop = asyncio.get_running_loop()
        self._first = asyncio.Event()
        self.asked_at = clock.monotonic()

    @property
    def is_idle(self) -> bool:
        """Whether nobody has asked for a while."""
        return self._clock.monotonic() - self.asked_at > IDLE_SECONDS

    @property
    def breaks(self) -> int:
        """All discontinuities that players were told of, with `breaks` from before."""
        with self._lock:
            return self._window.breaks

    def take_fragment(self, fragment: Fragment) -> None:
        with self._lock:
            self._window.append(fragment, self._clock.now())
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._first.set)

    async def file(self, name: str) -> HlsFile | None:
        """A playlist, head or segment; None when there is none of that name, or no segment came in time."""
        self.asked_at = self._clock.monotonic()
        if name in (MULTIVARIANT, MEDIA):
            try:
                async with asyncio.timeout(FIRST_SECONDS):
                    await self._first.wait()
            except TimeoutError:
                return None
            self.asked_at = self._clock.monotonic()
            with self._lock:
                text = self._window.multivariant_playlist() if name == MULTIVARIANT else self._window.media_playlist()
            return HlsFile(text.encode(), _PLAYLIST, changes=True)
        with self._lock:
            data = self._window.find(name)
        if data is None:
            return None
        return HlsFile(data, _HEAD if name.endswith(".mp4") else _SEGMENT, changes=False)


__all__ = ["FIRST_SECONDS", "IDLE_SECONDS", "HlsOutput"]
