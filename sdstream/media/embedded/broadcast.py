"""One encoder for all viewers of a codec: newest picture in, packets out to each of them."""

import functools
import threading
from collections.abc import Callable
from typing import Protocol

from msgspec.structs import replace

from sdstream.clock import Clock
from sdstream.frames import VIDEO_CLOCK, LatestSlot, PictureSize
from sdstream.logs import FoldedReporter
from sdstream.media.embedded.counters import StreamCounters
from sdstream.media.embedded.encoding import (
    EncodedPicture,
    H264Encoder,
    KeyframePolicy,
    PictureEncoder,
)
from sdstream.media.embedded.lines import UNLIMITED, common_limit
from sdstream.media.embedded.negotiation import VideoCodec
from sdstream.media.embedded.pictures import OwnedPicture
from sdstream.media.embedded.rates import NOMINAL_RATE, Bitrates, RateFollower
from sdstream.media.embedded.threads import LoopThread
from sdstream.media.embedded.timeline import OutputTimeline

REPEAT_SECONDS = 0.5
"""A picture that nothing follows is sent again after this time, so that viewers who lost or missed it have it."""
RESTART_SECONDS = 0.5
"""The pause after a failure, so that an encoder which fails on every picture costs little."""
JOIN_SECONDS = 5.0
LEAST_RAISE, LEAST_CUT = 1.08, 0.97
"""Ratios of two bitrates from which on the encoder is set anew for what viewers' lines carry. It is raised in steps,
since a new encoder takes its time: x264 6 ms at 512x512, NVENC a session more for a moment."""


class PictureSink(Protocol):
    """Takes the encoded pictures of a broadcast, each once."""

    @property
    def limit(self) -> float | None:
        """Bits a second that its line takes, infinite where it takes all. None where its pictures are to be as good as
        the settings have them, whatever the lines of others carry."""
        ...

    def deliver_here(self, picture: EncodedPicture) -> bool:
        """Take it on the encoder's thread; False when `deliver` is to be called for it on the event loop."""
        ...

    def deliver(self, picture: EncodedPicture) -> None: ...


Outgoing = Callable[[], OwnedPicture]
"""Gives the picture to encode; called on the encoder's thread, so that placards are drawn there."""


