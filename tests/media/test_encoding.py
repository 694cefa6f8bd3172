"""What the output encoders promise: profile, keyframes, sizes, bitrate."""

import av
import numpy
import pytest
from av.video.frame import PictureType

from sdstream.errors import ConfigurationError
from sdstream.frames import I420Frame, PictureSize
from sdstream.media.embedded.encoding import (
    EncodedPicture,
    KeyframePolicy,
    PictureEncoder,
    choose_h264_encoder,
    h264_level,
)
from sdstream.media.embedded.negotiation import VideoCodec
from sdstream.media.embedded.pictures import OwnedPicture, view_of
from sdstream.media.embedded.rtp import split_units, unpack_h264, unpack_vp8

SIZE = PictureSize(384, 256)
RATE = 3000


def noisy(index: int, size: PictureSize = SIZE) -> av.VideoFrame:
    """A picture that is hard to compress and moves."""
    rng = numpy.random.default_rng(5)
    picture = rng.integers(0, 255, (size.height // 8, size.width // 8, 3), dtype=numpy.uint8)
    picture = numpy.roll(picture.repeat(8, 0).repeat(8, 1), index * 5, axis=1)
    return av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p")


def encode(
    count: int, *, codec: VideoCodec = "H264", size: PictureSize = SIZE, bitrate: int = 800_000, every: int = 30
) -> list[EncodedPicture]:
    encoder = PictureEncoder(codec, size, bitrate)
    made = [encoder.encode(noisy(index, size), index * RATE, keyframe=index % every == 0) for index in range(count)]
    return [picture for picture in made if picture is not None]


def units(picture: EncodedPicture) -> list[bytes]:
    return split_units(b"".join(unpack_h264(payload)[0] for payload in picture.payloads))


def decode(pictures: list[EncodedPicture], codec: VideoCodec = "H264") -> list[av.VideoFrame]:
    decoder = av.CodecContext.create("h264" if codec == "H264" else "vp8", "r")
    unpack = unpack_h264 if codec == "H264" else unpack_vp8
    frames: list[av.VideoFrame] = []
    for picture in pictures:
        packet = av.Packet(b"".join(unpack(payload)[0] for payload in picture.payloads))
        packet.pts = picture.timestamp
        frames += decoder.decode(packet)
    return frames + decoder.decode(None)


@pytest.mark.parametrize("codec", ["H264", "VP8"])
def test_each_picture_leaves_at_once_and_in_order(codec: VideoCodec) -> None:
    pictures = encode(20, codec=codec)
    assert [picture.timestamp for picture in pictures] == [index * RATE for index in range(20)]
    assert [frame.pts for frame in decode(pictures, codec)] == [index * RATE for index in range(20)]


@pytest.mark.parametrize("codec", ["H264", "VP8"])
def test_keyframes_are_those_asked_for(codec: VideoCodec) -> None:
    assert [picture.keyframe for picture in encode(25, codec=codec, every=10)] == [
        index % 10 == 0 for index in range(25)
    ]


def test_h264_is_constrained_baseline_without_b_frames() -> None:
    pictures = encode(20)
    parameter_sets = next(unit for unit in units(pictures[0]) if unit[0] & 31 == 7)
    assert parameter_sets[1] == 66
    assert parameter_sets[2] & 0x40, "constraint_set1: every decoder of the main profile reads it"
    assert {frame.pict_type for frame in decode(pictures)} == {PictureType.I, PictureType.P}


def test_every_h264_keyframe_carries_its_parameter_sets() -> None:
    kinds = [{unit[0] & 31 for unit in units(picture)} for picture in encode(21, every=10) if picture.keyframe]
    assert len(kinds) == 3
    assert all({7, 8, 5} <= found for found in kinds)


def test_h264_says_bt601_limited_range() -> None:
    frame = decode(encode(2))[0]
    assert int(frame.color_range) == 1
    assert int(frame.colorspace) == 6


@pytest.mark.parametrize(
    ("size", "level"),
    [((384, 384), "3.1"), ((1280, 720), "3.1"), ((1024, 1024), "3.2"), ((1920, 1080), "4.0"), ((4096, 2048), "5.1")],
)
def test_level_fits_the_size(size: tuple[int, int], level: str) -> None:
    assert h264_level(PictureSize(*size)) == level


@pytest.mark.parametrize("size", [(384, 384), (1024, 1024)])
def test_parameter_sets_say_the_level(size: tuple[int, int]) -> None:
    picture = encode(1, size=PictureSize(*size))[0]
    parameter_sets = next(unit for unit in units(picture) if unit[0] & 31 == 7)
    assert parameter_sets[3] == round(float(h264_level(PictureSize(*size))) * 10)


@pytest.mark.parametrize("codec", ["H264", "VP8"])
def test_bitrate_and_keyframe_size_are_bounded(codec: VideoCodec) -> None:
    bitrate = 1_500_000
    pictures = encode(90, codec=codec, size=PictureSize(512, 512), bitrate=bitrate)
    assert sum(picture.byte_count for picture in pictures) * 8 / 3 < bitrate * 1.25
    assert max(picture.byte_count for picture in pictures[1:]) < bitrate / 8 * 0.35


@pytest.mark.parametrize("bitrate", [300_000, 1_500_000, 30_000_000])
def test_the_first_picture_of_h264_is_as_good_as_those_after_it(bitrate: int) -> None:
    pictures = encode(3, bitrate=bitrate)
    errors = [
        numpy.square(frame.to_ndarray().astype(float) - noisy(index).to_ndarray()).mean()
        for index, frame in enumerate(decode(pictures))
    ]
    assert errors[0] <= max(errors[1:]) * 1.2


def test_the_first_picture_of_h264_is_a_keyframe_in_any_case() -> None:
    made = PictureEncoder("H264", SIZE, 800_000).encode(noisy(0), 0, keyframe=False)
    assert made is not None
    assert made.keyframe
    assert {unit[0] & 31 for unit in units(made)} >= {7, 8, 5}


def test_keyframe_policy_makes_one_a_second() -> None:
    policy = KeyframePolicy()
    keys = []
    for index in range(91):
        if policy.due(index / 30):
            keys.append(index)
            policy.made(index / 30)
    assert keys == [0, 30, 60, 90]


def test_keyframe_policy_obeys_requests_twice_a_second() -> None:
    policy = KeyframePolicy()
    keys = []
    for index in range(60):
        policy.request()
        if policy.due(index / 30):
            keys.append(index)
            policy.made(index / 30)
    assert keys == [0, 15, 30, 45]


def test_x264_is_taken_when_asked_for() -> None:
    assert choose_h264_encoder("x264") == "x264"


def test_nvenc_is_probed_and_never_assumed() -> None:
    found = choose_h264_encoder("auto")
    if found == "nvenc":
        assert choose_h264_encoder("nvenc") == "nvenc"
    else:
        with pytest.raises(ConfigurationError, match="nvenc"):
            choose_h264_encoder("nvenc")


def solid(y: int, u: int, v: int, *, full_range: bool, matrix: str) -> I420Frame:
    planes = [numpy.full((64 // part, 64 // part), value, numpy.uint8) for part, value in ((1, y), (2, u), (2, v))]
    return I420Frame(planes[0], planes[1], planes[2], full_range=full_range, matrix=matrix)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        (solid(81, 90, 240, full_range=False, matrix="bt601"), (81, 90, 240)),
        (solid(76, 85, 255, full_range=True, matrix="bt601"), (81, 90, 240)),
        (solid(63, 102, 240, full_range=False, matrix="bt709"), (81, 90, 240)),
        (solid(255, 128, 128, full_range=True, matrix="bt601"), (235, 128, 128)),
    ],
    ids=["red as it is sent", "red in full range", "red in BT.709", "white in full range"],
)
def test_pictures_are_sent_in_bt601_limited_range(frame: I420Frame, expected: tuple[int, int, int]) -> None:
    sent = OwnedPicture.copy_of(frame).for_encoder()
    view = view_of(sent, received_at=0.0, sequence=0)
    assert view is not None
    for plane, value in zip(view.planes, expected, strict=True):
        assert abs(float(plane.mean()) - value) < 3


@pytest.mark.parametrize("form", ["yuv444p", "rgb24", "yuv420p10le", "nv12", "yuvj422p"])
def test_other_pixel_formats_become_i420(form: str) -> None:
    picture = numpy.zeros((64, 96, 3), numpy.uint8)
    picture[:] = (200, 40, 40)
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=form)
    view = view_of(frame, received_at=0.0, sequence=0)
    assert view is not None
    assert view.size == PictureSize(96, 64)
    back = OwnedPicture.copy_of(view).for_encoder().to_ndarray(format="rgb24")
    assert numpy.abs(back.reshape(-1, 3).mean(0) - (200, 40, 40)).max() < 6


def test_odd_sides_lose_a_line() -> None:
    view = view_of(av.VideoFrame(65, 33, "yuv420p"), received_at=0.0, sequence=0)
    assert view is not None
    assert view.size == PictureSize(64, 32)
    assert view.u.shape == (16, 32)


def test_a_frame_too_small_is_no_picture() -> None:
    assert view_of(av.VideoFrame(1, 1, "yuv420p"), received_at=0.0, sequence=0) is None
