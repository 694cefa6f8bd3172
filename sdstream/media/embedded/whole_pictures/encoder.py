"""Pictures as JPEG, each made once however many viewers take it."""

import asyncio
from typing import Any, cast

import av
from av.error import FFmpegError

from sdstream.clock import Clock
from sdstream.frames import VIDEO_CLOCK, PictureSize
from sdstream.logs import FoldedReporter
from sdstream.media.embedded.broadcast import Outgoing
from sdstream.media.embedded.counters import StreamCounters


class JpegEncoder:
    """Encodes on threads of the loop's, one picture at a time for each coarseness. Used on one event loop."""

    def __init__(self, counters: StreamCounters, clock: Clock, faults: FoldedReporter) -> None:
        self._counters = counters
        self._clock = clock
        self._faults = faults
        self._contexts: dict[int, tuple[PictureSize, Any]] = {}
        self._picture: Outgoing | None = None
        self._made: dict[int, asyncio.Task[bytes | None]] = {}
        """Of `_picture`, by coarseness."""
        self._turns: dict[int, asyncio.Lock] = {}

    async def encode(self, picture: Outgoing, coarseness: int) -> bytes | None:
        """`picture` as a JPEG of the quantiser's scale `coarseness`, 2 to 31; None when it cannot be made."""
        if picture is not self._picture:
            self._picture, self._made = picture, {}
        task = self._made.get(coarseness)
        if task is None:
            task = self._made[coarseness] = asyncio.ensure_future(self._encode(picture, coarseness))
        # Several viewers wait for it: one that goes away must not take it from the others.
        return await asyncio.shield(task)

    async def _encode(self, picture: Outgoing, coarseness: int) -> bytes | None:
        turn = self._turns.setdefault(coarseness, asyncio.Lock())
        async with turn:
            try:
                return await asyncio.to_thread(self._make, picture, coarseness)
            except (FFmpegError, OSError, ValueError) as error:
                self._contexts.pop(coarseness, None)
                self._counters.drop("encoder_failed")
                self._faults.report(
                    f"jpeg {type(error).__name__}", "a picture could not be made a JPEG", error=type(error).__name__
                )
                return None

    def _make(self, picture: Outgoing, coarseness: int) -> bytes:
        owned, began = picture(), self._clock.monotonic()
        size, context = self._contexts.get(coarseness, (None, None))
        if size != owned.size:
            context = _open(owned.size, coarseness)
            self._contexts[coarseness] = (owned.size, context)
        assert context is not None
        frame = owned.apart().for_jpeg()
        frame.pts = None  # an encoder refuses time stamps that do not grow, and the same picture is asked for again
        data = b"".join(bytes(packet) for packet in context.encode(frame))
        seconds = self._clock.monotonic() - began
        self._counters.encoded(owned.size, seconds, keyframe=False)
        if owned.captured_at is not None:  # a camera took it
            self._counters.hop("encode", seconds)
        return data


def _open(size: PictureSize, coarseness: int) -> Any:
    context = cast(Any, av.CodecContext.create("mjpeg", "w"))
    context.width, context.height = size.width, size.height
    context.pix_fmt = "yuvj420p"
    context.time_base = VIDEO_CLOCK
    context.thread_count = 1  # with more, a picture leaves when the next one comes
    context.options = {"qmin": str(coarseness), "qmax": str(coarseness), "huffman": "optimal"}
    return context


__all__ = ["JpegEncoder"]
