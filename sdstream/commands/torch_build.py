"""Which CUDA the installed torch is built for, found without importing it, and whether the driver can run that."""

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path

BUILDS = {13: "cu130", 12: "cu126"}
"""By the CUDA that a driver knows: what the index of PyTorch calls a build of the pinned torch for it."""
INDEX = "https://download.pytorch.org/whl"
DRIVER_OF_CUDA_13 = 580
LEAST_OF_CUDA_13 = 75
"""Compute capability, 75 for 7.5: CUDA 13 makes no programs for cards before Turing."""


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """`version` such as 2.13.0, without the part that names the build; `cuda` such as 13.0, empty for one without."""

    version: str
    cuda: str


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why torch will not use a card that the driver shows, and what to do about it."""

    reason: str
    remedy: str


def read_torch_build() -> TorchBuild | None:
    """That of the torch that would be imported; None where there is none, or one that does not tell."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    try:
        text = Path(spec.origin).with_name("version.py").read_text("utf-8")
    except OSError:
        return None
    return parse_torch_build(text)


def parse_torch_build(text: str) -> TorchBuild | None:
    """What torch's own `version.py` says."""
    version = re.search(r"^__version__ = '([^'+]+)", text, re.MULTILINE)
    cuda = re.search(r"^cuda: .*= (?:'([^']*)'|None)$", text, re.MULTILINE)
    return None if version is None or cuda is None else TorchBuild(version[1], cuda[1] or "")


def find_obstacle(build: TorchBuild | None, driver: str, cuda: int, capability: int = 0) -> Obstacle | None:
    """Why torch cannot use a card of compute `capability` (75 for 7.5) whose `driver` (580.95) knows CUDA `cuda`
    (13000). Either number is 0 where it is not known.

    A driver runs every program for its own major version of CUDA and for older ones, and none for a newer one.
    """
    if build is None or not cuda:
        return None
    if build.cuda and int(build.cuda.partition(".")[0]) >= 13 and 0 < capability < LEAST_OF_CUDA_13:
        reason = f"torch here is for CUDA {build.cuda}, which has no programs for compute capability {capability / 10}"
        return Obstacle(reason, f"`.venv/bin/pip install --index-url {INDEX}/{BUILDS[12]} torch=={build.version}`.")
    knows, major = f"{cuda // 1000}.{cuda % 1000 // 10}", cuda // 1000
    name = BUILDS.get(12 if 0 < capability < LEAST_OF_CUDA_13 and major > 12 else min(major, max(BUILDS)))
    other = f"`.venv/bin/pip install --index-url {INDEX}/{name} torch=={build.version}`"
    newer = f"Update the driver to {DRIVER_OF_CUDA_13} or newer"
    if not build.cuda:
        return Obstacle("torch here is built without CUDA", f"{other}." if name else f"{newer}.")
    if int(build.cuda.partition(".")[0]) <= major:
        return None
    reason = f"torch here is for CUDA {build.cuda}, and driver {driver} knows {knows}"
    return Obstacle(reason, f"{newer}, or, for a card before Blackwell, {other}." if name else f"{newer}.")


__all__ = [
    "BUILDS",
    "DRIVER_OF_CUDA_13",
    "LEAST_OF_CUDA_13",
    "Obstacle",
    "TorchBuild",
    "find_obstacle",
    "parse_torch_build",
    "read_torch_build",
]
