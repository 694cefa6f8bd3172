"""The benches' own arithmetic: numbers in pixels, and which arrival belongs to which sending."""

import numpy
import pytest

from bench.cpu import align, carried
from bench.support.clip import LENGTH, make_clip, read_stamp
from sdstream.media.embedded.pictures import view_of


@pytest.mark.parametrize("lost", [set(), {0, 1, 7}, set(range(20, 40))], ids=["none", "some", "many"])
def test_arrivals_are_matched_with_what_was_sent(lost: set[int]) -> None:
    sent = {number: number / 30 for number in range(50, 200)}
    delays = numpy.random.default_rng(1).uniform(0.004, 0.2, 200)
    arrivals = {
        number - 90: moment + float(delays[number])
        for number, moment in sent.items()
        if number >= 90 and number - 90 not in lost
    }
    assert align(sent, arrivals) == 90


def test_the_numbers_in_the_clip_can_be_read() -> None:
    clip = make_clip()
    views = [view_of(frame, received_at=0.0, sequence=0) for frame in clip.frames]
    assert [read_stamp(view.y) for view in views if view is not None] == list(range(LENGTH))


def test_noise_has_no_number() -> None:
    grey = numpy.full((512, 512), 128, numpy.uint8)
    assert read_stamp(grey) is None


def test_the_most_streams_with_few_late_pictures_count() -> None:
    rows = [
        {"streams": 4, "late_percent": 0.0},
        {"streams": 8, "late_percent": 0.9},
        {"streams": 10, "late_percent": 3},
    ]
    assert carried(rows) == 8
    assert carried([]) == 0
