"""From packets to whole pictures: reordering, loss, and when to stop waiting. Pure, driven by times that are given.

A picture is whole at the packet with the RTP marker bit, so it is released on arrival of its own last packet and not of
the next picture's first, which would cost one frame interval. All pictures that are whole are released together. A
missing packet is asked for again on a timer (NACK), and given up after twice the round trip and a bit; then pictures
are thrown away up to the next keyframe, which the caller must ask for (PLI).
"""

from dataclasses import dataclass

import msgspec

from sdstream.media.embedded.rtp import OPENING, ORDINARY, Part, SequenceUnwrapper, nearest

CAPACITY = 2048
"""Packets held while one is missing: about a second of 20 Mbit/s."""
INITIAL_ROUND_TRIP = 0.1
GIVE_UP_EXTRA = 0.05
LONGEST_WAIT = 1.0
KEYFRAME_PATIENCE = 2.0
"""Seconds after which pictures are released even without a keyframe: some senders never make one (intra refresh)."""
MAX_REQUESTED = 256
FEW_GAPS = 64
"""Missing packets up to which each packet that comes may be a reason to look at all of them."""
GAPS_A_SECOND = 2 * CAPACITY
"""Missing packets that are waited for; behind that it goes on with what has come. A sender whose numbers leap with each
packet would keep the event loop busy with what it leaves out."""


class Packet(msgspec.Struct, frozen=True, gc=False):
    """One media packet, its payload already taken out of its RTP wrapping. `timestamp` is the raw 32 bits."""

    sequence: int
    timestamp: int
    marker: bool
    data: bytes
    part: Part = Part.ORDINARY


class Picture(msgspec.Struct, frozen=True, gc=False):
    """One encoded picture. `timestamp` counts 90 kHz ticks and does not wrap."""

    data: bytes
    timestamp: int
    keyframe: bool


@dataclass(slots=True)
class _Gap:
    since: float
    asked_at: float
    asked: int


