"""RTCP that we send: reception reports, transport-wide arrival times, requests for packets and keyframes."""

import struct
from bisect import bisect_left
from dataclasses import dataclass

from aiortc.rtp import (
    RTCP_PSFB_PLI,
    RTCP_RTPFB_NACK,
    RtcpByePacket,
    RtcpPacket,
    RtcpPsfbPacket,
    RtcpReceiverInfo,
    RtcpRrPacket,
    RtcpRtpfbPacket,
    RtcpSenderInfo,
    RtcpSrPacket,
)

from sdstream.media.embedded.rtp import SequenceUnwrapper, nearest

_SOURCE_DESCRIPTION, _CANONICAL_NAME = 202, 1
_RTCP_TRANSPORT = 205
_ARRIVALS = 15
_TICKS_PER_SECOND = 4000
"""Arrival times count 250 microseconds."""
_LARGEST_RUN = 400
"""Transport numbers that one feedback message may span; a longer hole starts a new message."""
MOST_MESSAGES = 16
"""At a time. A sender's numbers go on by one; of one whose numbers leap the rest is not reported."""


@dataclass(slots=True)
class Reception:
    """What a receiver counts of one source (RFC 3550, appendix A)."""

    clock_rate: int
    kind: str
    codec: str
    packets: int = 0
    jitter_ticks: float = 0.0
    highest: int = 0
    _first: int | None = None
    _transit: float | None = None
    _last_timestamp: int | None = None
    _expected_before: int = 0
    _packets_before: int = 0
    _sender_report: int = 0
    _sender_report_at: float = 0.0

    def packet(self, sequence: int, timestamp: int, now: float) -> None:
        """Count a packet that arrived at `now`."""
        self.packets += 1
        if self._first is None:
            self._first = self.highest = sequence
        elif sequence == (self.highest + 1) & 0xFFFF:  # the usual case
            self.highest += 1
        else:
            self.highest = max(self.highest, nearest(sequence, self.highest, 1 << 16))
        if timestamp != self._last_timestamp:
            self._last_timestamp = timestamp
            transit = now * self.clock_rate - timestamp
            if self._transit is not None:
                moved = abs(transit - self._transit)
                if moved < self.clock_rate * 10:  # more is the timestamp's wrap
                    self.jitter_ticks += (moved - self.jitter_ticks) / 16
            self._transit = transit

    def sender_report(self, ntp: int, now: float) -> None:
        """Remember the peer's sender report, which reports of ours refer to."""
        self._sender_report = (ntp >> 16) & 0xFFFFFFFF
        self._sender_report_at = now

    @property
    def expected(self) -> int:
        return 0 if self._first is None else self.highest - self._first + 1

    @property
    def lost(self) -> int:
        return max(0, self.expected - self.packets)

    @property
    def jitter(self) -> float:
        """Seconds."""
        return self.jitter_ticks / self.clock_rate

    def report(self, source: int, now: float) -> RtcpReceiverInfo:
        """The block of a reception report; starts a new interval of the fraction lost."""
        expected, packets = self.expected - self._expected_before, self.packets - self._packets_before
        self._expected_before, self._packets_before = self.expected, self.packets
        missing = max(0, expected - packets)
        delay = now - self._sender_report_at
        return RtcpReceiverInfo(
            ssrc=source,
            fraction_lost=min(255, 256 * missing // expected) if expected > 0 else 0,
            packets_lost=min(self.lost, 0x7FFFFF),
            highest_sequence=self.highest & 0xFFFFFFFF,
            jitter=int(self.jitter_ticks) & 0xFFFFFFFF,
            lsr=self._sender_report,
            dlsr=min(int(delay * 65536), 0xFFFFFFFF) if self._sender_report else 0,
        )


class ArrivalReport:
    """Collects arrival times by transport-wide number, for a sender's bandwidth estimate.

    Chromium without such reports starts low, grows slowly and makes its picture small.
    """

    def __init__(self) -> None:
        self._numbers = SequenceUnwrapper(16)
        self._arrivals: dict[int, float] = {}
        self._count = 0

    @property
    def pending(self) -> bool:
        return bool(self._arrivals)

    def arrived(self, number: int, now: float) -> None:
        """Note the packet with the 16-bit transport-wide `number`."""
        self._arrivals.setdefault(self._numbers.unwrap(number), now)

    def take(self, sender: int, media: int) -> list[bytes]:
        """The feedback messages for all that arrived since the last call."""
        messages: list[bytes] = []
        numbers = sorted(self._arrivals)
        start = 0
        while start < len(numbers) and len(messages) < MOST_MESSAGES:
            end = bisect_left(numbers, numbers[start] + _LARGEST_RUN, start)
            messages.append(self._message(numbers[start:end], sender, media))
            start = end
        self._arrivals.clear()
        return messages

    def _message(self, run: list[int], sender: int, media: int) -> bytes:
        base = run[0]
        reference = int(self._arrivals[base] * _TICKS_PER_SECOND) // 256
        at = reference * 256
        symbols: list[int] = []
        deltas: list[bytes] = []
        for number in range(base, run[-1] + 1):
            arrival = self._arrivals.get(number)
            if arrival is None:
                symbols.append(0)
                continue
            ticks = int(arrival * _TICKS_PER_SECOND)
            delta = max(-32768, min(32767, ticks - at))
            at += delta
            small = 0 <= delta <= 255
            symbols.append(1 if small else 2)
            deltas.append(struct.pack("!B" if small else "!h", delta))
        head = struct.pack(
            "!IIHHI",
            sender,
            media,
            base & 0xFFFF,
            len(symbols),
            (reference & 0xFFFFFF) << 8 | (self._count & 0xFF),
        )
        self._count += 1
        chunks = b"".join(_symbol_chunk(symbols[index : index + 7]) for index in range(0, len(symbols), 7))
        body = head + chunks + b"".join(deltas)
        body += bytes(-len(body) % 4)
        return struct.pack("!BBH", 0x80 | _ARRIVALS, _RTCP_TRANSPORT, len(body) // 4) + body


def _symbol_chunk(symbols: list[int]) -> bytes:
    value = 0xC000
    for index, symbol in enumerate(symbols):
        value |= symbol << (12 - 2 * index)
    return value.to_bytes(2, "big")


def receiver_report(sender: int, receptions: dict[int, Reception], now: float) -> bytes:
    """One compound packet that reports on every source."""
    blocks = [reception.report(source, now) for source, reception in receptions.items()][:31]
    return bytes(RtcpRrPacket(ssrc=sender, reports=blocks))


def sender_report(source: int, name: str, ntp: int, timestamp: int, packets: int, octets: int) -> bytes:
    """A sender report with its description. `ntp` is the 64-bit NTP time that `timestamp` belongs to."""
    ntp &= 0xFFFFFFFFFFFFFFFF  # NTP counts its seconds from 0 again in 2036
    info = RtcpSenderInfo(ntp, timestamp & 0xFFFFFFFF, packets & 0xFFFFFFFF, octets & 0xFFFFFFFF)
    return bytes(RtcpSrPacket(ssrc=source, sender_info=info)) + source_description(source, name)


def source_description(source: int, name: str) -> bytes:
    """SDES with a canonical name of at most 255 bytes (RFC 3550, 6.5).

    aiortc's ends every fourth length of a name with five zeros, where one to four are allowed: the last four are the
    beginning of another description then. libdatachannel, and so Daydream's OBS plugin, reads such a packet for ever.
    """
    text = name.encode()
    chunk = struct.pack(">IBB", source, _CANONICAL_NAME, len(text)) + text
    chunk += bytes(4 - len(chunk) % 4)
    return struct.pack(">BBH", 0x81, _SOURCE_DESCRIPTION, len(chunk) // 4) + chunk


def keyframe_request(sender: int, media: int) -> bytes:
    """PLI."""
    return bytes(RtcpPsfbPacket(fmt=RTCP_PSFB_PLI, ssrc=sender, media_ssrc=media))


def packet_request(sender: int, media: int, sequences: list[int]) -> bytes:
    """NACK for 16-bit `sequences`."""
    return bytes(RtcpRtpfbPacket(fmt=RTCP_RTPFB_NACK, ssrc=sender, media_ssrc=media, lost=sorted(sequences)))


def goodbye(source: int) -> bytes:
    return bytes(RtcpByePacket(sources=[source]))


def read_rtcp(packet: bytes) -> list[object]:
    """The parts of a compound packet; nothing when it is malformed."""
    try:
        return list(RtcpPacket.parse(packet))
    except (ValueError, struct.error, IndexError):
        return []


__all__ = [
    "MOST_MESSAGES",
    "ArrivalReport",
    "Reception",
    "goodbye",
    "keyframe_request",
    "packet_request",
    "read_rtcp",
    "receiver_report",
    "sender_report",
]
