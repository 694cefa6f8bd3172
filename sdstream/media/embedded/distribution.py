"""Where a stream's pictures and sound go: one encoder for each codec somebody takes, one line of sound for all."""

import asyncio
from typing import Protocol

from sdstream.clock import Clock
from sdstream.logs import FoldedReporter
from sdstream.media.embedded.broadcast import Broadcast, Outgoing, PictureSink
from sdstream.media.embedded.counters import StreamCounters
from sdstream.media.embedded.encoding import EncodedPicture, H264Encoder
from sdstream.media.embedded.negotiation import VideoCodec
from sdstream.media.embedded.presentation import Presentation
from sdstream.media.embedded.rates import Bitrates
from sdstream.media.embedded.sound import ReceivedSound, SoundRelay, SoundSink
from sdstream.media.ports import SoundStatistics


class EncodingOptions(Protocol):
    """The part of a stream's options that encoders need."""

    @property
    def bitrates(self) -> Bitrates: ...
    @property
    def h264_encoder(self) -> H264Encoder: ...
    @property
    def frame_rate(self) -> float: ...


class Distribution:
    """All methods are for the event loop, `send`, `request_keyframe` and `presentation` for any
    thread."""

    def __init__(
        self, options: EncodingOptions, counters: StreamCounters, clock: Clock, faults: FoldedReporter
    ) -> None:
        self._options = options
        self._counters = counters
        self._clock = clock
        self._faults = faults
        self._broadcasts: dict[VideoCodec, Broadcast] = {}
        self._sound = SoundRelay(clock)
        self.latest: Outgoing | None = None
        """The newest picture, for whoever comes next."""

    def send(self, picture: Outgoing) -> None:
        """Have `picture` encoded for everybody; a newer one replaces it while an encoder is busy."""
        self.latest = picture
        for broadcast in tuple(self._broadcasts.values()):
            broadcast.put(picture)

    def join(self, codec: VideoCodec, pictures: PictureSink, sound: SoundSink | None) -> None:
        """Have pictures of `codec`, from a keyframe on, and sound delivered from now on."""
        broadcast = self._broadcasts.get(codec)
        if broadcast is None:
            broadcast = Broadcast(
                codec,
                self._options.bitrates,
                self._options.h264_encoder,
                self._counters,
                self._clock,
                self._faults,
                self._on_sent,
                self._options.frame_rate,
            )
            self._broadcasts[codec] = broadcast
        broadcast.sinks.add(pictures)
        broadcast.follow_lines()
        if sound is not None:
            self._sound.sinks.add(sound)
        broadcast.request_keyframe(self.latest)

    def leave(self, codec: VideoCodec, pictures: PictureSink, sound: SoundSink | None) -> Broadcast | None:
        """Deliver nothing more; returns an encoder that nobody needs any more, which the caller closes."""
        if sound is not None:
            self._sound.sinks.discard(sound)
        broadcast = self._broadcasts.get(codec)
        if broadcast is None:
            return None
        broadcast.sinks.discard(pictures)
        if not broadcast.sinks:
            return self._broadcasts.pop(codec)
        broadcast.follow_lines()
        return None

    def follow_lines(self, codec: VideoCodec) -> None:
        """A viewer's line carries more or less than before."""
        broadcast = self._broadcasts.get(codec)
        if broadcast is not None:
            broadcast.follow_lines()

    @property
    def bitrate(self) -> int | None:
        """Bits a second that the encoders are set to, the most of them; None without one."""
        rates = [broadcast.bitrate for broadcast in self._broadcasts.values()]
        return max((rate for rate in rates if rate is not None), default=None)

    @property
    def is_limited(self) -> bool:
        """Whether pictures are made coarser for the viewers' lines."""
        return any(broadcast.is_limited for broadcast in self._broadcasts.values())

    def request_keyframe(self, codec: VideoCodec) -> None:
        """Have a keyframe of `codec` made soon."""
        broadcast = self._broadcasts.get(codec)
        if broadcast is not None:
            broadcast.request_keyframe(self.latest)

    def request_keyframes(self) -> None:
        """Have every encoder's next picture be a keyframe, as far as the limit on keyframes allows."""
        for broadcast in self._broadcasts.values():
            broadcast.request_keyframe()

    def hear(self, packet: ReceivedSound) -> None:
        """Take a packet of sound from the publisher."""
        self._sound.put(packet)

    def presentation(self) -> Presentation:
        """When pictures and sound are presented, by what is known now. For any thread."""
        return self._sound.presentation

    def restart_sound(self) -> None:
        """Another publisher came."""
        self._sound.restart()

    def sound_statistics(self) -> SoundStatistics:
        return self._sound.statistics()

    async def close(self) -> None:
        self._sound.close()
        broadcasts = list(self._broadcasts.values())
        self._broadcasts.clear()
        await asyncio.gather(*(broadcast.close() for broadcast in broadcasts))

    def _on_sent(self, picture: EncodedPicture) -> None:
        if picture.is_live:
            now = self._clock.monotonic()
            self._sound.observe(now - picture.captured_at, now)


__all__ = ["Distribution", "EncodingOptions"]
