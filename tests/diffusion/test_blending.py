"""Blends of prompts and seeds."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sdstream.diffusion.blending import blend, linear, normalised, slerp
from sdstream.diffusion.seeds import make_noise

SHAPE = (2, 4, 8, 8)
shares = st.lists(st.floats(0.01, 10), min_size=2, max_size=5)


def points(count: int, size: int = 40) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(size, generator=generator, dtype=torch.float64) for _ in range(count)]


def angle(one: torch.Tensor, other: torch.Tensor) -> float:
    return math.acos(torch.nn.functional.cosine_similarity(one, other, dim=0).clamp(-1, 1).item())


@given(st.floats(0, 1))
def test_slerp_of_two_is_the_textbook_formula(share: float) -> None:
    one, other = (point / point.norm() for point in points(2))
    theta = angle(one, other)
    expected = (math.sin((1 - share) * theta) * one + math.sin(share * theta) * other) / math.sin(theta)
    torch.testing.assert_close(slerp([one, other], [1 - share, share]), expected, rtol=1e-9, atol=1e-9)


@given(shares, st.randoms())
def test_slerp_does_not_depend_on_the_order(weights: list[float], random: object) -> None:
    pairs = list(zip(points(len(weights)), weights, strict=True))
    forward = slerp(*map(list, zip(*pairs, strict=True)))  # type: ignore[arg-type]
    backward = slerp(*map(list, zip(*reversed(pairs), strict=True)))  # type: ignore[arg-type]
    torch.testing.assert_close(forward, backward, rtol=1e-6, atol=1e-6)


@given(shares)
def test_slerp_of_many_balances_the_directions_to_all(weights: list[float]) -> None:
    unit = [point / point.norm() for point in points(len(weights))]
    mean = slerp(unit, normalised(weights))
    assert mean.norm().item() == pytest.approx(1, abs=1e-9)
    pull = torch.zeros_like(mean)
    for point, weight in zip(unit, weights, strict=True):
        across = point - (point @ mean) * mean
        pull += weight * angle(point, mean) * across / across.norm()
    assert pull.norm().item() < 1e-6 * sum(weights)


def test_the_weight_of_one_alone_gives_that_one() -> None:
    one, other, third = points(3)
    torch.testing.assert_close(slerp([one, other, third], [0.0, 1.0, 0.0]), other)
    assert torch.equal(slerp([one], [1.0]), one)


def test_a_blend_of_nothing_is_nothing() -> None:
    nothing, (one,) = torch.zeros(40, dtype=torch.float64), points(1)
    assert torch.equal(slerp([nothing, nothing], [0.5, 0.5]), nothing)
    torch.testing.assert_close(slerp([nothing, one], [0.25, 0.75]), 0.75 * one)


def test_the_length_is_the_weighted_mean_of_lengths() -> None:
    one, other = points(2)
    expected = 0.25 * one.norm() + 0.75 * (3 * other).norm()
    torch.testing.assert_close(slerp([one, 3 * other], [0.25, 0.75]).norm(), expected)
    torch.testing.assert_close(slerp([one, 3 * other], [0.5, 1.5]).norm(), 2 * expected)


@pytest.mark.parametrize("weights", [[1.0, 1.0], [100.0, -99.0], [-1.0, 0.5], [0.0, 0.0], [1e-12, 1e-12], [5.0, -5.0]])
def test_absurd_weights_and_opposite_points_stay_finite(weights: list[float]) -> None:
    one, other = points(2)
    assert slerp([one, -one], weights).isfinite().all()
    assert slerp([one, other], weights).isfinite().all()
    assert slerp([one, one], weights).isfinite().all()
    assert slerp([one, torch.zeros_like(one)], weights).isfinite().all()


def test_linear_takes_weights_as_they_are() -> None:
    one, other = points(2)
    torch.testing.assert_close(linear([one, other], [2.0, -0.5]), 2 * one - 0.5 * other)


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], [-1.0, -2.0]])
def test_weights_that_sum_to_nothing_cannot_be_normalised(weights: list[float]) -> None:
    with pytest.raises(ValueError, match="sum above 0"):
        normalised(weights)


def test_a_blend_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        blend([], [], "linear")
    with pytest.raises(ValueError, match="one weight"):
        blend(points(2), [1.0], "slerp")


def test_a_seed_is_the_hosts_generator() -> None:
    assert torch.equal(make_noise(7, SHAPE), torch.randn(SHAPE, generator=torch.Generator().manual_seed(7)))


@pytest.mark.parametrize("seed", [0, -1, 2**53 - 1, -(2**53 - 1)])
def test_every_seed_of_the_wire_works(seed: int) -> None:
    assert torch.equal(make_noise(seed, SHAPE), make_noise([(seed, 3.0)], SHAPE))
    assert not torch.equal(make_noise(seed, SHAPE), make_noise(seed + 1, SHAPE))


@pytest.mark.parametrize("method", ["linear", "slerp"])
@pytest.mark.parametrize("seeds", [[(1, 1.0), (2, 1.0)], [(1, 5.0), (2, 1.0), (3, 1.0)], [(1, 1.0), (1, 1.0)]])
def test_blended_noise_is_as_strong_as_noise(method: str, seeds: list[tuple[int, float]]) -> None:
    noise = make_noise(seeds, (4, 4, 32, 32), method=method)  # type: ignore[arg-type]
    assert noise.std().item() == pytest.approx(1, abs=0.05)
    assert noise.dtype == torch.float32


def test_noise_that_is_not_normalised_is_the_plain_sum() -> None:
    expected = 2 * make_noise(1, SHAPE) + 3 * make_noise(2, SHAPE)
    torch.testing.assert_close(make_noise([(1, 2.0), (2, 3.0)], SHAPE, normalise=False), expected)
