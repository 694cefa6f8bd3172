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
