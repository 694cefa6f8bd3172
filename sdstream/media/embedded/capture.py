"""When a publisher's pictures and sound were captured, on the server's own monotonic clock.

Two sources of knowledge are joined. Arrival times say when a packet was captured at the latest: the least of
`arrival - RTP time` over a few seconds is the quickest way through the network, and follows a drifting clock. Sender
reports say how the RTP clocks of the two tracks stand to each other; without them (or with nonsense in them) each
track is placed by its arrivals alone.
"""

from sdstream.media.embedded.sdp import VIDEO_CLOCK_RATE

AUDIO_CLOCK_RATE = 48_000
WINDOW_SECONDS = 4.0
"""The least delay is looked for in the present and the last window of so many seconds."""
LARGEST_STEP = 2.0
"""Seconds by which arrivals may move before the sender's clock is taken for another one."""
LARGEST_DISAGREEMENT = 1.0
"""Seconds by which sender reports may differ from the arrivals of the two tracks; beyond it they are not believed."""
REPORT_WEIGHT = 0.25
"""Share of a new sender report: some senders stamp them with an error of up to a frame."""
_SPAN = 1 << 32


class TrackClock:
    """The RTP clock of one track against the server's monotonic clock."""

    def __init__(self, rate: int) -> None:
        self.rate = rate
        self.offset: float | None = None
        """Monotonic seconds at which RTP time 0 would have arrived on the quickest way; None before any packet."""
        self.report_offset: float | None = None
        """NTP seconds at which RTP time 0 was captured, by the sender reports; None without any."""
        self._ticks = 0
        self._least = 0.0
        self._before = 0.0
        self._window_at = 0.0

    def arrived(self, timestamp: int, now: float) -> None:
        """Note the first packet with the 32-bit RTP `timestamp`."""
        if self.offset is None:
            self._ticks = timestamp
            self._start(now)
            return
        self._ticks = max(self._ticks, self.nearest(timestamp))
        offset = now - self.nearest(timestamp) / self.rate
        if abs(offset - self.offset) > LARGEST_STEP:
            self._ticks = timestamp
            self._start(now)
            return
        if now - self._window_at > WINDOW_SECONDS:
            self._before, self._least, self._window_at = self._least, offset, now
        else:
            self._least = min(self._least, offset)
        self.offset = min(self._least, self._before)

    def reported(self, timestamp: int, ntp: int) -> None:
        """Take a sender report: at the 64-bit NTP time `ntp` the RTP clock read `timestamp`."""
        if self.offset is None or ntp == 0:
            return
        offset = ntp / _SPAN - self.nearest(timestamp) / self.rate
        if self.report_offset is None or abs(offset - self.report_offset) > LARGEST_DISAGREEMENT:
            self.report_offset = offset
        else:
            self.report_offset += REPORT_WEIGHT * (offset - self.report_offset)

    def nearest(self, timestamp: int) -> int:
        """`timestamp`, of which 32 bits count, as the number nearest to the newest packet's."""
        return self._ticks + ((timestamp - self._ticks + _SPAN // 2) % _SPAN) - _SPAN // 2

    def _start(self, now: float) -> None:
        self.offset = self._least = self._before = now - self._ticks / self.rate
        self._window_at = now
        self.report_offset = None


class CaptureClock:
    """The clocks of one publisher's two tracks, brought together."""

    def __init__(self) -> None:
        self.video = TrackClock(VIDEO_CLOCK_RATE)
        self.audio = TrackClock(AUDIO_CLOCK_RATE)

    def captured_at(self, track: TrackClock, timestamp: int) -> float | None:
        """The monotonic second at which `timestamp` of `track` was captured, as a whole network delay later at most.

        None before a packet of the track has arrived. Never later than the quickest packet's arrival.
        """
        if track.offset is None:
            return None
        seconds = track.nearest(timestamp) / track.rate
        delays = self._delays()
        if delays is None or track.report_offset is None:
            return seconds + track.offset
        return seconds + track.report_offset + min(delays)

    def _delays(self) -> tuple[float, float] | None:
        """Monotonic less NTP seconds by each track's arrivals, when there are reports of both that make sense."""
        video, audio = self.video, self.audio
        if video.offset is None or audio.offset is None:
            return None
        if video.report_offset is None or audio.report_offset is None:
            return None
        delays = video.offset - video.report_offset, audio.offset - audio.report_offset
        return delays if abs(delays[0] - delays[1]) <= LARGEST_DISAGREEMENT else None


__all__ = ["AUDIO_CLOCK_RATE", "CaptureClock", "TrackClock"]
