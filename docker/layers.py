"""What the image's layers of Python packages are made of, cut out of pyproject.toml and constraints.txt:

    python3 layers.py 13.0.2 cu130 PROJECT DIRECTORY

The Dockerfile makes a layer anew when what it is made of changes, so it gets the lines that concern it and no others.
torch.txt, gigabytes when installed, changes with the pinned torch alone; packages.txt is what else the project needs.
"""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

EXTRAS = {12: ("runpod", "onnx"), 13: ("runpod", "bake")}
"""By CUDA's major version. The rest of `bake` is for CUDA 13: TensorRT-RTX, and headers that come with torch here."""
HEADERS_OF_12 = ("nvidia-cuda-nvcc-cu12", "nvidia-cuda-cccl-cu12")
"""CUDA's headers, which compiled engines are made with; those of 13 are pinned."""


def torch_layer(pins: dict[str, str], cuda: str, build: str) -> list[str]:
    """torch as `build` (cu130) names it, and the headers of CUDA `cuda` (13.0.2)."""
    release = cuda.rpartition(".")[0]
    headers = {name: pin for name, pin in pins.items() if name.startswith("nvidia-cuda-")}
    if major(cuda) == 12:
        headers = dict.fromkeys(HEADERS_OF_12, f"{release}.*")
    return [
        f"--extra-index-url https://download.pytorch.org/whl/{build}",
        f"torch=={pins['torch']}+{build}",
        *(f"{name}=={pin}" for name, pin in sorted(headers.items())),
    ]


def packages_layer(project: dict[str, Any], cuda: str) -> list[str]:
    """What the project needs."""
    found = list(project["dependencies"])
    for extra in EXTRAS[major(cuda)]:
        found += requirements_of(project, extra)
    return sorted(set(found))


def requirements_of(project: dict[str, Any], extra: str) -> list[str]:
    found: list[str] = []
    for line in project["optional-dependencies"][extra]:
        own = re.fullmatch(rf"{project['name']}\[([\w,]+)\]", line)
        if own is None:
            found.append(line)
        else:
            found += [inner for name in own[1].split(",") for inner in requirements_of(project, name)]
    return found


def major(cuda: str) -> int:
    return int(cuda.partition(".")[0])


def main(cuda: str, build: str, source: Path, target: Path) -> None:
    lines = (source / "constraints.txt").read_text("utf-8").splitlines()
    pins = {name: pin for name, _, pin in (line.partition("==") for line in lines if not line.startswith("#"))}
    project = tomllib.loads((source / "pyproject.toml").read_text("utf-8"))["project"]
    (target / "torch.txt").write_text("\n".join(torch_layer(pins, cuda, build)) + "\n", "utf-8")
    (target / "packages.txt").write_text("\n".join(packages_layer(project, cuda)) + "\n", "utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]))
