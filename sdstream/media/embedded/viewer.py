"""A viewer's session: encoded pictures out, lost packets sent again, keyframe requests back.

Pictures go out on the encoder's thread where the connection takes them there, since to wake the event loop for each
costs more than to send it; else on the loop. Everything else happens on the loop.
"""

import asyncio
import random
from collections.abc import Callable
from datetime import UTC, datetime

from aiortc.rtp import (
    RTCP_PSFB_FIR,
    RTCP_PSFB_PLI,
    RTCP_RTPFB_NACK,
    RtcpPsfbPacket,
    RtcpReceiverInfo,
    RtcpRrPacket,
    RtcpRtpfbPacket,
    RtcpSrPacket,
)

from sdstream.clock import Clock
from sdstream.media.embedded.addresses import Addressing
from sdstream.media.embedded.capture import AUDIO_CLOCK_RATE
from sdstream.media.embedded.counters import StreamCounters
from sdstream.media.embedded.encoding import EncodedPicture
from sdstream.media.embedded.lines import (
    MOST_REPAIRS_ANYWAY,
    REPAIRS_ANYWAY,
    RepairBudget,
    SentSoFar,
    ViewerLine,
)
from sdstream.media.embedded.negotiation import VideoChoice, VideoCodec
from sdstream.media.embedded.peer import Peer
from sdstream.media.embedded.presentation import Presentation
from sdstream.media.embedded.reports import goodbye, read_rtcp, sender_report
from sdstream.media.embedded.rtp import write_packet
from sdstream.media.embedded.sdp import VIDEO_CLOCK_RATE
from sdstream.media.embedded.sound import SoundPacket

HISTORY = 1024
"""Packets kept for viewers that lost some: about three seconds of 3 Mbit/s."""
MOST_BACKLOG = 400_000
"""Bytes that may wait in a viewer's socket, about two seconds; behind that pictures are dropped up to a keyframe."""
REPORT_SECONDS = 1.0
NTP_ORIGIN = datetime(1900, 1, 1, tzinfo=UTC)


class ViewerGate:
    """Drops pictures for a viewer that is behind, and opens again at a keyframe once it has caught up."""

    def __init__(self, most: int = MOST_BACKLOG) -> None:
        self._most = most
        self._open = False
        self._behind = False
        self.dropped = 0
        """Pictures dropped because the viewer was behind."""

    def admit(self, *, keyframe: bool, backlog: int) -> bool:
        """Whether a picture is sent while `backlog` bytes wait."""
        if backlog > self._most:
            self._open = False
            self._behind = True
        elif not self._open and keyframe and backlog <= self._most // 4:
            self._open = True
            self._behind = False
        if not self._open and self._behind:
            self.dropped += 1
        return self._open


class SentTrack:
    """What is counted of a track that is sent, and where its RTP clock stands in presented time.

    Both tracks of a viewer are placed by when picture and sound were captured, not by when they were sent, so a player
    that follows the sender reports shows together what belongs together, whatever either waited for. `Presentation`
    moves both alike.
    """

    def __init__(self, source: int, rate: int) -> None:
        self.source = source
        self.origin = random.getrandbits(32)
        self.packets = 0
        self.octets = 0
        self._rate = rate
        self._placed: tuple[int, float] | None = None  # one value, since it is read by the loop and written by others
        self._last: int | None = None

    def sent(self, packets: int, octets: int) -> None:
        self.packets += packets
        self.octets += octets

    def moved(self, timestamp: int, shift: float) -> int:
        """`timestamp`, which does not wrap, moved by `shift` seconds, but behind the last one at any rate."""
        ticks = timestamp + round(shift * self._rate)
        if self._last is not None and ticks <= self._last:
            ticks = self._last + self._rate // 1000
        self._last = ticks
        return ticks

    def stamp(self, picture: EncodedPicture, presentation: Presentation, now: float) -> tuple[int, int]:
        """The RTP time stamp with which a picture is sent at the monotonic second `now`, and the ticks by which it is
        later than that of the encoder."""
        if picture.is_live:
            shift = presentation.picture_shift(picture.captured_at, now)
        else:
            shift = presentation.shift(picture.captured_at)
        moved = self.moved(picture.timestamp, shift)
        return (self.origin + moved) & 0xFFFFFFFF, moved - picture.timestamp

    def sent_picture(self, picture: EncodedPicture, timestamp: int, later: int) -> None:
        """A picture was sent, stamped so."""
        self.sent(len(picture.payloads), picture.byte_count)
        if picture.is_live or not self.is_placed:
            self.place(timestamp, picture.captured_at + later / self._rate)

    def place(self, timestamp: int, presented_at: float) -> None:
        """What has the RTP `timestamp` is presented at that monotonic second."""
        self._placed = timestamp, presented_at

    @property
    def is_placed(self) -> bool:
        return self._placed is not None

    def reading(self, now: float) -> int | None:
        """What the RTP clock reads at the monotonic second `now`; None before anything was sent."""
        placed = self._placed
        if placed is None:
            return None
        timestamp, presented_at = placed
        return (timestamp + round((now - presented_at) * self._rate)) & 0xFFFFFFFF


