"""A publisher's session: packets in, encoded pictures to the decoder thread, requests and reports back."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

from aiortc.rtp import RtcpSrPacket

from sdstream.clock import Clock
from sdstream.frames import I420Frame
from sdstream.logs import FoldedReporter
from sdstream.media.embedded.addresses import Addressing
from sdstream.media.embedded.assembly import Packet, Picture, PictureAssembler
from sdstream.media.embedded.capture import AUDIO_CLOCK_RATE, CaptureClock, TrackClock
from sdstream.media.embedded.counters import StreamCounters
from sdstream.media.embedded.decoding import DecoderThread
from sdstream.media.embedded.negotiation import Negotiation
from sdstream.media.embedded.peer import Peer
from sdstream.media.embedded.reports import (
    ArrivalReport,
    Reception,
    keyframe_request,
    packet_request,
    read_rtcp,
    receiver_report,
)
from sdstream.media.embedded.rtp import Part, RtpHeader, read_header, unpack_h264, unpack_vp8
from sdstream.media.embedded.sdp import VIDEO_CLOCK_RATE
from sdstream.media.embedded.sound import ReceivedSound
from sdstream.media.ports import TrackStatistics

REPAIR_SECONDS = 0.01
ARRIVAL_SECONDS = 0.06
REPORT_SECONDS = 0.5
LEAST_REQUEST_SECONDS = 0.25
"""Keyframes are not asked for more often: making one takes the sender longer than that on a bad link."""
SOURCE_SILENCE = 0.5


def _unheard(session: "PublisherSession", packet: ReceivedSound) -> None:
    """Where nobody listens."""


class PublisherSession:
    """One WHIP session. `deliver` is called on the decoder thread, the other callbacks on the event loop."""

    def __init__(
        self,
        session_id: str,
        negotiation: Negotiation,
        addressing: Addressing,
        counters: StreamCounters,
        clock: Clock,
        *,
        deliver: Callable[["PublisherSession", I420Frame], None],
        on_connected: Callable[["PublisherSession"], None],
        on_closed: Callable[["PublisherSession", str], None],
        faults: FoldedReporter,
        fast: bool,
        on_sound: Callable[["PublisherSession", ReceivedSound], None] = _unheard,
    ) -> None:
        self.session_id = session_id
        self.peer = Peer(addressing, self, fast=fast)
        self._video = negotiation.video
        self._unpack = unpack_h264 if self._video.codec == "H264" else unpack_vp8
        self._sequence_id = negotiation.transport_sequence_id
        self._counters = counters
        self._clock = clock
        self._deliver = deliver
        self._connected = on_connected
        self._closed = on_closed
        self._faults = faults
        self._on_sound = on_sound
        self._sound_type = negotiation.sound_type
        self._sound_source = 0
        self._sound_at = 0.0
        self._capture = CaptureClock()
        self._pictured = -1
        """The RTP timestamp of the newest picture's first packet."""
        self._source = random.getrandbits(32)
        self._media_source = 0
        self._media_at = 0.0
        self._assembler = PictureAssembler()
        self._discarded_before = 0
        self._receptions: dict[int, Reception] = {}
        self._arrivals = ArrivalReport()
        self._decoder: DecoderThread | None = None
        self._loop = asyncio.get_running_loop()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._requested_at = float("-inf")
        self._ended = False

    def statistics(self) -> tuple[TrackStatistics, ...]:
        """What was counted of each source. Lost is what did not come by itself, also when it was repaired."""
        return tuple(
            TrackStatistics(
                kind=reception.kind,
                codec=reception.codec,
                packets_received=reception.packets,
                packets_lost=self._assembler.lost if reception.kind == "video" else reception.lost,
                jitter=reception.jitter,
                round_trip=self._assembler.round_trip if self._assembler.lost and reception.kind == "video" else None,
            )
            for reception in self._receptions.values()
        )

    async def close(self) -> None:
        """End the connection, the timers and the decoder thread. Idempotent."""
        self._end()
        await self.peer.close()
        decoder, self._decoder = self._decoder, None
        if decoder is not None:
            await decoder.ended()

    def request_keyframe(self) -> None:
        """Send a PLI, unless one was sent a moment ago."""
        now = self._clock.monotonic()
        if self._media_source and now - self._requested_at >= LEAST_REQUEST_SECONDS:
            self._requested_at = now
            self.peer.send_rtcp(keyframe_request(self._source, self._media_source))

    # What the peer tells

    def on_connected(self) -> None:
        self._decoder = DecoderThread(
            self._video.codec,
            self._deliver_mine,
            self._recover,
            self._on_decoder_failed,
            self._counters,
            self._clock,
            self._faults,
        )
        self._arm("report", REPORT_SECONDS, self._report)
        self._connected(self)

    def on_closed(self, reason: str) -> None:
        self._end()
        self._closed(self, reason)

    def on_rtp(self, packet: bytes) -> None:
        header = read_header(packet, self._sequence_id)
        if header is None or self._ended:
            return
        now = self._clock.monotonic()
        self._counters.bytes_received += len(packet)
        if header.transport_sequence is not None:
            self._arrivals.arrived(header.transport_sequence, now)
            self._arm("arrivals", ARRIVAL_SECONDS, self._report_arrivals)
        if header.payload_type == self._video.payload_type:
            reception = self._receptions.get(header.source)
            if reception is None:
                self._count(header, now, "video", self._video.codec, VIDEO_CLOCK_RATE)
            else:
                reception.packet(header.sequence, header.timestamp, now)
            if header.source == self._media_source:
                self._media_at = now
                follows = True
            else:
                follows = self._follow(header.source, now)
            if follows:
                if header.timestamp != self._pictured:
                    self._pictured = header.timestamp
                    self._capture.video.arrived(header.timestamp, now)
                self._take_video(header.sequence, header, packet[header.start : header.end], now)
        elif header.payload_type == self._video.retransmission_type:
            if header.end - header.start >= 2:
                original = packet[header.start] << 8 | packet[header.start + 1]
                self._take_video(original, header, packet[header.start + 2 : header.end], now)
        else:
            # Sound is read from its first packet on, also when nobody listens: its delay would else become the video's.
            self._count(header, now, "audio", "OPUS", AUDIO_CLOCK_RATE)
            if header.payload_type == self._sound_type and header.end > header.start:
                self._take_sound(header, packet, now)

    def on_rtcp(self, packet: bytes) -> None:
        self._counters.bytes_received += len(packet)
        now = self._clock.monotonic()
        for part in read_rtcp(packet):
            if isinstance(part, RtcpSrPacket) and part.ssrc in self._receptions:
                info = part.sender_info
                self._receptions[part.ssrc].sender_report(info.ntp_timestamp, now)
                if part.ssrc == self._media_source:
                    self._capture.video.reported(info.rtp_timestamp, info.ntp_timestamp)
                elif part.ssrc == self._sound_source:
                    self._capture.audio.reported(info.rtp_timestamp, info.ntp_timestamp)

    def captured_at(self, timestamp: int) -> float | None:
        """The monotonic second at which the picture with that RTP time was captured. From any thread."""
        return self._capture.captured_at(self._capture.video, timestamp)

    # Sound

    def _take_sound(self, header: RtpHeader, packet: bytes, now: float) -> None:
        clock = self._capture
        if header.source != self._sound_source:
            if self._sound_source and now - self._sound_at < SOURCE_SILENCE:
                return
            self._sound_source = header.source
            clock.audio = TrackClock(AUDIO_CLOCK_RATE)
        self._sound_at = now
        clock.audio.arrived(header.timestamp, now)
        captured_at = clock.captured_at(clock.audio, header.timestamp)
        if captured_at is not None:
            payload = packet[header.start : header.end]
            self._on_sound(self, ReceivedSound(header.sequence, header.timestamp, captured_at, payload))

    # Pictures

    def _follow(self, source: int, now: float) -> bool:
        """Whether to go over to another `source` of the picture: that is followed once the old one is silent."""
        if self._media_source and now - self._media_at < SOURCE_SILENCE:
            return False
        self._media_source = source
        self._media_at = now
        self._assembler = PictureAssembler()
        self._capture.video = TrackClock(VIDEO_CLOCK_RATE)
        self._requested_at = float("-inf")
        self.request_keyframe()
        return True

    def _take_video(self, sequence: int, header: RtpHeader, payload: bytes, now: float) -> None:
        data, part = b"", Part.ORDINARY
        if payload:
            try:
                data, part = self._unpack(payload)
            except ValueError:
                self._counters.decode_error()
                self._assembler.want_keyframe(now)
        assembler = self._assembler
        pictures = assembler.push(Packet(sequence, header.timestamp, header.marker, data, part), now)
        if assembler.waiting and (assembler.misses_few or "repair" not in self._timers):
            self._repair()
        if pictures:
            self._decode(pictures)

    def _decode(self, pictures: list[Picture]) -> None:
        if self._decoder is None:
            return
        for picture in pictures:
            if not self._decoder.put(picture):
                self.request_keyframe()

    def _repair(self) -> None:
        now = self._clock.monotonic()
        assembler = self._assembler
        pictures = assembler.tick(now)
        if assembler.wants_keyframe:
            self.request_keyframe()
        if self._video.loss_reports:
            wanted = assembler.requests(now)
            if wanted:
                self.peer.send_rtcp(packet_request(self._source, self._media_source, wanted))
        if assembler.waiting:
            self._arm("repair", REPAIR_SECONDS, self._repair)
        if pictures:
            self._decode(pictures)

    def _deliver_mine(self, frame: I420Frame) -> None:
        self._deliver(self, frame)

    def _recover(self) -> None:
        if not self._ended:
            self._assembler.want_keyframe(self._clock.monotonic())
            self.request_keyframe()

    def _on_decoder_failed(self) -> None:
        if not self._ended:
            self.on_closed("its decoder failed")

    # Reports

    def _count(self, header: RtpHeader, now: float, kind: str, codec: str, clock_rate: int) -> None:
        reception = self._receptions.get(header.source)
        if reception is None:
            if len(self._receptions) >= 8:
                return  # a sender that makes up sources
            reception = self._receptions[header.source] = Reception(clock_rate, kind, codec)
        reception.packet(header.sequence, header.timestamp, now)

    def _report(self) -> None:
        self._arm("report", REPORT_SECONDS * (0.8 + 0.4 * random.random()), self._report)
        now = self._clock.monotonic()
        self.peer.refresh_route()
        if self._receptions:
            self.peer.send_rtcp(receiver_report(self._source, self._receptions, now))
        if self._assembler.wants_keyframe:
            self.request_keyframe()
        discarded = self._assembler.discarded
        self._counters.drop("waiting_for_keyframe", max(0, discarded - self._discarded_before))
        self._discarded_before = discarded

    def _report_arrivals(self) -> None:
        for message in self._arrivals.take(self._source, self._media_source):
            self.peer.send_rtcp(message)

    def _arm(self, name: str, seconds: float, callback: Callable[[], Any]) -> None:
        if self._ended or name in self._timers:
            return

        def fire() -> None:
            self._timers.pop(name, None)
            if not self._ended:
                callback()

        self._timers[name] = self._loop.call_later(seconds, fire)

    def _end(self) -> None:
        self._ended = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        if self._decoder is not None:
            self._decoder.stop()


__all__ = ["PublisherSession"]
