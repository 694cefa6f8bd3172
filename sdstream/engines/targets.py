"""Which GPU an engine can be for, and which back end serves which GPU: decisions over plain numbers."""

from collections.abc import Iterable
from dataclasses import dataclass

from sdstream.engines.keys import PORTABLE, BackendName, capabilities_of, target_of

RTX_CAPABILITIES = (75, 80, 86, 89, 120, 121)
"""What TensorRT-RTX 1.7 builds for."""


@dataclass(frozen=True, slots=True)
class GpuGeneration:
    """GPUs of one compute capability."""

    capability: int
    name: str
    cards: str
    best: BackendName
    """The back end that serves it best; `compiled` serves all of them."""


GENERATIONS: tuple[GpuGeneration, ...] = (
    GpuGeneration(75, "Turing", "GeForce RTX 20, T4", "tensorrt-rtx"),
    GpuGeneration(80, "Ampere", "A100", "tensorrt-rtx"),
    GpuGeneration(86, "Ampere", "GeForce RTX 30, A40, RTX A4000 to A6000", "tensorrt-rtx"),
    GpuGeneration(89, "Ada", "GeForce RTX 40, L4, L40, L40S, RTX 2000 to 6000 Ada", "tensorrt-rtx"),
    GpuGeneration(90, "Hopper", "H100, H200", "tensorrt"),
    GpuGeneration(100, "Blackwell", "B200", "tensorrt"),
    GpuGeneration(103, "Blackwell", "B300", "tensorrt"),
    GpuGeneration(120, "Blackwell", "GeForce RTX 50, RTX PRO 6000", "tensorrt-rtx"),
    GpuGeneration(121, "Blackwell", "DGX Spark", "tensorrt-rtx"),
)


def choose_backends(capability: int | None, installed: Iterable[BackendName]) -> tuple[BackendName, ...]:
    """The back ends to look for engines of, the best first. `capability` is 89 for SM 8.9, None without an NVIDIA GPU.

    TensorRT-RTX where it has the card, TensorRT elsewhere, and the compiled twin behind both. A card that is newer than
    this table takes TensorRT.
    """
    there = set(installed)
    if capability is None:
        wanted: tuple[BackendName, ...] = ("compiled",)
    elif capability in RTX_CAPABILITIES:
        wanted = ("tensorrt-rtx", "tensorrt", "compiled")
    else:
        wanted = ("tensorrt", "compiled")
    return tuple(name for name in wanted if name in there)


def takes_capability(target: str, capability: int | None) -> bool:
    """Whether an engine's target has a GPU of this capability."""
    return target == PORTABLE or (capability is not None and capability in capabilities_of(target))


def capability_text(capability: int) -> str:
    """`8.9` for 89 and `12.0` for 120."""
    return f"{capability // 10}.{capability % 10}"


def parse_capabilities(text: str) -> tuple[int, ...]:
    """`89,120` or `8.9,12.0` as (89, 120), sorted, each once. Raises `ValueError` naming what is none."""
    found: set[int] = set()
    for part in text.split(","):
        digits = part.strip().lower().removeprefix("sm").replace(".", "")
        if not digits.isdigit() or not 50 <= int(digits) < 1000:
            raise ValueError(f"{part.strip()!r} is not a compute capability such as 89 or 8.9")
        found.add(int(digits))
    return tuple(sorted(found))


def refuse_capabilities(backend: BackendName, capabilities: Iterable[int]) -> str | None:
    """Why a back end cannot bake for these, None when it can."""
    asked = sorted(set(capabilities))
    if backend != "tensorrt-rtx":
        return None
    bad = [number for number in asked if number not in RTX_CAPABILITIES]
    if not bad:
        return None
    known = ", ".join(map(str, RTX_CAPABILITIES))
    return (
        f"TensorRT-RTX has no engines for SM {', '.join(map(capability_text, bad))}; it has them for {known}. "
        "For the others bake with --backend tensorrt, on such a card."
    )


def bake_command(profile: str | None, backend: BackendName, capability: int | None) -> str:
    """The command line that bakes what is missing."""
    command = f"python -m builder bake --profile {profile or 'PROFILE'} --backend {backend}"
    return command if capability is None or backend == "compiled" else f"{command} --sm {capability}"


__all__ = [
    "GENERATIONS",
    "RTX_CAPABILITIES",
    "GpuGeneration",
    "bake_command",
    "capability_text",
    "choose_backends",
    "parse_capabilities",
    "refuse_capabilities",
    "takes_capability",
    "target_of",
]
