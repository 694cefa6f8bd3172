"""The number in the picture survives what video does to it."""

from typing import Any

import av
import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sdstream.commands.stamp import LARGEST, read_stamp, write_stamp
from sdstream.frames import PictureSize, Plane, split_planes


def drawn(number: int, width: int, height: int) -> tuple[Plane, Plane, Plane]:
    packed = numpy.full(PictureSize(width, height).byte_count, 90, numpy.uint8)
    planes = split_planes(packed, PictureSize(width, height))
    write_stamp(*planes, number)
    return planes


@settings(max_examples=60, deadline=None)
@given(number=st.integers(0, LARGEST), side=st.sampled_from([(384, 384), (512, 512), (640, 272), (1024, 576)]))
def test_every_number_is_read_back(number: int, side: tuple[int, int]) -> None:
    assert read_stamp(drawn(number, *side)[0]) == number


@settings(max_examples=20, deadline=None)
@given(number=st.integers(0, LARGEST), size=st.sampled_from([(384, 384), (448, 256), (512, 512)]))
def test_a_number_survives_scaling(number: int, size: tuple[int, int]) -> None:
    y = drawn(number, 640, 480)[0]
    frame = av.VideoFrame.from_ndarray(y, format="gray").reformat(width=size[0], height=size[1])
    scaled: Any = frame.to_ndarray()
    assert read_stamp(scaled) == number


@settings(max_examples=100, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), level=st.integers(0, 255))
def test_what_is_no_stamp_is_seldom_taken_for_one(seed: int, level: int) -> None:
    noise = numpy.random.default_rng(seed).integers(0, 255, (480, 640), dtype=numpy.uint8)
    assert read_stamp(noise) is None
    assert read_stamp(numpy.full((480, 640), level, numpy.uint8)) is None


def test_a_damaged_cell_is_noticed() -> None:
    y = drawn(1234, 640, 480)[0]
    y[:32, :32] = 228 - y[0, 0] + 24
    assert read_stamp(y) is None


def test_a_picture_that_is_too_small_is_refused() -> None:
    with pytest.raises(ValueError, match="too small"):
        drawn(1, 176, 144)
