"""The output's clock: the short way without fractions says what fractions say."""

import itertools
from fractions import Fraction

import pytest

from sdstream.frames import VIDEO_CLOCK
from sdstream.media.embedded.timeline import LATE_PATIENCE, TICKS, OutputTimeline


def test_ticks_of_the_video_clock_need_no_fractions() -> None:
    same_value = Fraction(1, 90_000)
    assert same_value is not VIDEO_CLOCK
    moments = [(pts, 5.0 + pts / 90_000 + delay) for pts, delay in ((900, 0.0), (3_900, 0.01), (3_900, 0.02))]
    moments += [(90_000 * 400, 8.0), (90_000 * 400 + 3_000, 8.03), (10, 9.0)]
    short, plain = OutputTimeline(), OutputTimeline()
    ticks = [short.map(pts, VIDEO_CLOCK, now) for pts, now in moments]
    assert ticks == [plain.map(pts, same_value, now) for pts, now in moments]
    assert all(before < after for before, after in itertools.pairwise(ticks))
    assert ticks[1] - ticks[0] == 3_000


def test_pictures_keep_their_places_when_the_latency_grows_and_the_pause_is_filled() -> None:
    timeline = OutputTimeline()
    arrivals: list[tuple[float, int | None]] = []
    latency, before = 0.02, 0.0
    for number in range(500):
        # The latency jumps up and down; a worker keeps the order, so a fall brings what was under way all at once.
        latency = (0.02, 0.4, 0.02, 1.2, 0.02)[number // 100]
        due = max(number / 25 + latency, before)
        while due - before > 0.5:
            before += 0.5
            arrivals.append((before, None))
        arrivals.append((due, number * 3600))
        before = due
    places = [(pts, timeline.map(pts, VIDEO_CLOCK, 7.0 + now), timeline.exact) for now, pts in arrivals]
    assert sum(pts is None for pts, _, _ in places) >= 2
    assert {ticks - pts for pts, ticks, _ in places if pts is not None} == {places[0][1]}
    assert all(exact for pts, _, exact in places if pts is not None)


def test_made_up_pictures_run_by_the_wall_behind_the_room_and_another_clock_goes_on_at_the_wall() -> None:
    timeline = OutputTimeline()
    assert [timeline.map(None, VIDEO_CLOCK, now) for now in (1.0, 1.5)] == [0, 45_000]
    first = timeline.map(9_000_000, VIDEO_CLOCK, 2.0)
    assert first == 90_000
    made_up = [timeline.map(pts, VIDEO_CLOCK, 2.5 + now) for now, pts in ((0.0, None), (0.5, 9_000_000), (4.5, None))]
    assert made_up == [first + 90, first + 180, first + 360_000]
    assert timeline.map(5, VIDEO_CLOCK, 7.5) == first + round(5.5 * 90_000)
    assert timeline.exact
    assert timeline.map(3605, VIDEO_CLOCK, 7.6) == first + round(5.5 * 90_000) + 3600


def pictures_around(pause: float) -> list[tuple[float, int | None]]:
    """Three seconds of a camera of 25 pictures a second, a pause filled with repetitions, and ten seconds more whose
    stamps go on as if there had been no pause."""
    before = [(number / 25, number * 3600) for number in range(75)]
    filled: list[tuple[float, int | None]] = [(3 + 0.5 * step, None) for step in range(1, int(pause / 0.5))]
    after = [(3 + pause + number / 25, (75 + number) * 3600) for number in range(250)]
    return [*before, *filled, *after]


@pytest.mark.parametrize("pause", [1.2, 1.5, 2.0, 3.7, 6.0, 9.5])
def test_a_clock_that_stood_still_in_a_pause_is_not_chased_a_millisecond_at_a_time(pause: float) -> None:
    timeline = OutputTimeline()
    ticks = [timeline.map(pts, VIDEO_CLOCK, now) for now, pts in pictures_around(pause)]
    steps = [later - earlier for earlier, later in itertools.pairwise(ticks[-250:])]
    assert all(step > 0 for step in steps)
    crowded = [step for step in steps if step < 3600]
    assert len(crowded) <= 25 * (LATE_PATIENCE + 0.1), "pictures lie close together for long"
    assert steps[-200:] == [3600] * 200
    # Sound is laid by when it was captured, and so are pictures again: as far behind the wall as before the pause.
    if pause > 2:
        assert ticks[-1] - ticks[0] == pytest.approx((13 + pause - 1 / 25) * TICKS, abs=0.05 * TICKS)


@pytest.mark.parametrize("pause", [1.5, 3.0])
def test_what_the_network_held_up_keeps_its_places(pause: float) -> None:
    timeline = OutputTimeline()
    arrivals = [
        max(number / 25, 3 + pause + number / 5000 if 3 < number / 25 < 3 + pause else 0) for number in range(500)
    ]
    places: list[int] = []
    before = 0.0
    for number, now in enumerate(arrivals):
        while now - before > 0.5:
            before += 0.5
            timeline.map(None, VIDEO_CLOCK, before)
        places.append(timeline.map(number * 3600, VIDEO_CLOCK, now))
        before = now
    assert places[-100:] == [places[0] + number * 3600 for number in range(400, 500)]
