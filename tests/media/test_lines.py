"""What viewers' lines carry, by their reports, and what an encoder makes of it."""

import random
from collections.abc import Iterable
from dataclasses import replace

import pytest
from aiortc.rtp import RtcpReceiverInfo, RtcpRrPacket
from hypothesis import given
from hypothesis import strategies as st

from sdstream.media.embedded import lines
from sdstream.media.embedded.lines import (
    UNLIMITED,
    Allowance,
    Heard,
    RepairBudget,
    SentSoFar,
    ViewerLine,
    allow,
    common_limit,
)

CALM = Heard(seconds=1.0, sent=1e6, arrived=1e6, lost=0.0, waited=0.01)
NARROW = 600_000.0


def after(reports: Iterable[Heard], before: Allowance | None = None) -> Allowance:
    """What is allowed after some reports."""
    state = before or Allowance()
    for heard in reports:
        state = allow(state, heard)
    return state


def test_a_line_with_room_is_not_limited() -> None:
    assert after([CALM] * 100).limit == UNLIMITED


@pytest.mark.parametrize(
    "heard", [replace(CALM, lost=0.09), replace(CALM, waited=0.15)], ids=["Wi-Fi", "a little late"]
)
def test_a_line_that_loses_or_waits_a_little_is_not_limited(heard: Heard) -> None:
    assert after([heard] * 100).limit == UNLIMITED


@pytest.mark.parametrize(
    "strained",
    [
        [replace(CALM, lost=0.3, arrived=7e5)],
        [replace(CALM, waited=0.3, arrived=7e5), replace(CALM, waited=0.4, arrived=7e5)],
        [replace(CALM, dropped=True, arrived=7e5)],
    ],
    ids=["packets are lost", "packets wait", "the socket is behind"],
)
def test_a_line_that_is_too_narrow_is_given_less_than_arrives(strained: list[Heard]) -> None:
    assert after(strained).limit == pytest.approx(lines.BACK_OFF * 7e5)


def test_one_long_wait_alone_is_no_narrow_line() -> None:
    assert after([replace(CALM, waited=0.4), CALM] * 20).limit == UNLIMITED


def test_a_wait_that_ends_is_not_cut_for_again() -> None:
    limited = after([replace(CALM, lost=0.3, arrived=7e5)])
    ending = [replace(CALM, sent=6e5, arrived=6e5, waited=1.5 - 0.1 * number) for number in range(12)]
    assert after(ending, limited).limit == limited.limit


def test_cuts_keep_apart_until_the_encoder_can_have_followed() -> None:
    lossy = replace(CALM, lost=0.5, arrived=5e5)
    once = after([lossy])
    assert after([lossy], once).limit == once.limit
    assert after([lossy] * 3, once).limit == pytest.approx(lines.BACK_OFF * 5e5)


def test_little_that_arrives_cuts_no_more_than_a_share() -> None:
    assert after([replace(CALM, lost=0.99, arrived=1e4)]).limit == pytest.approx(lines.MOST_BACK_OFF * 1e6)


def test_calm_reports_allow_more_quickly_but_for_near_what_was_too_much() -> None:
    near = after([replace(CALM, lost=0.3, arrived=7e5)])
    used = replace(CALM, sent=near.limit)
    assert after([used], near).limit == pytest.approx(near.limit * lines.GROWTH_NEAR)
    far = replace(near, narrow=2e6)
    assert after([used], far).limit == pytest.approx(near.limit * lines.GROWTH)


def test_what_is_not_sent_says_nothing_of_the_line() -> None:
    limited = after([replace(CALM, lost=0.3, arrived=7e5)])
    placard = replace(CALM, sent=5e4, arrived=5e4)
    assert after([placard] * 30, limited).limit == limited.limit


@given(st.lists(st.just(UNLIMITED) | st.floats(1e4, 1e8), min_size=1, max_size=9))
def test_the_common_limit_is_the_least_that_more_than_half_can_not_go_beyond(rates: list[float]) -> None:

    def binds(rate: float) -> bool:
        return 2 * sum(own <= rate for own in rates) > len(rates)

    chosen = common_limit(rates)
    assert binds(chosen)
    assert not any(binds(rate) for rate in rates if rate < chosen)


