"""The oracle: PyPI's `streamdiffusion` 0.1.1, fetched into a folder of its own and run in a process of its own.

Its own requirements make it unusable beside today's diffusers, so it is installed without them; it patches nothing but
shares global state between its instances, hence the process.
"""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[2]
REQUIREMENT = "streamdiffusion==0.1.1"
FOLDER = ROOT / "build" / "oracle-streamdiffusion-0.1.1"
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
    """Every combination that means something: without guidance neither its scale nor delta does."""
    for slots in STEPS:
        for renoise in (True, False):
            yield Case(slots, "none", renoise)
            yield Case(slots, "self", renoise, 0.5, 1.0)  # guidance that is off
            for scale in (1.4, 2.5):
                yield Case(slots, "full", renoise, 1.0, scale)
                for delta in (1.0, 0.5):
                    yield Case(slots, "self", renoise, delta, scale)
                    yield Case(slots, "initialize", renoise, delta, scale)
    yield Case(4, "none", renoise=False, batched=False)


def pictures() -> list[torch.Tensor]:
    """The frames of every case, float32 [1, 3, 64, 64], 0 to 1."""
    generator = torch.Generator().manual_seed(0)
    return [torch.rand(1, 3, SIZE, SIZE, generator=generator) for _ in range(FRAMES)]


@cache
def installed() -> Path:
    """The folder of upstream's package; fetched when it is not there. Skips the test where there is no registry."""
    if not (FOLDER / "streamdiffusion").is_dir():
        FOLDER.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER.parent) as made:
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
            done = subprocess.run(
                [*command, "--disable-pip-version-check", "--target", f"{made}/package", REQUIREMENT],
                capture_output=True,
                text=True,
                timeout=100,
                check=False,
            )
            if done.returncode != 0:
                reason = done.stderr.strip().splitlines()[-1:]
                pytest.skip(f"no oracle: {REQUIREMENT} could not be fetched: {reason}")
            shutil.move(f"{made}/package", FOLDER)
    return FOLDER


def run_upstream(model: Path, answers: Path) -> dict[str, torch.Tensor]:
    """What upstream makes of all cases: `NAME/latent` [frames, 4, 8, 8] and `NAME/image` [frames, 3, 64, 64]."""
    command = [sys.executable, "-m", "tests.diffusion.upstream_program", str(installed()), str(model), str(answers)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stderr
    return load_file(answers)
