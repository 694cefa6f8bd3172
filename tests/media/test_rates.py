"""Bitrate by size and frame rate, and the rate that the encoder is set to."""

import itertools

import pytest
from pydantic import ValidationError

from sdstream.clock import ManualClock
from sdstream.frames import PictureSize
from sdstream.media.embedded.encoding import PictureEncoder
from sdstream.media.embedded.negotiation import VideoCodec
from sdstream.media.embedded.rates import Bitrates, PictureRate, RateFollower
from sdstream.media.embedded.rtp import split_units
from tests.media.clients import make_settings
from tests.media.test_encoding import noisy

SIZE = PictureSize(512, 512)


def test_bitrate_follows_pixels_and_the_root_of_the_rate_between_limits() -> None:
    bitrates = Bitrates(1_500_000, 200_000, 8_000_000)
    assert bitrates.of(PictureSize(512, 512)) == 1_500_000
    assert bitrates.of(PictureSize(1024, 1024)) == 6_000_000
    assert bitrates.of(PictureSize(512, 512), 60) == round(1_500_000 * 2**0.5)
    assert bitrates.of(PictureSize(512, 512), 7.5) == 750_000
    assert bitrates.of(PictureSize(64, 64)) == 200_000
    assert bitrates.of(PictureSize(1024, 1024), 60) == 8_000_000


def test_limits_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="video_bitrate_least"):
        make_settings(video_bitrate_least=900_000, video_bitrate_most=800_000)


def test_the_rate_of_pictures_is_that_of_most_intervals() -> None:
    rate = PictureRate()
    for time in range(0, 10 * 3600, 3600):
        rate.note(time)
        assert rate.value is None
    for time in (40_000, 40_090, 130_000, 133_600):  # shown again, and after a gap
        rate.note(time)
    assert rate.value == 25


def test_the_encoder_follows_a_rate_that_lasts_and_no_other() -> None:
    follower, clock = RateFollower(), ManualClock()
    times = itertools.accumulate(itertools.chain([3000] * 100, [9000] * 20, [3000] * 100, [1500] * 400))
    rates: list[float] = []
    before = 0
    for time in times:
        clock.advance((time - before) / 90_000)
        before = time
        follower.note(time, clock.monotonic())
        rates.append(follower.rate)
    assert rates[:220] == [30] * 220, "two seconds of another rate change nothing"
    assert rates[-1] == 60
    assert len(set(rates)) == 2


@pytest.mark.parametrize("codec", ["H264", "VP8"])
def test_an_encoder_keeps_its_bitrate_at_its_rate(codec: VideoCodec) -> None:
    headers: set[bytes] = set()
    for rate in (10, 30, 60):
        bitrate = Bitrates(1_500_000).of(SIZE, rate)
        encoder = PictureEncoder(codec, SIZE, bitrate, most_rate=60, rate=rate)
        count = 0
        for index in range(2 * rate):
            made = encoder.encode(noisy(index, SIZE), index * 90_000 // rate, keyframe=index % rate == 0)
            assert made is not None
            count += made.byte_count
            if codec == "H264" and made.keyframe:
                headers |= {unit for unit in split_units(made.data) if unit[0] & 31 in (7, 8)}
        assert 0.6 * bitrate < 8 * count / 2 < 1.25 * bitrate, rate
    assert len(headers) in (0, 2), "the decoder is told the same, so no player and no recording begins anew"
