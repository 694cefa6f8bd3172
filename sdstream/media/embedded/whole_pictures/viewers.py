"""Viewers that are sent whole pictures: each the newest there is, as often and as fine as its line admits."""

import asyncio
import contextlib
from collections.abc import Callable

from sdstream.clock import Clock
from sdstream.logs import FoldedReporter
from sdstream.media.embedded.broadcast import Outgoing
from sdstream.media.embedded.counters import StreamCounters
from sdstream.media.embedded.whole_pictures.encoder import JpegEncoder
from sdstream.media.embedded.whole_pictures.pacing import PicturePace
from sdstream.media.embedded.whole_pictures.session import WholePictureSession
from sdstream.media.ports import SessionEnd

REPEAT_SECONDS = 5.0
"""A picture that nothing follows is sent again: proxies end connections on which nothing moves."""


class WholePictureViewer(WholePictureSession):
    """Implements `media.ports.PictureViewer`. Used on one event loop."""

    def __init__(
        self,
        latest: Callable[[], Outgoing | None],
        encoder: JpegEncoder,
        counters: StreamCounters,
        clock: Clock,
        repeat_seconds: float,
    ) -> None:
        super().__init__()
        self._latest = latest
        self._encoder = encoder
        self._counters = counters
        self._clock = clock
        self._repeat_seconds = repeat_seconds
        self._pace = PicturePace()
        self._wake = asyncio.Event()
        self._is_new = True
        """Whether the newest picture may not have been sent yet."""
        self._sent: Outgoing | None = None
        """The last one that was sent: who is told of a picture may have had it already, since it was the newest."""

    async def next(self) -> bytes | None:
        """Wait until a picture is to be sent, and give it as a JPEG; None once the session has ended."""
        while self.end is None:
            if self._is_new and self._pace.may_send(self._clock.monotonic()):
                self._is_new = False
                picture = self._latest()
                if picture is None or picture is self._sent:
                    continue
                data = await self._encoder.encode(picture, self._pace.coarseness)
                if data is not None and self.end is None:
                    self._sent = picture
                    self._pace.sent(self._clock.monotonic())
                    self._counters.sent(len(data))
                    return data
                continue
            self._wake.clear()
            try:
                async with asyncio.timeout(self._repeat_seconds):
                    await self._wake.wait()
            except TimeoutError:
                self._is_new, self._sent = True, None
        return None

    def taken(self) -> None:
        """The oldest picture on its way has come to the viewer."""
        self._pace.answered(self._clock.monotonic())
        self._wake.set()

    def show(self) -> None:
        """There is a new picture."""
        self._pace.came(self._clock.monotonic())
        if self._is_new:
            self._counters.drop("viewer_slow")
        self._is_new = True
        self._wake.set()

    def finish(self, end: SessionEnd) -> bool:
        finished = super().finish(end)
        self._wake.set()
        return finished


class WholePictureViewers:
    """The viewers of one stream. `latest` gives the newest picture, `on_change` is told that their number changed."""

    def __init__(
        self,
        latest: Callable[[], Outgoing | None],
        counters: StreamCounters,
        clock: Clock,
        faults: FoldedReporter,
        on_change: Callable[[], None],
        repeat_seconds: float = REPEAT_SECONDS,
    ) -> None:
        self._latest = latest
        self._counters = counters
        self._clock = clock
        self._on_change = on_change
        self._repeat_seconds = repeat_seconds
        self._encoder = JpegEncoder(counters, clock, faults)
        self._viewers: dict[str, WholePictureViewer] = {}
        self._loop = asyncio.get_running_loop()

    def __len__(self) -> int:
        return len(self._viewers)

    def open(self) -> WholePictureViewer:
        """One more viewer."""
        viewer = WholePictureViewer(self._latest, self._encoder, self._counters, self._clock, self._repeat_seconds)
        self._viewers[viewer.session_id] = viewer
        self._on_change()
        return viewer

    def end(self, session_id: str) -> bool:
        """End one session; False when there is none of that id (any more)."""
        viewer = self._viewers.pop(session_id, None)
        if viewer is None:
            return False
        viewer.finish(SessionEnd.CLOSED)
        self._on_change()
        return True

    def show(self) -> None:
        """There is a new picture. From any thread."""
        if self._viewers:
            with contextlib.suppress(RuntimeError):  # of a closed loop, where nobody watches
                self._loop.call_soon_threadsafe(self._show)

    def close(self) -> None:
        """End all sessions."""
        viewers = list(self._viewers.values())
        self._viewers.clear()
        for viewer in viewers:
            viewer.finish(SessionEnd.CLOSED)

    def _show(self) -> None:
        for viewer in self._viewers.values():
            viewer.show()


__all__ = ["REPEAT_SECONDS", "WholePictureViewer", "WholePictureViewers"]