class PictureAssembler:
    """The jitter buffer of one video track. With `short`, packets that come in their order take a shorter way."""

    def __init__(self, *, short: bool = True) -> None:
        self._short = short
        self._timestamps = SequenceUnwrapper(32)
        self._packets: dict[int, Packet] = {}
        self._next: int | None = None
        self._highest = -1
        self._scanned = -1
        self._gaps: dict[int, _Gap] = {}
        self._keyframe_wanted_since: float | None = None
        self._started = False
        self._torn = False
        self._spare_gaps = float(CAPACITY)
        self._spared_at: float | None = None
        self.round_trip = INITIAL_ROUND_TRIP
        """A moving mean of the seconds from asking for a packet to having it."""
        self.lost = 0
        """Packets that did not come by themselves."""
        self.given_up = 0
        """Gaps that were not waited for any longer."""
        self.discarded = 0
        """Pictures thrown away while a keyframe was waited for."""

    @property
    def wants_keyframe(self) -> bool:
        """Whether pictures are being thrown away until a keyframe comes."""
        return self._keyframe_wanted_since is not None

    @property
    def waiting(self) -> bool:
        """Whether packets are missing, so that `tick` should be called every few milliseconds."""
        return bool(self._gaps)

    @property
    def misses_few(self) -> bool:
        """Whether so few packets are missing that to look at them costs little."""
        return len(self._gaps) <= FEW_GAPS

    def push(self, packet: Packet, now: float) -> list[Picture]:
        """Take a packet; return the pictures that are now whole, in order."""
        first = self._next
        sequence = self._highest + 1
        in_order = packet.sequence == sequence & 0xFFFF and not self._gaps
        if self._short and in_order and first is not None and sequence - first < CAPACITY:
            packets = self._packets
            packets[sequence] = packet
            self._highest = sequence
            if packet.marker or packet.timestamp != packets[first].timestamp or self._scanned != sequence - 1:
                return self._release(now)
            self._scanned = sequence
            return []
        sequence = packet.sequence if self._next is None else nearest(packet.sequence, self._highest, 1 << 16)
        if self._next is None:
            self._begin(sequence, now)
        assert self._next is not None
        if sequence < self._next:
            return []  # late or sent twice
        if sequence - self._next >= CAPACITY:
            self._restart(sequence, now)
        if sequence in self._packets:
            return []
        gap = self._gaps.pop(sequence, None)
        if gap is not None:
            if gap.asked == 1:
                self.round_trip += (min(now - gap.asked_at, LONGEST_WAIT) - self.round_trip) / 8
        elif sequence > self._highest:
            self.lost += sequence - self._highest - 1
            if not self._waits_for(sequence - self._highest - 1, now):
                self._restart(sequence, now)
            for missing in range(self._highest + 1, sequence):
                self._gaps[missing] = _Gap(now, -1.0, 0)
            self._highest = sequence
        self._packets[sequence] = packet
        return self._release(now)

    def requests(self, now: float) -> list[int]:
        """Sequence numbers (16 bits) to ask for at this moment: new gaps, and old ones after a round trip."""
        again = max(self.round_trip * 1.2, 0.02)
        due: list[int] = []
        for sequence, gap in self._gaps.items():
            if gap.asked == 0 or now - gap.asked_at >= again:
                gap.asked += 1
                gap.asked_at = now
                due.append(sequence & 0xFFFF)
                if len(due) == MAX_REQUESTED:
                    break
        return due

    def tick(self, now: float) -> list[Picture]:
        """Give up what has been missing for too long; return the pictures that this sets free."""
        limit = min(2 * self.round_trip + GIVE_UP_EXTRA, LONGEST_WAIT)
        overdue = [sequence for sequence, gap in self._gaps.items() if now - gap.since >= limit]
        if not overdue:
            return []
        self.given_up += len(overdue)
        last = max(overdue)
        for sequence in [sequence for sequence in self._gaps if sequence <= last]:
            del self._gaps[sequence]
        self._skip_to(last + 1)
        self.want_keyframe(now)
        return self._release(now)

    def want_keyframe(self, now: float) -> None:
        """Throw pictures away until the next keyframe, or until patience ends."""
        if self._keyframe_wanted_since is None:
            self._keyframe_wanted_since = now

    def _waits_for(self, count: int, now: float) -> bool:
        """Whether `count` more packets may be missing."""
        if not count:
            return True
        since = 0.0 if self._spared_at is None else now - self._spared_at
        self._spared_at = now
        self._spare_gaps = min(CAPACITY, self._spare_gaps + GAPS_A_SECOND * since)
        if count > self._spare_gaps:
            return False
        self._spare_gaps -= count
        return True

    def _begin(self, sequence: int, now: float) -> None:
        self._next = sequence
        self._highest = sequence - 1
        self._scanned = sequence - 1
        self._torn = True  # nobody knows what was sent before
        if not self._started:
            self._started = True
            self.want_keyframe(now)

    def _restart(self, sequence: int, now: float) -> None:
        self.given_up += len(self._gaps)
        self._packets.clear()
        self._gaps.clear()
        self._begin(sequence, now)
        self.want_keyframe(now)

    def _skip_to(self, position: int) -> None:
        """Go on at `position`, whose packet may be in the middle of a picture."""
        for sequence in [sequence for sequence in self._packets if sequence < position]:
            del self._packets[sequence]
        self._next = position
        self._scanned = position - 1
        self._torn = True

    def _release(self, now: float) -> list[Picture]:
        assert self._next is not None
        pictures: list[Picture] = []
        while True:
            position = self._scanned + 1
            packet = self._packets.get(position)
            if packet is None:
                return pictures
            first = self._packets[self._next]
            if packet.timestamp != first.timestamp:
                # The sender sets no marker, or it was on a padding packet: the next picture has begun.
                self._emit(self._next, position, now, pictures)
                continue
            self._scanned = position
            if packet.marker:
                self._emit(self._next, position + 1, now, pictures)

    def _emit(self, start: int, end: int, now: float, pictures: list[Picture]) -> None:
        packets = self._packets
        ticks = packets[start].timestamp
        parts: list[bytes] = []
        best = ORDINARY
        for sequence in range(start, end):
            packet = packets.pop(sequence)
            parts.append(packet.data)
            best = max(packet.part, best)
        self._next = end
        self._scanned = end - 1
        data = b"".join(parts)
        if not data:
            return  # padding, which probes the path
        torn, self._torn = self._torn and best is not OPENING, False
        timestamp = self._timestamps.unwrap(ticks)
        keyframe = best is not ORDINARY
        if torn:
            self.discarded += 1
            return
        since = self._keyframe_wanted_since
        if since is not None:
            if not keyframe and now - since < KEYFRAME_PATIENCE:
                self.discarded += 1
                return
            self._keyframe_wanted_since = None
        pictures.append(Picture(data, timestamp, keyframe))


__all__ = ["Packet", "Picture", "PictureAssembler"]
