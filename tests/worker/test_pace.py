"""When a fetch is given up for being too slow, by moments and bytes alone."""

from sdstream.pace import LEAST_BYTES, STALL_SECONDS, Pace

BEGUN = Pace(100.0, 5)


def test_a_fetch_that_brings_too_little_is_stalled_after_its_time_and_not_before() -> None:
    came = 5 + LEAST_BYTES - 1
    assert not BEGUN.is_stalled(100.0 + STALL_SECONDS - 0.1, came)
    assert BEGUN.is_stalled(100.0 + STALL_SECONDS, came)
    assert BEGUN.after(150.0, came) is BEGUN, "a little does not buy it more time"


def test_a_fetch_that_gets_on_has_its_time_anew() -> None:
    came = 5 + LEAST_BYTES
    assert not BEGUN.is_stalled(100.0 + 10 * STALL_SECONDS, came)
    later = BEGUN.after(150.0, came)
    assert later == Pace(150.0, came)
    assert not later.is_stalled(149.0 + STALL_SECONDS, came)
    assert later.is_stalled(150.0 + STALL_SECONDS, came)


def test_a_fetch_that_began_anew_is_not_held_to_what_it_had() -> None:
    assert not BEGUN.is_stalled(100.0 + STALL_SECONDS, 0)
    assert BEGUN.after(150.0, 0) == Pace(150.0, 0)
