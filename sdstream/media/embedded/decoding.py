"""The decoder thread of one publisher: encoded pictures in, I420 views out, never a queue that grows."""

import queue
from collections.abc import Callable
from typing import Any, cast

import av
from av.codec.context import Flags
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import PictureType, VideoFrame

from sdstream.clock import Clock
from sdstream.frames import VIDEO_CLOCK, I420Frame
from sdstream.logs import FoldedReporter
from sdstream.media.embedded.assembly import Picture
from sdstream.media.embedded.counters import StreamCounters
from sdstream.media.embedded.pictures import view_of
from sdstream.media.embedded.threads import LoopThread

MOST_WAITING = 15
"""Encoded pictures that may wait: half a second. Behind that all are dropped up to a keyframe."""
LARGEST_SIDE = 4096
"""Samples of a picture's longest side; the worker takes no more, and a ring of larger ones would fill shared memory."""
DAMAGED_PATIENCE = 1.0
"""Seconds for which pictures that the decoder calls damaged are held back; then they are better than none."""
LARGEST_REORDERING = VIDEO_CLOCK.denominator
"""Ticks, a second, by which a picture may be older than the one before and be taken for a B-frame that comes too late.
By more it is of a clock that was set back, as that of another source is."""
JOIN_SECONDS = 5.0
B_FRAMES_WARNING = (
    "The publisher sends B-frames, which WebRTC does not allow: pictures come late and out of order. "
    "Set its encoder to 0 B-frames (OBS: x264 option bframes=0)."
)
TOO_LARGE_WARNING = (
    f"The publisher sends pictures of more than {LARGEST_SIDE} samples a side: they are dropped. Send a smaller size."
)
_LIBRARIES = {"H264": "h264", "VP8": "libvpx"}


def open_decoder(library: str, extradata: bytes = b"", *, low_delay: bool = True) -> Any:
    """A decoder of libav. Without `low_delay` it may hold pictures back to put them in order."""
    context = cast(Any, av.CodecContext.create(library, "r"))
    # One thread: frame threads would add a frame of delay each, slice threads cost more than they gain at camera
    # sizes, and a server has one decoder per stream anyway.
    context.thread_count = 1
    if low_delay:
        context.flags = int(context.flags) | int(Flags.low_delay)
    if extradata:
        context.extradata = extradata
    context.options = {"max_pixels": str(LARGEST_SIDE * LARGEST_SIDE)}  # before any memory is taken for them
    return context


class DecoderThread:
    """Decodes on a thread of its own, on which `deliver` is called for each picture.

    On the event loop, `on_trouble` is called when a keyframe is needed, and `on_failed` once when the thread ended
    because something failed that is not the picture's fault.
    """

    def __init__(
        self,
        codec: str,
        deliver: Callable[[I420Frame], None],
        on_trouble: Callable[[], None],
        on_failed: Callable[[], None],
        counters: StreamCounters,
        clock: Clock,
        faults: FoldedReporter,
        make_context: Callable[[], Any] | None = None,
        on_done: Callable[[], None] | None = None,
    ) -> None:
        """`make_context` opens another decoder than that of `codec`, on its thread and once a picture has come.
        `on_done` is called on the loop after each picture, whatever became of it."""
        self._codec = codec
        self._make_context = make_context or (lambda: open_decoder(_LIBRARIES[codec]))
        self._deliver = deliver
        self._on_trouble = on_trouble
        self._on_failed = on_failed
        self._on_done = on_done
        self._counters = counters
        self._clock = clock
        self._faults = faults
        self._waiting: queue.SimpleQueue[tuple[Picture, float] | None] = queue.SimpleQueue()
        self._put_at = 0.0
        self._skipping = False
        self._stopped = False
        self._last_pts: int | None = None
        self._good_at = clock.monotonic()
        self._thread = LoopThread(f"decode-{codec.lower()}", self._run)

    def put(self, picture: Picture) -> bool:
        """Hand over an encoded picture; False when it was dropped because the decoder is behind."""
        if self._skipping and picture.keyframe and self._waiting.qsize() <= MOST_WAITING // 2:
            self._skipping = False
        if self._skipping or self._waiting.qsize() >= MOST_WAITING:
            self._skipping = True
            self._counters.drop("decoder_busy")
            return False
        self._waiting.put((picture, self._clock.monotonic()))
        return True

    def stop(self) -> None:
        """Deliver nothing more, and end the thread after the picture it is at."""
        self._stopped = True
        self._waiting.put(None)

    async def ended(self) -> bool:
        """Wait for the thread after `stop`; whether it has ended."""
        return await self._thread.ended(JOIN_SECONDS)

    def _run(self) -> None:
        """The supervisor of the decoder: when it fails, its session is ended, and the publisher may come again."""
        try:
            self._decode()
        except Exception as error:  # noqa: BLE001 -- supervisor: a session without its thread must end
            self._stopped = True
            self._faults.report(
                f"decoder {type(error).__name__}",
                "the decoder failed and its session is ended",
                codec=self._codec,
                error=type(error).__name__,
                exc_info=error,
            )
            self._thread.call(self._on_failed)

    def _decode(self) -> None:
        context: Any = None
        while True:
            item = self._waiting.get()
            if item is None or self._stopped:
                return
            picture, self._put_at = item
            if context is None:
                context = self._make_context()
            packet = Packet(picture.data)
            packet.pts = picture.timestamp
            packet.time_base = VIDEO_CLOCK
            try:
                frames: list[VideoFrame] = context.decode(packet)
            except FFmpegError:
                self._counters.decode_error()
                self._thread.call(self._on_trouble)
            else:
                for frame in frames:
                    self._take(frame)
            if self._on_done is not None:
                self._thread.call(self._on_done)

    def _take(self, frame: VideoFrame) -> None:
        now = self._clock.monotonic()
        if max(frame.width, frame.height) > LARGEST_SIDE:
            self._counters.drop("too_large")
            self._counters.warn(TOO_LARGE_WARNING)
            return
        if frame.is_corrupt:
            self._counters.decode_error()
            self._thread.call(self._on_trouble)
            if now - self._good_at < DAMAGED_PATIENCE:
                self._counters.drop("damaged")
                return
        else:
            self._good_at = now
        if frame.pict_type == PictureType.B:
            self._counters.warn(B_FRAMES_WARNING)
        pts = frame.pts or 0
        if self._last_pts is not None and 0 < self._last_pts - pts < LARGEST_REORDERING:
            self._counters.drop("out_of_order")
            return
        self._last_pts = pts
        view = view_of(frame, received_at=now, sequence=self._counters.sequence, time_base=VIDEO_CLOCK)
        if view is None or self._stopped:
            return
        counters = self._counters
        counters.sequence += 1
        counters.frames_decoded += 1
        counters.hop("receive", now - self._put_at)
        counters.input_size = view.size
        self._deliver(view)


__all__ = ["B_FRAMES_WARNING", "LARGEST_SIDE", "TOO_LARGE_WARNING", "DecoderThread", "open_decoder"]
