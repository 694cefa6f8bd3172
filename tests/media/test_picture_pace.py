"""When the next whole picture is sent, and how coarse: the pure pace, on made-up lines."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdstream.media.embedded.whole_pictures.pacing import COARSENESS, MOST_UNANSWERED, PATIENCE, PicturePace

BYTES: dict[int, int] = dict(zip(COARSENESS, (50_000, 35_000, 25_000, 18_000), strict=True))
"""What a picture takes, roughly as one of 512x512 does."""


class Line:
    """A line that carries `rate` bytes a second and takes `delay` seconds there and back, with a queue without end."""

    def __init__(self, rate: float, delay: float) -> None:
        self.rate, self.delay = rate, delay
        self.free_at = 0.0
        self.answers = deque[float]()
        self.waits: list[float] = []

    def send(self, now: float, size: int) -> None:
        self.free_at = max(self.free_at, now) + size / self.rate
        self.waits.append(self.free_at - now)
        self.answers.append(self.free_at + self.delay)


def play(pace: PicturePace, line: Line, seconds: float, fps: float = 30, start: float = 0.0) -> list[float]:
    """Pictures of a camera over `line`; the moments at which one was sent."""
    sent: list[float] = []
    now, end, is_new = start, start + seconds, False
    camera = start
    while now < end:
        now = min(camera, line.answers[0]) if line.answers else camera
        if line.answers and line.answers[0] <= now:
            line.answers.popleft()
            pace.answered(now)
        if camera <= now:
            camera += 1 / fps
            pace.came(now)
            is_new = True
        if is_new and pace.may_send(now):
            is_new = False
            pace.sent(now)
            sent.append(now)
            line.send(now, BYTES[pace.coarseness])
    return sent


@pytest.mark.parametrize("delay", [0.002, 0.1, 0.3])
def test_a_wide_line_is_sent_every_picture_as_fine_as_can_be(delay: float) -> None:
    pace = PicturePace()
    sent = play(pace, Line(20e6, delay), 10)
    begun = [moment for moment in sent if moment >= 2]
    assert len(begun) >= 0.97 * 240
    assert pace.level == 0


def test_a_narrow_line_is_sent_coarser_pictures_instead_of_late_ones() -> None:
    line, pace = Line(600_000, 0.04), PicturePace()  # 4.8 Mbit/s, where 12 are wanted
    play(pace, line, 10)
    before = len(line.waits)
    sent = play(pace, line, 10, start=10.0)
    assert pace.level >= 2
    assert len(sent) >= 20 * 10
    assert max(line.waits[before:]) < PATIENCE + 0.1


def test_what_waits_before_a_line_is_bounded_from_the_first_picture_on() -> None:
    line = Line(75_000, 0.05)  # 0.6 Mbit/s: 0.7 s for a picture as it begins
    play(PicturePace(), line, 30)
    assert max(line.waits) < 2.2  # two pictures before the first answer
    assert max(line.waits[20:]) < 1.2


def test_a_line_that_widens_is_sent_fine_pictures_again() -> None:
    line, pace = Line(400_000, 0.04), PicturePace()
    play(pace, line, 10)
    assert pace.level > 0
    line.rate = 20e6
    play(pace, line, 40, start=10.0)
    assert pace.level == 0


def test_a_try_of_finer_pictures_that_fails_is_repeated_ever_less_often() -> None:
    line, pace = Line(900_000, 0.04), PicturePace()
    levels: list[int] = []
    for second in range(120):
        play(pace, line, 1, start=float(second))
        levels.append(pace.level)
    tries = [second for second in range(1, 120) if levels[second] < levels[second - 1]]
    assert len([second for second in tries if second >= 60]) <= len([second for second in tries if second < 60])
    assert len(tries) <= 8


def test_a_viewer_that_answers_nothing_is_sent_two_pictures() -> None:
    pace = PicturePace()
    for moment in range(100):
        pace.came(moment / 30)
        if pace.may_send(moment / 30):
            pace.sent(moment / 30)
    assert len(pace.unanswered) == 2


@given(st.lists(st.tuples(st.sampled_from(["came", "send", "answer"]), st.floats(0, 0.5)), max_size=200))
def test_nothing_that_a_viewer_does_breaks_the_bounds(steps: list[tuple[str, float]]) -> None:
    pace, now = PicturePace(), 0.0
    for what, pause in steps:
        now += pause
        if what == "came":
            pace.came(now)
        elif what == "answer":
            pace.answered(now)
        elif pace.may_send(now):
            pace.sent(now)
        assert len(pace.unanswered) <= MOST_UNANSWERED
        assert pace.coarseness in COARSENESS
        assert pace.quickest is None or pace.quickest >= 0
