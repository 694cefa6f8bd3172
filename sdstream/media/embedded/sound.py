"""Sound on its way through: Opus packets held back as long as the pictures of the same moment take, then sent on.

Nothing is decoded here. A packet keeps its payload and its distance in time to the packet before it; what changes is
when it leaves, and the number line it lies on, which runs on when another publisher comes.
"""

import asyncio
import statistics
from collections import deque
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

from sdstream.clock import Clock
from sdstream.media.embedded.capture import AUDIO_CLOCK_RATE
from sdstream.media.embedded.presentation import Presentation
from sdstream.media.embedded.rtp import SequenceUnwrapper
from sdstream.media.ports import SoundStatistics

OBSERVED = 15
"""Pictures whose latency is remembered: half a second."""
STEP_OBSERVED = 5
"""Pictures that must agree before the delay jumps."""
STEP_SECONDS = 0.05
"""A difference of this much is made up for at once, a smaller one slowly."""
SLEW = 0.02
"""Seconds of delay changed in a second while nothing jumps: a player stretches that without being heard."""
LONGEST_DELAY = 3.0
MOST_WAITING = 400
"""Packets held: eight seconds of the usual 20 ms."""
LARGEST_GAP = 500
"""Packets missing in a row up to which the sequence goes on; behind it, it is another sender's."""
EARLY = 0.002
"""A packet so close to its moment goes along with the one before: a timer's resolution."""


class ReceivedSound(NamedTuple):
    """One Opus packet of the publisher. `sequence` (16 bits) and `timestamp` (32 bits, 48 kHz) are as they came."""

    sequence: int
    timestamp: int
    captured_at: float
    payload: bytes


@dataclass(frozen=True, slots=True)
class SoundPacket:
    """One Opus packet on the output's number lines, which do not wrap. `begins` marks the first after a break.

    One that is `skipped` belongs to pictures that live viewers will not see: the latency fell, and they are further.
    """

    sequence: int
    timestamp: int
    captured_at: float
    begins: bool
    payload: bytes
    skipped: bool = False


class SoundSink(Protocol):
    """Takes the sound of a stream, on the event loop."""

    def deliver_sound(self, packet: SoundPacket) -> None: ...


class SoundDelay:
    """How long sound is held: the time pictures take from capture to sending. Pure; times are given."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.corrections = 0
        """Jumps: the latency of pictures changed by more than could be followed slowly."""
        self._latencies: deque[float] = deque(maxlen=OBSERVED)
        self._at: float | None = None

    def observe(self, latency: float, now: float) -> bool:
        """Take the latency of a picture that is sent `now`; whether the delay jumped."""
        latency = min(max(latency, 0.0), LONGEST_DELAY)
        self._latencies.append(latency)
        elapsed = 0.0 if self._at is None else now - self._at
        first, self._at = self._at is None, now
        if first:
            self.seconds = latency
            return False
        newest = list(self._latencies)[-STEP_OBSERVED:]
        off = [value - self.seconds for value in newest]
        if len(newest) == STEP_OBSERVED and (min(off) > STEP_SECONDS or max(off) < -STEP_SECONDS):
            self.seconds = statistics.median(newest)
            self._latencies.clear()
            self._latencies.extend(newest)
            self.corrections += 1
            return True
        wanted = statistics.median(self._latencies)
        most = SLEW * min(elapsed, 1.0)
        self.seconds += min(max(wanted - self.seconds, -most), most)
        return False


class OldestDroppedSound:
    """The packets that wait, in the publisher's order; when there are too many, the oldest goes."""

    def __init__(self, most: int = MOST_WAITING) -> None:
        self._most = most
        self._packets: deque[tuple[int, ReceivedSound]] = deque()
        self.dropped = 0

    def put(self, number: int, packet: ReceivedSound) -> bool:
        """Insert by `number`, the unwrapped sequence; False when that packet is already there."""
        position = len(self._packets)
        while position and self._packets[position - 1][0] > number:
            position -= 1
        if position and self._packets[position - 1][0] == number:
            return False
        self._packets.insert(position, (number, packet))
        if len(self._packets) > self._most:
            self._packets.popleft()
            self.dropped += 1
        return True

    def head(self) -> tuple[int, ReceivedSound] | None:
        return self._packets[0] if self._packets else None

    def take(self) -> tuple[int, ReceivedSound]:
        return self._packets.popleft()

    def clear(self) -> None:
        self._packets.clear()

    def __len__(self) -> int:
        return len(self._packets)


