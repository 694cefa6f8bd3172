"""Which CUDA the installed torch is built for, found without importing it, and which cards and drivers can run that."""

import importlib.util
import re
import sys
from dataclasses import dataclass
from pathlib import Path

BUILDS = {13: "cu130", 12: "cu126"}
"""What PyTorch's index calls the builds of the pinned torch, by CUDA's major version."""
INDEX = "https://download.pytorch.org/whl"
DRIVERS = {13: 580, 12: 525}
"""The oldest driver that runs programs for CUDA of that major version."""
TURING, BLACKWELL = 75, 100
"""Compute capabilities, 75 for 7.5. CUDA 13 makes no programs for cards before Turing, CUDA 12.6 none from Blackwell
on."""


@dataclass(frozen=True, slots=True)
class TorchBuild:
    """`version` such as 2.13.0, without the part that names the build; `cuda` such as 13.0, empty for one without."""

    version: str
    cuda: str

    @property
    def numbers(self) -> tuple[int, ...]:
        """Of CUDA; (0,) without."""
        return tuple(int(part) for part in (self.cuda or "0").split("."))


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
    cuda = re.search(r"^cuda: .*= (?:'([\d.]+)'|None)$", text, re.MULTILINE)
    return None if version is None or cuda is None else TorchBuild(version[1], cuda[1] or "")


def find_obstacle(build: TorchBuild | None, driver: str, cuda: int, capability: int = 0) -> Obstacle | None:
    """Why torch cannot use a card of compute `capability` (75 for 7.5) whose `driver` (580.95) knows CUDA `cuda`
    (13000). Either number is 0 where it is not known.

    A driver runs every program for its own major version of CUDA and for older ones, and none for a newer one.
    """
    if build is None or not cuda:
        return None
    is_old, is_new, major = 0 < capability < TURING, capability >= BLACKWELL, cuda // 1000
    if not build.cuda:
        reason = "torch here is built without CUDA"
    elif (is_old and build.numbers >= (13,)) or (is_new and build.numbers < (12, 8)):
        reason = f"torch here is for CUDA {build.cuda}, which has no programs for compute capability {capability / 10}"
    elif build.numbers[0] > major:
        reason = f"torch here is for CUDA {build.cuda}, and driver {driver} knows {major}.{cuda % 1000 // 10}"
    else:
        return None
    wanted = 12 if is_old or (12 in (major, build.numbers[0]) and not is_new) else 13
    steps = [f"update the driver to {DRIVERS[wanted]} or newer"] if major < wanted else []
    if build.numbers[0] != wanted:
        name = BUILDS[wanted]
        steps.append(f"run `{sys.executable} -m pip install --index-url {INDEX}/{name} torch=={build.version}+{name}`")
    remedy = " and ".join(steps)
    if build.numbers[0] == 13 and wanted == 12 and not is_old:
        remedy = f"update the driver to {DRIVERS[13]} or newer, or {remedy}"
    return Obstacle(reason, f"{remedy[0].upper()}{remedy[1:]}.")


__all__ = ["BUILDS", "DRIVERS", "Obstacle", "TorchBuild", "find_obstacle", "parse_torch_build", "read_torch_build"]
