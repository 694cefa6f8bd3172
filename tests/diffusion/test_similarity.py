"""The similar-image filter: upstream's rule without its faults, and numbers that arrive late."""

from collections import deque

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdstream.diffusion.similarity import (
    FilterRule,
    SimilarImageFilter,
    chance_of_skipping,
    is_skipped,
    likeness_of,
)
from tests.diffusion.runs import pictures

CPU = torch.device("cpu")


class LateReadback:
    """As a GPU's: a number arrives when the next one is put."""

    def __init__(self) -> None:
        self._values: deque[float] = deque()

    def put(self, value: torch.Tensor) -> None:
        self._values.append(float(value))

    def take(self) -> float | None:
        return self._values.popleft() if len(self._values) > 1 else None


def filter_of(threshold: float = 0.9, most: int = 10, seed: int = 1) -> SimilarImageFilter:
    return SimilarImageFilter(FilterRule(threshold, most), seed, CPU)


def near(image: torch.Tensor, strength: float, seed: int = 7) -> torch.Tensor:
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(seed))
    return (image + strength * noise).clamp(0, 1)


@given(likeness=st.floats(-1, 1), threshold=st.floats(0, 1))
def test_the_chance_is_upstreams(likeness: float, threshold: float) -> None:
    expected = 0.0 if threshold >= 1 else max(0.0, 1 - (1 - likeness) / (1 - threshold))
    assert chance_of_skipping(likeness, threshold) == pytest.approx(min(1.0, expected))


@given(
    draws=st.lists(st.floats(0, 1, exclude_max=True), max_size=60),
    likeness=st.floats(0, 1),
    most=st.integers(0, 12),
)
def test_no_more_than_the_most_are_skipped_in_a_row(draws: list[float], likeness: float, most: int) -> None:
    rule, in_a_row, longest = FilterRule(0.5, most), 0, 0
    for draw in draws:
        in_a_row = in_a_row + 1 if is_skipped(likeness, rule, in_a_row, draw) else 0
        longest = max(longest, in_a_row)
    assert longest <= most


def test_a_still_camera_skips_the_most_in_a_row_again_and_again() -> None:
    image = pictures(1)[0]
    still = filter_of(most=3)
    assert [still.skips(image) for _ in range(13)] == [False, *[True, True, True, False] * 3]
    assert still.skipped == 9


def test_pictures_that_differ_are_never_skipped() -> None:
    moving = filter_of()
    # Unlike each other in the sense of the filter: vectors of -1 to 1 around nothing are as good as orthogonal.
    assert not any(moving.skips(image) for image in pictures(20))
    assert moving.skipped == 0


def test_what_is_between_is_skipped_as_often_as_the_rule_says_and_the_same_for_a_seed() -> None:
    image = pictures(1)[0]
    other = near(image, 0.1)
    likeness = float(likeness_of(image, other))
    threshold = 1 - (1 - likeness) * 2  # a chance of one half
    kept = [image, other] * 200

    def run(seed: int) -> list[bool]:
        between = filter_of(threshold, most=10_000, seed=seed)
        return [between.skips(picture) for picture in kept]

    assert run(3) == run(3) != run(4)
    # Half of those that differ from the last one processed, and all of those that are it again: three of four.
    assert 0.6 < sum(run(3)) / len(kept) < 0.85


def test_the_reference_is_the_last_picture_that_was_processed() -> None:
    images = [near(pictures(1)[0], 0.004 * step) for step in range(30)]
    drifting = filter_of(0.99, most=10_000)
    assert not all(drifting.skips(image) for image in images[1:]), "a slow change is seen in the end"


def test_a_number_that_arrives_late_decides_the_next_picture() -> None:
    image, other = pictures(2)
    late = SimilarImageFilter(FilterRule(0.9, 10), 1, CPU, LateReadback())
    # The likeness of the second is known at the third; the change at the fourth is known at the fifth.
    assert [late.skips(picture) for picture in (image, image, image, other, other)] == [False, False, True, True, False]


def test_what_changed_is_shown_even_of_a_still_camera() -> None:
    image = pictures(1)[0]
    still = filter_of(most=10_000)
    assert [still.skips(image) for _ in range(3)] == [False, True, True]
    still.process_next(2)
    assert [still.skips(image) for _ in range(4)] == [False, False, True, True]
    still.turn(FilterRule(1.0, 10_000))
    assert not still.skips(image), "a threshold of one skips nothing"


def test_another_size_is_another_picture() -> None:
    sized = filter_of()
    assert not sized.skips(torch.full((1, 3, 64, 64), 0.2))
    assert not sized.skips(torch.full((1, 3, 96, 64), 0.2))
    assert sized.skips(torch.full((1, 3, 96, 64), 0.2))
