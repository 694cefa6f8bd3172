"""The frame against PyPI's `streamdiffusion` 0.1.1: live where it can be fetched, and against golden files of it."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sdstream.diffusion.loading.models import Model
from tests.diffusion import runs, upstream
from tests.diffusion.upstream_golden import GOLDEN

TOLERANCE = 1e-4
Ours = Callable[[upstream.Case], tuple[torch.Tensor, torch.Tensor]]


@pytest.fixture(scope="module")
def ours(tiny_model: Callable[..., Model]) -> Ours:
    """What the frame makes of a case, once for both tests that look at it."""
    return cache(lambda case: upstream.run_ours(tiny_model("sd-turbo"), case))


@pytest.fixture(scope="module")
def answers(tiny_directory: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    return upstream.run_upstream(
        tiny_directory("sd-turbo"), tmp_path_factory.mktemp("upstream") / "answers.safetensors"
    )


@pytest.mark.slow
def test_every_frame_is_that_of_upstream(answers: dict[str, torch.Tensor], ours: Ours) -> None:
    worst: dict[str, float] = {}
    for case in upstream.cases():
        latents, images = ours(case)
        expected = answers[f"{case.name}/latent"], answers[f"{case.name}/image"]
        frames = 1 if case == upstream.SEQUENTIAL else upstream.FRAMES
        worst[case.name] = max(
            max(runs.distance(mine[index], upstreams[index]) for index in range(frames))
            for mine, upstreams in zip((latents, images), expected, strict=True)
        )
    print(f"largest relative difference of {len(worst)} cases: {max(worst.values()):.1e}")
    assert not {name: value for name, value in worst.items() if not value <= TOLERANCE}


def test_the_last_frames_are_those_of_the_golden_file(ours: Ours, tiny_model: Callable[..., Model]) -> None:
    golden = load_file(GOLDEN)
    fingerprint = upstream.fingerprint(tiny_model("sd-turbo"))
    assert torch.allclose(fingerprint, golden["fingerprint"], rtol=1e-6), (
        "another tiny model: write the golden file anew"
    )
    for case in upstream.cases():
        if not case.batched or (case.delta == 1.0 and case.slots > 1):
            continue  # half of them, for the time they take; the live test has all
        latent, image = upstream.digest(*ours(case))
        assert runs.distance(latent, golden[f"{case.name}/latent"]) <= TOLERANCE, case.name
        assert runs.distance(image, golden[f"{case.name}/image"]) <= TOLERANCE, case.name


@pytest.mark.slow
def test_the_oracle_tells_guidance_noise_and_delta_apart(answers: dict[str, torch.Tensor]) -> None:
    for slots in (2, 4):
        plain = upstream.Case(slots, "self")
        for other in (
            upstream.Case(slots, "none"),
            upstream.Case(slots, "initialize"),
            upstream.Case(slots, "full"),
            upstream.Case(slots, "self", renoise=False),
            upstream.Case(slots, "self", delta=0.5),
            upstream.Case(slots, "self", scale=2.5),
        ):
            distance = runs.distance(answers[f"{other.name}/latent"][-1], answers[f"{plain.name}/latent"][-1])
            assert distance > 10 * TOLERANCE, (plain.name, other.name)
