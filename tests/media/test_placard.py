"""Placards: readable at every size, colours as meant, drawn once."""

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdstream.frames import PictureSize
from sdstream.media.placard import BACKGROUND, FILL, draw_placard, paint
from sdstream.media.ports import Placard

SIZES = [PictureSize(384, 384), PictureSize(512, 512), PictureSize(1024, 1024), PictureSize(1024, 384)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_placard_has_the_asked_size_and_words_that_stand_out(size: PictureSize) -> None:
    frame = draw_placard(Placard("Loading the model", "Reading weights", 40), size)
    assert frame.size == size
    assert frame.full_range is False
    assert int(frame.y.max()) - int(numpy.median(frame.y)) > 150


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_nothing_touches_the_edges(size: PictureSize) -> None:
    words = Placard("Words that need more than one line at any size", "and a long detail " * 12, 100)
    frame = draw_placard(words, size)
    edge = min(size.width, size.height) // 40
    for strip in (frame.y[:edge], frame.y[-edge:], frame.y[:, :edge], frame.y[:, -edge:]):
        assert int(strip.max()) - int(strip.min()) <= 2


def test_colours_are_bt601_limited() -> None:
    frame = draw_placard(Placard(""), PictureSize(384, 384))
    red, green, blue = BACKGROUND
    luma = 16 + (65.481 * red + 128.553 * green + 24.966 * blue) / 255
    assert abs(int(frame.y[0, 0]) - luma) <= 1
    assert abs(int(frame.u[0, 0]) - 130) <= 2


def test_the_bar_grows_with_the_percentage() -> None:
    def filled(percent: int) -> int:
        picture = numpy.asarray(paint("Loading", "", percent, PictureSize(512, 512)))
        return int((numpy.abs(picture.astype(int) - FILL).max(axis=2) < 12).sum())

    widths = [filled(percent) for percent in (0, 25, 50, 100)]
    assert widths[0] == 0
    assert widths == sorted(set(widths))
    assert widths[3] == pytest.approx(2 * widths[2], rel=0.05)


def test_equal_words_are_drawn_once() -> None:
    first = draw_placard(Placard("A", "b", 10.1), PictureSize(384, 384))
    again = draw_placard(Placard("A", "b", 9.9), PictureSize(384, 384))
    assert first.y.base is not None
    assert numpy.shares_memory(first.y, again.y)
    assert not first.y.flags.writeable


@given(st.text(max_size=200), st.text(max_size=300), st.one_of(st.none(), st.floats(-10, 200)))
@settings(max_examples=25, deadline=None)
def test_any_words_can_be_shown(title: str, detail: str, percent: float | None) -> None:
    frame = draw_placard(Placard(title, detail, percent), PictureSize(384, 448))
    assert frame.size == PictureSize(384, 448)
