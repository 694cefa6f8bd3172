"""What a viewer's line carries, by the reception reports of its player. Pure; times are given.

A line that is too narrow loses packets, or has them wait before it, and then the round trip grows. Both are in every
player's reports (RFC 3550, section 6.4), about one a second. What follows from them is what Google's congestion control
has (draft-ietf-rmcat-gcc-02): below what arrived when there is too much, up by 8 % a second while there is not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from aiortc.rtp import RtcpReceiverInfo

UNLIMITED = math.inf
LOST_LITTLE, LOST_MUCH = 0.02, 0.10
"""Shares of packets: up to the first a line has room, from the second on it has too little. Wi-Fi loses what is
between, however few come."""
WAITED_LITTLE, WAITED_MUCH = 0.06, 0.2
"""The same in seconds by which a round trip is longer than the quickest one."""
FALLING_SECONDS = 0.03
"""A wait that is shorter than the last by this is one that ends: what was too much is not sent any more."""
WAITS = 2
"""Reports of a long wait in a row that count: a player's machine that stands still for a moment makes one."""
BACK_OFF = 0.85
"""Of what arrived, so that what waits is taken, too."""
MOST_BACK_OFF = 0.3
"""Of what was allowed, at once: repairs take a part of the line, so that less of pictures arrives than could."""
HOLD_SECONDS = 2.0
"""After a cut, in which no other comes: until the encoder has a keyframe and what waits has gone, reports are of what
was sent before."""
GROWTH, GROWTH_NEAR = 1.08, 1.02
"""A second; the latter near the rate at which the line was too narrow."""
NEAR = (0.8, 1.25)
USED = 0.75
"""Share of what is allowed that must be sent before more is: a placard says nothing of the line. An encoder that makes
a tenth less than it is set to, and is set anew for 8 % more, comes above it."""
LEAST_SECONDS = 0.8
"""Reports that come sooner are put together."""
MOST_SECONDS = 5.0
"""Of growth for one report."""
SILENCE = 3.0
"""Times the interval before that a report may take; what comes later comes after an outage."""
REPAIRS = 0.2
"""Share of what is sent that repairs may take of a line that is too narrow: they would crowd out what they repair."""
REPAIRS_SECONDS = 30.0
"""After a cut, for which that holds."""
MOST_REPAIRS = 16_000
"""Bytes of repairs that may be saved up."""
REPAIRS_ANYWAY, MOST_REPAIRS_ANYWAY = 1.0, 2_000_000
"""The same of any line: a report of 1,500 bytes can ask for 6,000 packets, and for the same ones again and again."""
QUICKEST_LASTS = 0.002
"""Seconds that the quickest round trip grows by in each second, so that another way may have another one."""
LONGEST_ROUND_TRIP = 60.0
"""Seconds; more is a clock that was set."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What a report says of the `seconds` since the one before. Rates are bits of pictures a second.

    `lost` is a share of packets, `waited` the seconds by which the round trip was longer than the quickest, None where
    that is not known. `dropped` says that pictures were not sent because the socket was behind.
    """

    seconds: float
    sent: float
    arrived: float
    lost: float
    waited: float | None
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class Allowance:
    """What may be sent: `limit` bits a second, infinite while no report has told of too little room.

    `narrow` is what arrived when there was too little the last time; `waited` is of the last report, and `waits` so
    many reports in a row told of a long wait. The last cut was `since` seconds ago.
    """

    limit: float = UNLIMITED
    narrow: float | None = None
    waited: float = 0.0
    waits: int = 0
    since: float = math.inf


def allow(before: Allowance, heard: Heard) -> Allowance:
    """What may be sent after a report."""
    waited = before.waited if heard.waited is None else heard.waited
    is_falling = waited < before.waited - FALLING_SECONDS
    waits = before.waits + 1 if waited >= WAITED_MUCH and not is_falling else 0
    now = replace(before, waited=waited, waits=waits, since=before.since + heard.seconds)
    is_strained = heard.dropped or heard.lost > LOST_MUCH or waits >= WAITS
    if is_strained and now.since >= HOLD_SECONDS:
        had = min(before.limit, heard.sent)
        limit = min(had, max(BACK_OFF * heard.arrived, MOST_BACK_OFF * had))
        return replace(now, limit=limit, narrow=heard.arrived, waits=0, since=0.0)
    limit = before.limit
    is_calm = not heard.dropped and heard.lost <= LOST_LITTLE and waited <= WAITED_LITTLE
    if limit == UNLIMITED or not is_calm or heard.sent < USED * limit:
        return now
    narrow = before.narrow if before.narrow is not None and limit <= NEAR[1] * before.narrow else None
    is_near = narrow is not None and limit >= NEAR[0] * narrow
    growth = GROWTH_NEAR if is_near else GROWTH
    return replace(now, limit=limit * growth ** min(heard.seconds, MOST_SECONDS), narrow=narrow)


