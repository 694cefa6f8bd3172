"""When sound and pictures are presented: moved together by each jump of the latency, and nothing seems late for it."""

import itertools

import pytest

from sdstream.clock import ManualClock
from sdstream.media.embedded.presentation import MOST_SHIFTS, Presentation
from sdstream.media.embedded.sound import ReceivedSound, SoundRelay
from tests.media.clients import KeptSound

SLOWER = Presentation().held(0.02, 100.0).jumped(0.38, next_at=99.98).held(0.4, 100.0)
FASTER = SLOWER.held(0.4, 200.0).jumped(-0.38, next_at=199.6).held(0.02, 200.0)


def test_a_slower_pipeline_moves_all_that_is_captured_from_the_jump_on() -> None:
    assert SLOWER.shift(99.9) == 0
    assert SLOWER.shift(99.98) == pytest.approx(0.38)
    assert not SLOWER.skips_sound(99.98)
    # The picture of the last sound before the jump comes late, and is of that sound's moment all the same.
    assert SLOWER.picture_shift(99.96, now=100.36) == 0
    assert SLOWER.picture_shift(99.98, now=100.38) == pytest.approx(0.38)


def test_a_faster_pipeline_leaves_out_the_sound_between() -> None:
    moments = [199.58 + number / 50 for number in range(30)]
    kept = [at + FASTER.shift(at) for at in moments if not FASTER.skips_sound(at)]
    assert len(moments) - len(kept) == 19
    steps = [after - before for before, after in itertools.pairwise(kept)]
    assert steps == pytest.approx([0.02] * len(steps)), "what is left joins on"


def test_a_picture_that_comes_early_is_presented_when_it_comes() -> None:
    early = SLOWER.picture_shift(100.48, now=100.5)
    last = SLOWER.picture_shift(100.1, now=100.5)
    assert 100.48 + early == pytest.approx(100.1 + last)
    assert SLOWER.picture_shift(100.2, now=100.5) == pytest.approx(0.38), "0.1 s early is jitter"
    assert SLOWER.picture_shift(101.98, now=102.0) == pytest.approx(0.38), "without sound nothing is early"


def test_what_is_remembered_is_bounded() -> None:
    presentation = Presentation()
    for number in range(100):
        presentation = presentation.jumped((-0.1, 0.1)[number % 2], next_at=float(number))
    assert len(presentation.shifts) == MOST_SHIFTS
    assert len(presentation.skips) <= MOST_SHIFTS
    assert presentation.shift(200.0) == pytest.approx(0.0)


async def test_outputs_get_the_sound_that_viewers_do_not() -> None:
    clock = ManualClock()
    relay = SoundRelay(clock)
    seen = KeptSound()
    relay.sinks.add(seen)
    begin = clock.monotonic()
    relay.observe(0.4, begin)
    for number in range(20):
        relay.put(ReceivedSound(number, number * 960, begin + number / 50, b"a"))
    clock.advance(0.4)
    for number in range(5):
        relay.observe(0.02, begin + 0.3 + number / 50)
    relay.put(ReceivedSound(20, 20 * 960, begin + 0.4, b"a"))
    clock.advance(0.02)
    relay.put(ReceivedSound(21, 21 * 960, begin + 0.42, b"a"))
    relay.close()
    assert [packet.sequence for packet in seen.packets] == list(range(21))
    assert [packet.sequence for packet in seen.packets if packet.skipped] == list(range(19))
    assert dict(relay.statistics().dropped) == {"sound_skipped": 19}


async def test_without_sound_no_clock_is_moved() -> None:
    clock = ManualClock()
    relay = SoundRelay(clock)
    for latency in (0.02, 0.4):
        for _ in range(5):
            clock.advance(0.04)
            relay.observe(latency, clock.monotonic())
    assert relay.statistics().corrections == 1
    assert relay.presentation.shift(clock.monotonic()) == 0
    relay.close()
