"""What baking will cost, before it begins: what the same took on a machine like this one, where the cache has such an
engine; else a table (docs/engines.md) scaled by the weights."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sdstream.engines.cache import EngineCache
from sdstream.engines.component import Component
from sdstream.engines.entry import Entry
from sdstream.engines.keys import BackendName, EngineKey, capabilities_of
from sdstream.platform.cores import processor_name, usable_cores
from sdstream.platform.memory import free_memory

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
SCALED: frozenset[BackendName] = frozenset({"tensorrt-rtx"})
ALIKE = 0.1
"""How much the weights of two networks may differ, so that one's bake tells of the other's."""


class Basis(StrEnum):
    """Where figures come from."""

    MEASURED = "measured here"
    SCALED = "scaled from what SD-Turbo took"
    GUESSED = "guessed"


@dataclass(frozen=True, slots=True)
class Cost:
    """What one engine takes: seconds, bytes of memory at the peak, of them mapped ones, and bytes on the disk."""

    seconds: float
    memory: float
    mapped: float
    disk: float
    basis: Basis


@dataclass(frozen=True, slots=True)
class Estimate:
    """What is needed, and what is there; None where a system does not tell. `least_memory` is without mapped files."""

    seconds: float
    memory: int
    least_memory: int
    disk: int
    free_memory: int | None
    free_disk: int | None
    bases: tuple[Basis, ...] = ()
    """Of each engine, in order."""

    @property
    def basis(self) -> str:
        """Where the figures come from, in words: `measured here`, or `2 measured here, 1 guessed`."""
        counts = {basis: self.bases.count(basis) for basis in Basis if basis in self.bases}
        return ", ".join(str(basis) if len(counts) == 1 else f"{count} {basis}" for basis, count in counts.items())

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


def estimate(missing: Sequence[tuple[Component, EngineKey]], backend: BackendName, cache: EngineCache) -> Estimate:
    """What baking `missing` takes: time adds up, memory is the largest's, disk holds all that is made and read."""
    entries = cache.entries()
    costs = [_measured(component, key, entries) or _tabled(component, backend) for component, key in missing]
    components = [component for component, _ in missing]
    disk = sum(cost.disk for cost in costs)
    if backend != "compiled":  # the graph of one, and the weights of all
        disk += max(map(weight_bytes, components), default=0) + parked_bytes(components)
    return Estimate(
        seconds=sum(cost.seconds for cost in costs),
        memory=int(max((cost.memory for cost in costs), default=0)),
        least_memory=int(max((cost.memory - cost.mapped for cost in costs), default=0)),
        disk=int(disk),
        free_memory=free_memory(),
        free_disk=cache.free_bytes(),
        bases=tuple(cost.basis for cost in costs),
    )


def bake_facts(component: Component, seconds: float, peak: int | None) -> Mapping[str, Any]:
    """What the manifest of an engine keeps for the plans of others like it. `peak` is None where something else had
    held more memory before."""
    return {
        "seconds": round(seconds, 1),
        "peak_memory": peak,
        "weight_bytes": weight_bytes(component),
        **machine_facts(),
    }


def machine_facts() -> Mapping[str, Any]:
    """What seconds depend on."""
    return {"processor": processor_name(), "cores": usable_cores()}


def _measured(component: Component, key: EngineKey, entries: Iterable[Entry]) -> Cost | None:
    """What the newest engine like this one took on a machine like this one; None when there is none."""
    weights, here = weight_bytes(component), machine_facts()
    found = [
        entry
        for entry in entries
        if _likeness(entry.key) == _likeness(key)
        and abs(float(entry.manifest.facts.get("weight_bytes") or 0) - weights) <= ALIKE * weights
        and all(entry.manifest.facts.get(name) == value for name, value in here.items())
        and entry.manifest.facts.get("peak_memory")
        and not entry.manifest.facts.get("resumed")
    ]
    if not found:
        return None
    newest = max(found, key=lambda entry: entry.manifest.created_at).manifest
    mapped = RATES[key.backend].mapped_per_gigabyte * weights / GIGABYTE
    return Cost(float(newest.facts["seconds"]), float(newest.facts["peak_memory"]), mapped, newest.size, Basis.MEASURED)


def _likeness(key: EngineKey) -> tuple[Any, ...]:
    """What bakes of two engines must have in common to take the same, beside the size of the weights."""
    ranges = tuple((entry.least, entry.best, entry.most) for entry in key.inputs)
    return key.backend, key.component, key.dtype, ranges, len(capabilities_of(key.target))


def _tabled(component: Component, backend: BackendName) -> Cost:
    rate, gigabytes = RATES[backend], weight_bytes(component) / GIGABYTE
    return Cost(
        rate.seconds + rate.seconds_per_gigabyte * gigabytes,
        rate.memory + rate.memory_per_gigabyte * gigabytes,
        rate.mapped_per_gigabyte * gigabytes,
        rate.disk + rate.disk_per_gigabyte * gigabytes,
        Basis.SCALED if backend in SCALED else Basis.GUESSED,
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


__all__ = [
    "RATES",
    "Basis",
    "Estimate",
    "Rate",
    "bake_facts",
    "estimate",
    "parked_bytes",
    "readable_size",
    "weight_bytes",
]