def common_limit(limits: Sequence[float | None]) -> float:
    """Bits a second for those who share an encoder: the least such that the lines of more than half carry no more.

    So one of two does not make the other's picture coarse. Infinite where one is None, which is to have everything.
    """
    known = [limit for limit in limits if limit is not None]
    if len(known) < len(limits) or not known:
        return UNLIMITED
    return sorted(known, reverse=True)[(len(known) - 1) // 2]


@dataclass(frozen=True, slots=True)
class SentSoFar:
    """Totals of a track when a report came: packets, bytes of payload, pictures dropped for the socket."""

    packets: int
    octets: int
    dropped: int


@dataclass(frozen=True, slots=True)
class _Report:
    at: float
    seconds: float
    highest: int
    lost: int
    sent: SentSoFar


class RepairBudget:
    """How many packets may be sent again: `share` of what is sent, and `most` bytes at a time."""

    def __init__(self, share: float = REPAIRS, most: int = MOST_REPAIRS) -> None:
        self._share = share
        self._most = most
        self._saved = float(most)
        self._octets = 0

    def take(self, size: int, octets: int) -> bool:
        """Whether `size` bytes may be sent again when `octets` were sent so far."""
        self._saved = min(self._saved + self._share * (octets - self._octets), self._most)
        self._octets = octets
        if size > self._saved:
            return False
        self._saved -= size
        return True


class ViewerLine:
    """Follows one player's reports."""

    def __init__(self) -> None:
        self._allowance = Allowance()
        self._before: _Report | None = None
        self._quickest: float | None = None
        self._round_trip: float | None = None

    @property
    def limit(self) -> float:
        """Bits of pictures a second that the line takes; infinite while nothing says that it does not take all."""
        return self._allowance.limit

    @property
    def is_narrow(self) -> bool:
        """Whether the last cut is so short a time ago that repairs must be few."""
        return self._allowance.since < REPAIRS_SECONDS

    def note(self, report: RtcpReceiverInfo, sent: SentSoFar, now: float, ntp: int) -> None:
        """A report came at the monotonic second `now`, when `sent` was sent; `ntp` is the time of sender reports then,
        64 bits."""
        self._note_round_trip(report, ntp)
        before = self._before
        seconds = 0.0 if before is None else now - before.at
        if before is not None and seconds < LEAST_SECONDS:
            return
        self._before = _Report(now, seconds, report.highest_sequence, report.packets_lost, sent)
        if before is None:
            return
        packets, octets = sent.packets - before.sent.packets, sent.octets - before.sent.octets
        arrived = (report.highest_sequence - before.highest) & 0xFFFFFFFF
        if packets <= 0 or not 0 < arrived < 1 << 31:
            # Nothing has come through since, or another player reports: what the next one says is of both, too.
            self._before = None
            return
        if before.seconds and seconds > SILENCE * before.seconds:
            return  # what is lost in an outage says nothing of how much there is room for
        lost = min(max((report.packets_lost - before.lost) / arrived, 0.0), 1.0)
        waited = self._waited(seconds)
        self._allowance = allow(
            self._allowance,
            Heard(
                seconds=seconds,
                sent=8 * octets / seconds,
                arrived=8 * octets / packets * arrived * (1 - lost) / seconds,
                lost=lost,
                waited=waited,
                dropped=sent.dropped > before.sent.dropped,
            ),
        )

    def _note_round_trip(self, report: RtcpReceiverInfo, ntp: int) -> None:
        if not report.lsr:
            return  # it has had no sender report yet
        ticks = ((ntp >> 16) - report.lsr - report.dlsr) & 0xFFFFFFFF
        if ticks < LONGEST_ROUND_TRIP * 65536:
            self._round_trip = ticks / 65536

    def _waited(self, seconds: float) -> float | None:
        round_trip, self._round_trip = self._round_trip, None
        if round_trip is None:
            return None
        if self._quickest is not None:
            self._quickest += QUICKEST_LASTS * seconds
        self._quickest = round_trip if self._quickest is None else min(self._quickest, round_trip)
        return round_trip - self._quickest


__all__ = [
    "MOST_REPAIRS_ANYWAY",
    "REPAIRS_ANYWAY",
    "UNLIMITED",
    "Allowance",
    "Heard",
    "RepairBudget",
    "SentSoFar",
    "ViewerLine",
    "allow",
    "common_limit",
]
