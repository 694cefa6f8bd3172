"""The output's clock: the short way without fractions says what fractions say."""

import itertools
from fractions import Fraction

from sdstream.frames import VIDEO_CLOCK
from sdstream.media.embedded.timeline import OutputTimeline


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
