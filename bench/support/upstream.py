"""PyPI's `streamdiffusion` 0.1.1, which its own requirements make unusable beside today's libraries: installed without
them into a folder of its own, and made to run where torch has no CUDA."""

import shutil
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

REQUIREMENT = "streamdiffusion==0.1.1"
FOLDER = Path(__file__).parents[2] / "build" / "oracle-streamdiffusion-0.1.1"


PATIENCE = 100
"""Seconds that fetching it may take."""


class Absent(Exception):
    """The package could not be fetched or imported; the message says why."""


class Event:
    """As much of `torch.cuda.Event` as upstream uses, where torch has no CUDA."""

    def __init__(self, enable_timing: bool = False) -> None:
        self.at = 0.0

    def record(self) -> None:
        self.at = time.perf_counter()

    def elapsed_time(self, end: "Event") -> float:
        return (end.at - self.at) * 1000


def installed() -> Path:
    """The folder of the package: where it is installed already, or one that it is fetched into when it is not there.
    Raises `Absent` where there is no registry."""
    there = find_spec("streamdiffusion")
    if there is not None and there.origin is not None:
        return Path(there.origin).parents[1]
    if not (FOLDER / "streamdiffusion").is_dir():
        FOLDER.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER.parent) as made:
            command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:"]
            try:
                done = subprocess.run(
                    [*command, "--disable-pip-version-check", "--target", f"{made}/package", REQUIREMENT],
                    capture_output=True,
                    text=True,
                    timeout=PATIENCE,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise Absent(f"{REQUIREMENT} could not be fetched within {PATIENCE} s") from error
            if done.returncode != 0:
                reason = done.stderr.strip().splitlines()[-1:]
                raise Absent(f"{REQUIREMENT} could not be fetched: {reason}")
            shutil.move(f"{made}/package", FOLDER)
    return FOLDER


def load(folder: Path) -> Any:
    """The class `StreamDiffusion`, ready to run on this machine. Raises `Absent` where it cannot be imported."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    if not torch.cuda.is_available():
        cuda: Any = torch.cuda
        cuda.Event, cuda.synchronize = Event, lambda: None
    try:
        from streamdiffusion import StreamDiffusion  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise Absent(f"{REQUIREMENT} cannot be imported: {error}") from error
    return StreamDiffusion


__all__ = ["Absent", "Event", "installed", "load"]