def test_without_viewers_nothing_is_limited() -> None:
    assert common_limit([]) == UNLIMITED


def test_who_is_to_have_everything_has_it() -> None:
    assert common_limit([1e5, 2e5, None]) == UNLIMITED


def test_repairs_take_no_more_than_their_share() -> None:
    budget = RepairBudget()
    sent = sum(1000 for number in range(1000) if budget.take(1000, octets=1000 * number))
    assert sent == pytest.approx(lines.REPAIRS * 1_000_000 + lines.MOST_REPAIRS, rel=0.01)


class Player:
    """A player behind a line: takes packets of 1000 bytes and reports of them, as RFC 3550 has it."""

    def __init__(self, rate: float, room: float = 0.5) -> None:
        self.line = ViewerLine()
        self.now = 100.0
        self._rate, self._room = rate, room
        self._sent = self._arrived = 0
        self._queue = 0.0

    def second(self, bits: float) -> None:
        """Send `bits` in a second, and have a report of it."""
        packets = round(bits / 8000)
        room = max(0.0, self._room * self._rate + self._rate - self._queue)
        taken = min(packets, round(room / 8000))
        self._queue = max(0.0, self._queue + 8000 * taken - self._rate)
        self._sent += packets
        self._arrived += taken
        self.now += 1.0
        self._report(round_trip=0.04 + self._queue / self._rate)

    def _report(self, round_trip: float) -> None:
        ntp = round(self.now * 65536) << 16
        left = round((self.now - round_trip) * 65536)
        report = RtcpReceiverInfo(1, 0, self._sent - self._arrived, self._sent, 0, left & 0xFFFFFFFF, 0)
        self.line.note(report, SentSoFar(self._sent, 1000 * self._sent, 0), self.now, ntp)

    def silence(self, seconds: float, bits: float) -> None:
        """An outage: what is sent is lost, and no report comes before its end."""
        self._sent += round(bits * seconds / 8000)
        self.now += seconds
        self._report(0.04)


@pytest.mark.parametrize("room", [0.1, 0.5, 3.0])
def test_a_narrow_line_is_found_and_nearly_filled(room: float) -> None:
    player, wanted = Player(NARROW, room), 1.5e6
    sent: list[float] = []
    for _ in range(300):
        sent.append(min(wanted, player.line.limit))
        player.second(sent[-1])
    settled = sent[20:]
    assert max(settled) < 1.3 * NARROW
    assert sum(settled) / len(settled) > 0.7 * NARROW


def test_a_line_that_gets_wide_again_has_everything_again() -> None:
    player, wanted = Player(NARROW), 1.5e6
    for _ in range(30):
        player.second(min(wanted, player.line.limit))
    player._rate = 1e7
    for _ in range(90):
        player.second(min(wanted, player.line.limit))
    assert player.line.limit >= wanted


def test_an_outage_limits_nothing() -> None:
    player = Player(1e7)
    for _ in range(5):
        player.second(1.5e6)
    player.silence(8.0, 1.5e6)
    for _ in range(5):
        player.second(1.5e6)
    assert player.line.limit == UNLIMITED


def test_a_line_that_loses_by_chance_is_not_limited() -> None:
    rng = random.Random(3)
    player = Player(1e7)
    for _ in range(60):
        player.second(1.5e6)
        player._arrived -= rng.randrange(15)  # of 188
    assert player.line.limit == UNLIMITED


def test_a_report_that_makes_no_sense_changes_nothing() -> None:
    rng = random.Random(4)
    line = ViewerLine()
    for number in range(2000):
        words = [rng.getrandbits(32) for _ in range(4)]
        report = RtcpReceiverInfo(1, rng.getrandbits(8), rng.getrandbits(24) - (1 << 23), *words)
        sent = SentSoFar(100 * number, 100_000 * number, 0)
        line.note(RtcpRrPacket.parse(bytes(RtcpRrPacket(1, [report]))[4:], 1).reports[0], sent, number, number << 32)
        assert line.limit > 0
