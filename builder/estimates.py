"""What baking will cost, before it begins: measured once per back end (docs/engines.md), scaled by the weights."""

from dataclasses import dataclass

from sdstream import platform
from sdstream.engines.cache import EngineCache
from sdstream.engines.component import Component
from sdstream.engines.keys import BackendName

GIGABYTE = 1e9


@dataclass(frozen=True, slots=True)
class Rate:
    """Cost of one component: a fixed part, and one for each gigabyte of its weights. Seconds are of 2 cores.

    `memory` is all that a bake holds at its peak, `mapped_per_gigabyte` is how much of it are mapped files, which the
    system drops when memory gets short.
    """

    seconds: float
    seconds_per_gigabyte: float
    memory: float
    memory_per_gigabyte: float
    mapped_per_gigabyte: float
    disk_per_gigabyte: float
    disk: float


RATES: dict[BackendName, Rate] = {
    "tensorrt-rtx": Rate(5, 28, 1.0e9, 3.3e9, 1.1e9, 1.02e9, 20e6),
    "tensorrt": Rate(60, 300, 2.0e9, 3.5e9, 0.0, 1.05e9, 20e6),
    "compiled": Rate(90, 120, 1.2e9, 3.5e9, 0.0, 1.05e9, 10e6),
}
"""`tensorrt-rtx` from bench/results; the others are guesses with room, said so by `plan`."""
MEASURED: frozenset[BackendName] = frozenset({"tensorrt-rtx"})


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is needed, and what is there; None where a system does not tell. `least_memory` is without mapped files."""

    seconds: float
    memory: int
    least_memory: int
    disk: int
    free_memory: int | None
    free_disk: int | None

    @property
    def problems(self) -> tuple[str, ...]:
        """Why baking would fail after all the work, in words; empty when it should not."""
        found: list[str] = []
        for what, free, needed in (
            ("memory", self.free_memory, self.least_memory),
            ("disk", self.free_disk, self.disk),
        ):
            if free is not None and free < needed:
                found.append(f"{readable_size(needed)} of {what} are needed, and {readable_size(free)} are free")
        return tuple(found)


def estimate(components: list[Component], backend: BackendName, cache: EngineCache) -> Estimate:
    """What baking `components` takes: time adds up, memory is the largest's, disk holds all that is made and read."""
    rate = RATES[backend]
    sizes = [weight_bytes(component) for component in components]
    largest = max(sizes, default=0)
    disk = sum(int(rate.disk + rate.disk_per_gigabyte * size / GIGABYTE) for size in sizes)
    working = 2 * largest  # the ONNX file, and the engine before it has its place
    if backend != "compiled":
        working += parked_bytes(components)
    memory = rate.memory + rate.memory_per_gigabyte * largest / GIGABYTE if sizes else 0.0
    return Estimate(
        seconds=sum(rate.seconds + rate.seconds_per_gigabyte * size / GIGABYTE for size in sizes),
        memory=int(memory),
        least_memory=int(memory - rate.mapped_per_gigabyte * largest / GIGABYTE),
        disk=disk + working if sizes else 0,
        free_memory=platform.free_memory(),
        free_disk=cache.free_bytes(),
    )


def weight_bytes(component: Component) -> int:
    """Bytes of the weights that an engine of this component holds."""
    return sum(tensor.numel() * tensor.element_size() for tensor in component.module.state_dict().values())


def parked_bytes(components: list[Component]) -> int:
    """Bytes of the weights that lie in a file meanwhile; those that components share are there once."""
    tensors = {id(tensor): tensor for component in components for tensor in component.module.parameters()}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def readable_size(count: int) -> str:
    """Such as 1.8 GB, 22 MB or 0.4 MB."""
    if count >= GIGABYTE / 10:
        return f"{count / GIGABYTE:.1f} GB"
    return f"{count / 1e6:.0f} MB" if count >= 10e6 else f"{count / 1e6:.1f} MB"


__all__ = ["MEASURED", "RATES", "Estimate", "Rate", "estimate", "parked_bytes", "readable_size", "weight_bytes"]