class Broadcast:
    """The encoder thread of one codec, and its sinks. All methods are for the event loop, `put` for any thread.

    A failure ends no viewer's session: the encoder is made anew after a pause, and by x264 once NVENC has failed,
    whose sessions on one card are few.
    """

    def __init__(
        self,
        codec: VideoCodec,
        bitrates: Bitrates,
        h264_encoder: H264Encoder,
        counters: StreamCounters,
        clock: Clock,
        faults: FoldedReporter,
        on_sent: Callable[[EncodedPicture], None] = lambda picture: None,
        most_rate: float = NOMINAL_RATE,
    ) -> None:
        self.codec: VideoCodec = codec
        self.sinks: set[PictureSink] = set()
        self._on_sent = on_sent
        self._anchor: tuple[int, float] | None = None
        """The timestamp of the last live picture and when it was captured."""
        self._bitrates = bitrates
        self._limit = UNLIMITED
        self._most_rate = most_rate
        self._follower = RateFollower()
        self._h264_encoder: H264Encoder = h264_encoder
        self._counters = counters
        self._clock = clock
        self._faults = faults
        self._closing = threading.Event()
        self._slot: LatestSlot[Outgoing] = LatestSlot()
        self._policy = KeyframePolicy()
        self._timeline = OutputTimeline()
        self._encoder: PictureEncoder | None = None
        self._current: Outgoing | None = None
        self._taken_at = float("-inf")
        self._superseded_before = 0
        self._thread = LoopThread(f"encode-{codec.lower()}", self._run)

    def put(self, picture: Outgoing) -> None:
        """Have `picture` encoded next, in the place of one that the encoder has not taken yet."""
        self._slot.put(picture)

    def request_keyframe(self, latest: Outgoing | None = None) -> None:
        """Have a keyframe made soon. `latest` is encoded for it when no picture has come for a moment."""
        self._policy.request()
        if latest is not None and self._clock.monotonic() - self._taken_at > REPEAT_SECONDS / 5:
            self._slot.put(latest)

    def follow_lines(self) -> None:
        """Have the bitrate follow what the lines of the sinks carry; to be called when one of them has changed."""
        if self._bitrates.follows:
            self._limit = common_limit([sink.limit for sink in self.sinks])
        encoder = self._encoder
        if encoder is not None and self._bitrate(encoder.size) < LEAST_CUT * encoder.bitrate:
            self._policy.request()  # each picture until then is too large

    @property
    def bitrate(self) -> int | None:
        """Bits a second that the encoder is set to, None before there is one. From any thread."""
        encoder = self._encoder
        return None if encoder is None else encoder.bitrate

    @property
    def is_limited(self) -> bool:
        """Whether the encoder is set to less than the settings have, for the viewers' lines. From any thread."""
        encoder = self._encoder
        return encoder is not None and encoder.bitrate < self._bitrates.of(encoder.size, encoder.rate)

    async def close(self) -> None:
        """End the thread. Idempotent."""
        self._closing.set()
        self._slot.close()
        await self._thread.ended(JOIN_SECONDS)

    def _run(self) -> None:
        """The supervisor of the encoder: whatever fails on its thread is logged, and it begins again."""
        while not self._closing.is_set():
            try:
                self._encode_pictures()
            except Exception as error:  # noqa: BLE001 -- supervisor: without its thread no viewer gets a picture
                self._encoder = None
                self._counters.drop("encoder_failed")
                self._faults.report(
                    f"encoder {self.codec} {type(error).__name__}",
                    "the encoder failed and is made anew",
                    codec=self.codec,
                    next_encoder=self._h264_encoder if self.codec == "H264" else "libvpx",
                    error=type(error).__name__,
                    exc_info=error,
                )
                self._closing.wait(RESTART_SECONDS)
        self._encoder = None

    def _encode_pictures(self) -> None:
        while not self._slot.closed:
            item = self._slot.take(timeout=REPEAT_SECONDS)
            if self._slot.closed:
                return
            repeated = item is None
            if item is not None:
                self._current = item
            if self._current is None:
                continue
            self._count_superseded()
            made = self._encode(self._current(), repeated=repeated)
            if made is not None and not self._hand_out(made):
                self._closing.set()  # the loop is closed: nobody is left to send it
                return

    def _encode(self, picture: OwnedPicture, *, repeated: bool) -> EncodedPicture | None:
        started = self._clock.monotonic()
        self._taken_at = started
        timestamp = self._timeline.map(None if repeated else picture.pts, picture.time_base, started)
        # An encoder writes into its frame. H.264's, the only one of most streams, is given the picture's own.
        frame = (picture if self.codec == "H264" else picture.apart()).for_encoder()
        if self._timeline.exact:
            self._follower.note(timestamp, started)
        keyframe = self._policy.due(started)
        try:
            encoder = self._encoder
            if encoder is None or (encoder.size is not picture.size and encoder.size != picture.size):
                encoder = self._open_encoder(picture.size)
                keyframe, self._policy = True, KeyframePolicy()
            elif keyframe and self._is_off(encoder):
                encoder = self._open_encoder(picture.size)
            made = encoder.encode(frame, timestamp, keyframe=keyframe)
        except Exception:
            self._h264_encoder = "x264"
            raise
        if made is None:
            return None
        if made.keyframe:
            self._policy.made(started)
        ended = self._clock.monotonic()
        seconds = ended - started
        self._counters.encoded(picture.size, seconds, keyframe=made.keyframe)
        is_live = not repeated and self._timeline.exact and picture.captured_at is not None
        if is_live:
            self._counters.hop("encode", seconds)
        return replace(
            made,
            captured_at=self._captured_at(timestamp, picture.captured_at if is_live else None, started),
            is_live=is_live,
            encoded_at=ended,
        )

    def _bitrate(self, size: PictureSize) -> int:
        return self._bitrates.of(size, self._follower.rate, self._limit)

    def _is_off(self, encoder: PictureEncoder) -> bool:
        """Whether an encoder is set to something else than it would be now."""
        wanted = self._bitrate(encoder.size)
        if encoder.rate != self._follower.rate:
            return True
        if wanted == self._bitrates.of(encoder.size, encoder.rate):
            return wanted != encoder.bitrate
        return not LEAST_CUT < wanted / encoder.bitrate < LEAST_RAISE

    def _open_encoder(self, size: PictureSize) -> PictureEncoder:
        rate, before = self._follower.rate, self._encoder
        encoder = PictureEncoder(self.codec, size, self._bitrate(size), self._h264_encoder, self._most_rate, rate)
        if before is not None:
            encoder.picture_id = before.picture_id
        self._encoder = encoder
        return encoder

    def _captured_at(self, timestamp: int, captured_at: float | None, now: float) -> float:
        """Where a picture lies in captured time: what was made up follows the last live one."""
        if captured_at is not None:
            self._anchor = timestamp, captured_at
            return captured_at
        if self._anchor is None:
            self._anchor = timestamp, now
        return self._anchor[1] + (timestamp - self._anchor[0]) / VIDEO_CLOCK.denominator

    def _count_superseded(self) -> None:
        superseded = self._slot.superseded
        if superseded != self._superseded_before:
            self._counters.drop("encoder_busy", superseded - self._superseded_before)
            self._superseded_before = superseded

    def _hand_out(self, picture: EncodedPicture) -> bool:
        """Deliver on this thread what can be, and have the loop deliver the rest; False when the loop is closed."""
        others = [sink for sink in tuple(self.sinks) if not sink.deliver_here(picture)]
        if others:
            return self._thread.call(functools.partial(self._deliver, picture, others))
        self._note_sent(picture)
        return not self._thread.loop_is_closed

    def _deliver(self, picture: EncodedPicture, sinks: list[PictureSink]) -> None:
        for sink in sinks:
            sink.deliver(picture)
        self._note_sent(picture)

    def _note_sent(self, picture: EncodedPicture) -> None:
        if picture.is_live:
            self._counters.hop("send", self._clock.monotonic() - picture.encoded_at)
        self._on_sent(picture)


__all__ = ["Broadcast", "Outgoing", "PictureSink"]
