"""Colour and size: against formulas written down apart, against FFmpeg, and there and back."""

import av
import numpy
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sdstream.frames import ColourMatrix, I420Frame, PictureSize, split_planes
from sdstream.worker import colour
from tests.worker.pictures import flat, noise

CPU = torch.device("cpu")
sizes = st.builds(PictureSize, st.integers(1, 60).map(lambda x: 2 * x), st.integers(1, 60).map(lambda x: 2 * x))


def reference_rgb(frame: I420Frame) -> NDArray[numpy.float64]:
    """RGB of 0..255, [height, width, 3], by the equations of BT.601 and BT.709 and repeated chroma."""
    red_weight, blue_weight = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}[frame.matrix]
    green_weight = 1 - red_weight - blue_weight
    y = frame.y.astype(float)
    u, v = (numpy.repeat(numpy.repeat(plane.astype(float), 2, 0), 2, 1) for plane in (frame.u, frame.v))
    if frame.full_range:
        luma, blue_difference, red_difference = y, u - 128, v - 128
    else:
        luma, blue_difference, red_difference = (y - 16) * 255 / 219, (u - 128) * 255 / 224, (v - 128) * 255 / 224
    red = luma + 2 * (1 - red_weight) * red_difference
    blue = luma + 2 * (1 - blue_weight) * blue_difference
    green = (luma - red_weight * red - blue_weight * blue) / green_weight
    return numpy.stack([red, green, blue], 2)


def to_frame(image: torch.Tensor) -> I420Frame:
    packed = numpy.zeros(image.shape[2] * image.shape[3] * 3 // 2, numpy.uint8)
    return I420Frame(*split_planes(packed, colour.download(image, packed)))


def worst_difference(one: I420Frame, other: I420Frame) -> int:
    pairs = zip(one.planes, other.planes, strict=True)
    return max(int(numpy.abs(a.astype(int) - b.astype(int)).max()) for a, b in pairs)


@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
@pytest.mark.parametrize("full_range", [False, True])
def test_rgb_follows_the_equations(matrix: ColourMatrix, full_range: bool) -> None:
    frame = noise(PictureSize(48, 32), matrix=matrix, full_range=full_range)
    image = colour.upload(frame, frame.size, CPU)
    assert image.shape == (1, 3, 32, 48)
    assert numpy.abs(image[0].permute(1, 2, 0).numpy() * 255 - reference_rgb(frame)).max() < 0.01


@pytest.mark.parametrize(("matrix", "name"), [("bt601", "ITU601"), ("bt709", "ITU709")])
def test_rgb_is_what_ffmpeg_makes_of_it(matrix: ColourMatrix, name: str) -> None:
    frame = noise(PictureSize(64, 64), seed=3, matrix=matrix)
    packed = numpy.empty(frame.size.byte_count, numpy.uint8)
    frame.pack_into(packed)
    video = av.VideoFrame.from_ndarray(packed.reshape(96, 64), format="yuv420p")
    theirs = video.reformat(format="rgb24", src_colorspace=name, dst_colorspace=name).to_ndarray()
    ours = colour.upload(frame, frame.size, CPU)[0].permute(1, 2, 0).numpy() * 255
    inside = numpy.s_[2:6, 2:6]  # of a patch of one colour: FFmpeg blends chroma across the borders of patches
    assert numpy.abs(ours[inside] - theirs[inside]).max() <= 2


@settings(max_examples=40, deadline=None)
@given(sizes, st.integers(0, 2**16))
def test_there_and_back_changes_no_level_by_more_than_one(size: PictureSize, seed: int) -> None:
    frame = noise(size, seed)
    assert worst_difference(to_frame(colour.upload(frame, size, CPU)), frame) <= 1


@pytest.mark.parametrize(
    ("luma", "full_range", "expected"), [(16, False, 16), (235, False, 235), (0, True, 16), (255, True, 235)]
)
def test_output_is_limited_range_whatever_comes_in(luma: int, full_range: bool, expected: int) -> None:
    frame = flat(PictureSize(16, 16), luma, full_range=full_range)
    out = to_frame(colour.upload(frame, frame.size, CPU))
    assert int(out.y[0, 0]) == expected
    assert int(out.u[0, 0]) == int(out.v[0, 0]) == 128


def test_bt709_pictures_come_out_as_bt601_of_the_same_colour() -> None:
    frame = noise(PictureSize(32, 32), seed=5, matrix="bt709")
    out = to_frame(colour.upload(frame, frame.size, CPU))
    assert numpy.abs(reference_rgb(out) - reference_rgb(frame)).max() < 3
    assert worst_difference(out, frame) > 3


def test_colours_beyond_eight_bits_are_clipped() -> None:
    image = torch.full((1, 3, 4, 4), 3.0)
    assert int(to_frame(image).y.max()) == 255
    assert int(to_frame(-image).y.min()) == 0


@given(sizes, sizes)
def test_the_crop_is_centred_even_and_of_the_right_shape(source: PictureSize, target: PictureSize) -> None:
    box = colour.crop_to_fill(source, target)
    assert 2 <= box.width <= source.width
    assert 2 <= box.height <= source.height
    assert all(value % 2 == 0 for value in (box.left, box.top, box.width, box.height))
    assert box.width == source.width or box.height == source.height
    assert abs(source.width - box.width - 2 * box.left) <= 2
    assert abs(source.height - box.height - 2 * box.top) <= 2
    # The side that is cut has the other side's share of the target's shape; no side gets thinner than two pixels.
    if source.width * target.height > source.height * target.width:
        assert abs(box.width - max(2, source.height * target.width / target.height)) <= 2
    else:
        assert abs(box.height - max(2, source.width * target.height / target.width)) <= 2


def test_a_wide_picture_loses_its_sides_and_is_not_squeezed() -> None:
    frame = flat(PictureSize(640, 360), 50)
    frame.y[:, 140:500] = 200  # the middle square
    out = to_frame(colour.upload(frame, PictureSize(128, 128), CPU))
    assert out.y.shape == (128, 128)
    assert int(out.y[:, 2:-2].min()) >= 198


def test_a_circle_stays_round_in_another_size() -> None:
    rows, columns = numpy.mgrid[:360, :640]
    frame = flat(PictureSize(640, 360), 16)
    frame.y[(rows - 180) ** 2 + (columns - 320) ** 2 < 100**2] = 235
    out = to_frame(colour.upload(frame, PictureSize(256, 256), CPU)).y > 125
    wide, high = int(out.any(0).sum()), int(out.any(1).sum())
    assert abs(wide - high) <= 2
    assert wide == pytest.approx(200 * 256 / 360, abs=2)


def test_resizing_shrinks_by_averaging_not_by_skipping() -> None:
    stripes = torch.zeros(1, 1, 64, 64)
    stripes[..., ::2] = 1.0
    assert colour.resize(stripes, 16, 16)[0, 0, 2:-2, 2:-2].sub(0.5).abs().max() < 0.05


def test_resizing_to_the_same_size_is_the_same_tensor() -> None:
    image = torch.rand(1, 3, 8, 6)
    assert colour.resize(image, 6, 8) is image