class SoundRelay:
    """The sound of one stream, from its publishers to its sinks. For the event loop; `observe` for any thread."""

    def __init__(self, clock: Clock) -> None:
        self.sinks: set[SoundSink] = set()
        self.presentation = Presentation()
        """For any thread: replaced as a whole."""
        self._clock = clock
        self._delay = SoundDelay()
        self._observed: deque[tuple[float, float]] = deque(maxlen=OBSERVED)
        """What was observed and not looked at yet."""
        self._waiting = OldestDroppedSound()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._numbers = SequenceUnwrapper(16)
        self._released: tuple[int, ReceivedSound] | None = None
        """The last packet of the present publisher that left."""
        self._sent: SoundPacket | None = None
        self._packets = 0
        self._gaps = 0
        self._late = 0
        self._skipped = 0
        self._closed = False

    def statistics(self) -> SoundStatistics:
        self._look()
        return SoundStatistics(
            packets=self._packets,
            gaps=self._gaps,
            corrections=self._delay.corrections,
            dropped={
                reason: count
                for reason, count in (
                    ("sound_late", self._late),
                    ("sound_overflow", self._waiting.dropped),
                    ("sound_skipped", self._skipped),
                )
                if count
            },
            delay=self._delay.seconds,
        )

    def put(self, packet: ReceivedSound) -> None:
        """Take a packet of the publisher; it is held for as long as pictures take."""
        if not self.sinks or self._closed:
            self._break()  # by the next that is heard the numbers may have gone round
            return
        number = self._numbers.unwrap(packet.sequence)
        if self._released is not None and number <= self._released[0]:
            if number > self._released[0] - LARGEST_GAP:
                self._late += 1
                return
            self._break()
        self._waiting.put(number, packet)
        self._look()
        self.presentation = self.presentation.held(self._delay.seconds, self._clock.monotonic())
        self._arm()

    def observe(self, latency: float, now: float) -> None:
        """A picture captured `latency` seconds before `now` was sent; it counts from the next packet of sound on."""
        self._observed.append((latency, now))

    def _look(self) -> None:
        while self._observed:
            before = self._delay.seconds
            now = self._clock.monotonic()
            if self._delay.observe(*self._observed.popleft()) and self.presentation.is_fresh(now):
                head = self._waiting.head()
                next_at = now - before if head is None else head[1].captured_at
                self.presentation = self.presentation.jumped(self._delay.seconds - before, next_at)

    def restart(self) -> None:
        """Another publisher came: what the one before sent is not followed by its numbers."""
        self._waiting.clear()
        self._numbers = SequenceUnwrapper(16)
        self._break()

    def close(self) -> None:
        self._closed = True
        self._waiting.clear()
        self.sinks.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _break(self) -> None:
        self._released = None

    def _arm(self) -> None:
        head = self._waiting.head()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if head is None or self._closed:
            return
        due = head[1].captured_at + self._delay.seconds - self._clock.monotonic()
        if due <= EARLY:
            self._release()
        else:
            self._timer = self._loop.call_later(due, self._release)

    def _release(self) -> None:
        self._timer = None
        self._look()
        until = self._clock.monotonic() - self._delay.seconds + EARLY
        while (head := self._waiting.head()) is not None and head[1].captured_at <= until:
            number, packet = self._waiting.take()
            self._send(number, packet)
        if self._waiting:
            self._arm()

    def _send(self, number: int, packet: ReceivedSound) -> None:
        placed = self._place(number, packet)
        self._released = (number, packet)
        self._sent = placed
        self._packets += 1
        if self.presentation.skips_sound(packet.captured_at):
            self._skipped += 1
            placed = replace(placed, skipped=True)
        for sink in tuple(self.sinks):
            sink.deliver_sound(placed)

    def _place(self, number: int, packet: ReceivedSound) -> SoundPacket:
        """The packet on the output's number lines."""
        sent, released = self._sent, self._released
        if sent is None:
            return SoundPacket(0, 0, packet.captured_at, True, packet.payload)
        if released is not None:
            missing = number - released[0] - 1
            ticks = (packet.timestamp - released[1].timestamp) & 0xFFFFFFFF
            if missing <= LARGEST_GAP and 0 < ticks < 60 * AUDIO_CLOCK_RATE:
                self._gaps += missing
                return SoundPacket(
                    sent.sequence + missing + 1, sent.timestamp + ticks, packet.captured_at, False, packet.payload
                )
        ticks = round((packet.captured_at - sent.captured_at) * AUDIO_CLOCK_RATE)
        return SoundPacket(
            sent.sequence + 1, sent.timestamp + max(ticks, 120), packet.captured_at, True, packet.payload
        )


__all__ = [
    "OldestDroppedSound",
    "ReceivedSound",
    "SoundDelay",
    "SoundPacket",
    "SoundRelay",
    "SoundSink",
]