class ViewerSession:
    """One WHEP session. Callbacks come on the event loop, `on_keyframe_request` on the encoder's thread too."""

    def __init__(
        self,
        session_id: str,
        video: VideoChoice,
        sources: tuple[int, int, int],
        name: str,
        addressing: Addressing,
        counters: StreamCounters,
        clock: Clock,
        *,
        on_connected: Callable[["ViewerSession"], None],
        on_closed: Callable[["ViewerSession", str], None],
        on_keyframe_request: Callable[["ViewerSession"], None],
        fast: bool,
        sound_type: int | None = None,
        on_limit: Callable[["ViewerSession"], None] = lambda session: None,
        presented: Callable[[], Presentation] = Presentation,
    ) -> None:
        """`sources` are the SSRCs of picture, repairs and sound; `sound_type` is Opus' payload type, None without.

        `presented` says on any thread when pictures and sound are presented.
        """
        self.session_id = session_id
        self.peer = Peer(addressing, self, fast=fast)
        self._video = video
        self._source, self._repair_source, sound_source = sources
        self.sound_type = sound_type
        self._sound = SentTrack(sound_source, AUDIO_CLOCK_RATE)
        self._sound_sequence = 0
        """The RTP sequence number of the stream's sound 0."""
        self._sound_skipped = False
        self._presented = presented
        self._name = name
        self._counters = counters
        self._clock = clock
        self._connected = on_connected
        self._closed = on_closed
        self._request = on_keyframe_request
        self._limited = on_limit
        self._gate = ViewerGate()
        self._line = ViewerLine()
        self._repairs = RepairBudget()
        self._repairs_anyway = RepairBudget(REPAIRS_ANYWAY, MOST_REPAIRS_ANYWAY)
        # The first number lies in the lower half: a wrap during the first seconds can confuse SRTP (RFC 3711, 3.3.1).
        self._sequence = random.getrandbits(15)
        self._repair_sequence = random.getrandbits(15)
        self._history: list[tuple[int, int, bool, bytes] | None] = [None] * HISTORY
        self._picture = SentTrack(self._source, VIDEO_CLOCK_RATE)
        self.heard_at = clock.monotonic()
        """When the viewer last gave a sign of life: its reports come every few seconds at most."""
        self._timer: asyncio.TimerHandle | None = None
        self._left_to_loop = 0
        """Pictures that the encoder's thread left to the loop; counted by that thread alone."""
        self._taken_by_loop = 0
        self._ended = False

    @property
    def codec(self) -> VideoCodec:
        return self._video.codec

    @property
    def connected(self) -> bool:
        return self.peer.connected

    @property
    def limit(self) -> float:
        return self._line.limit

    def deliver_here(self, picture: EncodedPicture) -> bool:
        """Send one picture on the calling thread, the encoder's; False when it is to be given to `deliver` on the loop.

        No picture overtakes one that was left to the loop.
        """
        if self._left_to_loop != self._taken_by_loop or not self.peer.sends_here:
            self._left_to_loop += 1
            return False
        self._send(picture, 0, self.peer.send_rtp_burst_here)
        return True

    def deliver(self, picture: EncodedPicture) -> None:
        """Send one picture, on the loop."""
        if self.peer.connected:
            self._send(picture, self.peer.backlog, self.peer.send_rtp_burst)
        self._taken_by_loop = min(self._taken_by_loop + 1, self._left_to_loop)

    def _send(self, picture: EncodedPicture, backlog: int, send: Callable[[list[bytes]], None]) -> None:
        """Send one picture, unless the viewer is behind or has had no keyframe yet."""
        dropped = self._gate.dropped
        if not self._gate.admit(keyframe=picture.keyframe, backlog=backlog):
            self._counters.drop("viewer_slow", self._gate.dropped - dropped)
            self._request(self)
            return
        timestamp, later = self._picture.stamp(picture, self._presented(), self._clock.monotonic())
        last = len(picture.payloads) - 1
        payload_type, source, sequence = self._video.payload_type, self._source, self._sequence
        history, packets = self._history, list[bytes]()
        for index, payload in enumerate(picture.payloads):
            marker = index == last
            packets.append(write_packet(payload_type, marker, sequence, timestamp, source, payload))
            history[sequence % HISTORY] = (sequence, timestamp, marker, payload)
            sequence = (sequence + 1) & 0xFFFF
        send(packets)
        self._sequence = sequence
        self._picture.sent_picture(picture, timestamp, later)
        self._counters.sent(picture.byte_count + 12 * (last + 1))

    def deliver_sound(self, packet: SoundPacket) -> None:
        """Send one packet of sound, unless the viewer is so far behind that it would come late."""
        if self.sound_type is None or not self.peer.connected or self.peer.backlog > MOST_BACKLOG:
            return
        if packet.skipped:
            self._sound_sequence -= 1  # nothing is missing where something was left out
            self._sound_skipped = True
            return
        track = self._sound
        if not track.packets:  # in the lower half as well, wherever the stream's own numbers are by now
            self._sound_sequence = random.getrandbits(15) - packet.sequence
        shift = self._presented().shift(packet.captured_at)
        timestamp = (track.origin + track.moved(packet.timestamp, shift)) & 0xFFFFFFFF
        sequence = (self._sound_sequence + packet.sequence) & 0xFFFF
        marker = packet.begins or self._sound_skipped or not track.packets
        self._sound_skipped = False
        self.peer.send_rtp(write_packet(self.sound_type, marker, sequence, timestamp, track.source, packet.payload))
        track.sent(1, len(packet.payload))
        track.place(timestamp, packet.captured_at + shift)
        self._counters.sent(len(packet.payload) + 12)

    async def close(self) -> None:
        """Say goodbye and end the connection. Idempotent."""
        if not self._ended:
            self.peer.send_rtcp(goodbye(self._source))
        self._end()
        await self.peer.close()

    # What the peer tells

    def on_connected(self) -> None:
        self.heard_at = self._clock.monotonic()
        self._timer = asyncio.get_running_loop().call_later(REPORT_SECONDS, self._report)
        self._connected(self)

    def on_closed(self, reason: str) -> None:
        self._end()
        self._closed(self, reason)

    def on_rtp(self, packet: bytes) -> None:
        """A viewer has nothing to send."""

    def on_rtcp(self, packet: bytes) -> None:
        self.heard_at = self._clock.monotonic()
        for part in read_rtcp(packet):
            if isinstance(part, RtcpRtpfbPacket) and part.fmt == RTCP_RTPFB_NACK:
                for sequence in dict.fromkeys(part.lost):
                    self._send_again(sequence & 0xFFFF)
            elif isinstance(part, RtcpPsfbPacket) and part.fmt in (RTCP_PSFB_PLI, RTCP_PSFB_FIR):
                self._request(self)
            elif isinstance(part, RtcpRrPacket | RtcpSrPacket):
                for report in part.reports:
                    self._hear(report)

    def _hear(self, report: RtcpReceiverInfo) -> None:
        if report.ssrc != self._source:
            return  # of sound or of repairs, which take little
        before, sent = self._line.limit, SentSoFar(self._picture.packets, self._picture.octets, self._gate.dropped)
        self._line.note(report, sent, self._clock.monotonic(), self._ntp())
        if self._line.limit != before:
            self._limited(self)

    def _send_again(self, sequence: int) -> None:
        kept = self._history[sequence % HISTORY]
        if kept is None or kept[0] != sequence:
            return
        _, timestamp, marker, payload = kept
        if self._line.is_narrow and not self._repairs.take(len(payload), self._picture.octets):
            return  # a keyframe mends what is left, and the viewer asks for one
        if not self._repairs_anyway.take(len(payload), self._picture.octets):
            return
        if self._video.retransmission_type is None:
            packet = write_packet(self._video.payload_type, marker, sequence, timestamp, self._source, payload)
        else:
            packet = write_packet(
                self._video.retransmission_type,
                marker,
                self._repair_sequence,
                timestamp,
                self._repair_source,
                sequence.to_bytes(2, "big") + payload,
            )
            self._repair_sequence = (self._repair_sequence + 1) & 0xFFFF
        self._counters.sent(len(packet))
        self.peer.send_rtp(packet)

    def _report(self) -> None:
        if self._ended:
            return
        self._timer = asyncio.get_running_loop().call_later(REPORT_SECONDS, self._report)
        self.peer.refresh_route()
        now = self._clock.monotonic()
        ntp = self._ntp()
        for track in (self._picture, self._sound):
            timestamp = track.reading(now)
            if timestamp is not None:
                self.peer.send_rtcp(
                    sender_report(track.source, self._name, ntp, timestamp, track.packets, track.octets)
                )

    def _ntp(self) -> int:
        return round((self._clock.now() - NTP_ORIGIN).total_seconds() * (1 << 32))

    def _end(self) -> None:
        self._ended = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


__all__ = ["MOST_BACKLOG", "SentTrack", "ViewerGate", "ViewerSession"]
