"""The oracle: PyPI's `streamdiffusion` 0.1.1, fetched into a folder of its own and run in a process of its own.

Its own requirements make it unusable beside today's diffusers, so it is installed without them; it patches nothing but
shares global state between its instances, hence the process.
"""

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file

from bench.support import upstream as package
from sdstream.diffusion.loading.models import Model
from tests.diffusion import runs

ROOT = Path(__file__).parents[2]
FRAMES = 8
SIZE = 64
SEED = 2
PROMPT, NEGATIVE = "the cat", "an hat"
STEPS: dict[int, list[int]] = {1: [32], 2: [32, 45], 4: [0, 16, 32, 45]}
"""`t_index_list` by length."""


@dataclass(frozen=True)
class Case:
    """How upstream is asked to run."""

    slots: int
    guidance: Literal["none", "self", "initialize", "full"]
    renoise: bool = True
    delta: float = 1.0
    scale: float = 1.4
    batched: bool = True

    @property
    def name(self) -> str:
        mode = "" if self.batched else "-sequential"
        return f"{self.slots}-{self.guidance}-{'renoise' if self.renoise else 'still'}-{self.delta}-{self.scale}{mode}"


def cases() -> Iterator[Case]:
    """Every combination that means something: without guidance neither its scale nor delta does, at one slot no noise
    is added between slots."""
    for slots in STEPS:
        for renoise in (True, False) if slots > 1 else (True,):
            yield Case(slots, "none", renoise)
            yield Case(slots, "self", renoise, 0.5, 1.0)  # guidance that is off
            for scale in (1.4, 2.5):
                yield Case(slots, "full", renoise, 1.0, scale)
                for delta in (1.0, 0.5):
                    yield Case(slots, "self", renoise, delta, scale)
                    yield Case(slots, "initialize", renoise, delta, scale)
    yield SEQUENTIAL


SEQUENTIAL = Case(4, "none", renoise=False, batched=False)
"""Only its first frame says something: upstream takes each noised picture for the noise of the next one."""


def pictures() -> list[torch.Tensor]:
    """The frames of every case, float32 [1, 3, 64, 64], 0 to 1."""
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, 3, SIZE, SIZE, generator=generator) for _ in range(FRAMES)]


@cache
def installed() -> Path:
    """The folder of upstream's package; fetched when it is not there. Skips the test where there is no registry."""
    try:
        return package.installed()
    except package.Absent as reason:
        pytest.skip(f"no oracle: {reason}")


def run_upstream(model: Path, answers: Path) -> dict[str, torch.Tensor]:
    """What upstream makes of all cases: `NAME/latent` [frames, 4, 8, 8] and `NAME/image` [frames, 3, 64, 64]."""
    command = [sys.executable, "-m", "tests.diffusion.upstream_program", str(installed()), str(model), str(answers)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False)
    assert done.returncode == 0, done.stderr
    return load_file(answers)


def run_ours(model: Model, case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """What the frame makes of a case: latents [frames, 4, 8, 8] and images [frames, 3, 64, 64] of -1 to 1."""
    # Upstream's unstable residual at one slot is what `compat` is for; everything else must agree without it.
    compat = case.slots == 1 and case.guidance == "self"
    knobs = runs.knobs_of(
        model,
        STEPS[case.slots],
        prompt=PROMPT,
        negative=NEGATIVE,
        seed=SEED,
        guidance=case.scale,
        delta=case.delta,
        renoise=case.renoise,
    )
    frame = runs.frame_of(model, case.slots, case.guidance, batched=case.batched, compat=compat)
    results = runs.run(frame, knobs, pictures())
    return torch.cat([result.latent for result in results]), torch.cat([result.image for result in results]) * 2 - 1


def digest(latents: torch.Tensor, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a golden file keeps of a case: the last latent, and the last image at an eighth of its size."""
    return latents[-1], torch.nn.functional.avg_pool2d(images[-1], 8)


def fingerprint(model: Model) -> torch.Tensor:
    """The absolute sum of the weights of the networks, float64 [3]: golden files are of one tiny model."""
    networks = (model.unet, model.vae, model.prompts.encoders[0].model)
    return torch.stack(
        [sum((weight.double().abs().sum() for weight in network.parameters()), torch.zeros(())) for network in networks]
    ).double()
