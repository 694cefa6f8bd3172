"""What is left of a load: from its percents, at any moment."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdstream.streams.remaining import LEAST_SECONDS, TimeLeft, words_left


def told(*points: tuple[float, float | None]) -> TimeLeft:
    left = TimeLeft()
    for now, percent in points:
        left.note(percent, now)
    return left


def test_it_follows_the_rate_of_what_was_seen_and_not_what_was_there_before() -> None:
    assert told((0.0, 40.0), (10.0, 60.0)).at(10.0) == pytest.approx(20.0)


def test_it_grows_while_nothing_comes() -> None:
    left = told((0.0, 40.0), (10.0, 60.0))
    assert left.at(20.0) == pytest.approx(40.0)


def test_the_last_minute_counts() -> None:
    assert told((0.0, 0.0), (1.0, 50.0), (100.0, 51.0), (110.0, 52.0)).at(110.0) == pytest.approx(480.0)


@pytest.mark.parametrize(
    ("points", "now"),
    [
        ([], 11.0),
        ([(0.0, 40.0)], 11.0),
        ([(0.0, 40.0), (10.0, 40.0)], 11.0),
        ([(0.0, 40.0), (10.0, 60.0), (11.0, None)], 15.0),
        ([(0.0, 40.0), (10.0, 60.0), (11.0, 0.0)], 15.0),
        ([(0.0, 40.0), (1.0, 60.0)], LEAST_SECONDS - 0.1),
    ],
)
def test_nobody_can_tell_from_one_number_from_another_count_or_at_once(
    points: list[tuple[float, float | None]], now: float
) -> None:
    assert told(*points).at(now) is None


@given(st.lists(st.floats(0, 100), max_size=20), st.floats(0, 100))
def test_it_is_a_time_of_a_week_at_most(percents: list[float], later: float) -> None:
    left = told(*enumerate(percents))
    seconds = left.at(len(percents) + later)
    assert seconds is None or 0 <= seconds <= 7 * 86400


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.0, "a few seconds left"),
        (10.0, "about 10 s left"),
        (51.0, "about 60 s left"),
        (61.0, "about 2 min left"),
        (3600.0, "about 60 min left"),
        (3601.0, "about 2 h left"),
        (1e6, "more than a day left"),
    ],
)
def test_words_are_coarse(seconds: float, words: str) -> None:
    assert words_left(seconds) == words
