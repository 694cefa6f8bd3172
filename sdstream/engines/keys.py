"""What an engine is called: everything that shapes it, hashed, and the same for people to read.

The *digest* of a key is the hash of all of it. A worker knows what it needs, but not for which further GPUs and how
many further rows somebody baked, so there is a second hash, the *base*, of all but those two: everything of one base
answers alike, and one serves whose *target* (`sm86+sm89`, `portable`) has the worker's GPU and whose ranges its rows.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, cast

SCHEMA = 1
"""Of what engines take, give and are wrapped in; raised whenever an older engine would answer wrongly."""

PORTABLE = "portable"
"""The target of engines that do not depend on the GPU."""

BackendName = Literal["compiled", "tensorrt-rtx", "tensorrt"]
BACKENDS: tuple[BackendName, ...] = ("compiled", "tensorrt-rtx", "tensorrt")

_DIGEST = re.compile(r"[0-9a-f]{64}")
_TARGET = re.compile(r"portable|sm\d{2,3}(\+sm\d{2,3})*|(cpu|mps)(-[a-z0-9]+)+")
_UNSAFE = re.compile(r"[^a-z0-9.+]+")


@dataclass(frozen=True, slots=True, order=True)
class TensorRange:
    """One input of an engine: `least`, `best` and `most` are its shapes; equal where an axis has one size."""

    name: str
    dtype: str
    least: tuple[int, ...]
    best: tuple[int, ...]
    most: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.least) == len(self.best) == len(self.most):
            raise ValueError(f"{self.name}: the three shapes of a range have as many axes as each other")
        if any(not low <= middle <= high for low, middle, high in zip(self.least, self.best, self.most, strict=True)):
            raise ValueError(f"{self.name}: {self.best} is not between {self.least} and {self.most}")

    def takes(self, shape: Iterable[int]) -> bool:
        """Whether a tensor of `shape` is within the range."""
        given = tuple(shape)
        return len(given) == len(self.least) and all(
            low <= size <= high for low, size, high in zip(self.least, given, self.most, strict=True)
        )


@dataclass(frozen=True, slots=True, order=True)
class LoraIdentity:
    """A LoRA that is fused into the weights: the digest of its tensors, and its scale."""

    digest: str
    scale: float


@dataclass(frozen=True, slots=True)
class EngineKey:
    """Everything that shapes an engine. Two keys are equal exactly when either engine may stand for the other.

    `name` is for people only and not part of the hash: a model's name or the profile that asked.
    """

    weights: str
    """The digest of the component's tensors before any LoRA (`weights.digest_of_tensors`)."""
    config: Mapping[str, Any]
    """What the network's arithmetic depends on besides its weights, JSON-safe."""
    component: str
    """Which part of the model, and with which optional inputs: `unet`, `unet-control`, `frame`, ..."""
    inputs: tuple[TensorRange, ...]
    dtype: str
    backend: BackendName
    backend_version: str
    target: str
    """`sm86+sm89`, `portable`, or what a compiled package is tied to, such as a CPU's instruction set."""
    cuda: str
    """Major version of CUDA that the engine needs, `none` for the CPU."""
    loras: tuple[LoraIdentity, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Of the build: optimisation level, opset and so on, JSON-safe."""
    schema: int = SCHEMA
    name: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        if _TARGET.fullmatch(self.target) is None:
            raise ValueError(f"{self.target!r} is not a target: `portable`, or such as sm86+sm89")

    @property
    def base(self) -> str:
        """The hash of all but the target and the ranges of rows, 64 hexadecimal digits."""
        inputs = [[entry.name, entry.dtype, entry.best[1:]] for entry in self.inputs]
        return _hash({**self._members(), "inputs": inputs})

    @property
    def digest(self) -> str:
        """The hash of all, 64 hexadecimal digits."""
        return _hash({**self._members(), "target": self.target})

    @property
    def place(self) -> str:
        """The engine's directory among those of its base."""
        return f"{self.target}-{self.digest[:16]}"

    def takes_rows(self, rows: int) -> bool:
        """Whether the engine takes inputs whose first axis is `rows`."""
        return all(entry.least[0] <= rows <= entry.most[0] for entry in self.inputs)

    @property
    def most_rows(self) -> int:
        """The largest first axis that the engine takes."""
        return min(entry.most[0] for entry in self.inputs)

    @property
    def readable(self) -> str:
        """For people: what it is, for which shapes, by which back end, for which GPU."""
        parts = [self.name, self.component, self._shapes(), self.dtype]
        if self.loras:
            parts.append(f"{len(self.loras)}lora")
        parts += [f"{self.backend}-{self.backend_version}", self.target, self.digest[:12]]
        return "--".join(_UNSAFE.sub("-", part.lower()).strip("-") for part in parts if part)

    def as_json(self) -> dict[str, Any]:
        """All members, JSON-safe, to be read back by `from_json`."""
        return {**self._members(), "target": self.target, "name": self.name}

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> "EngineKey":
        """Raises `ValueError` for what `as_json` did not write."""
        try:
            members = dict(content)
            members["inputs"] = tuple(
                TensorRange(
                    entry["name"], entry["dtype"], tuple(entry["least"]), tuple(entry["best"]), tuple(entry["most"])
                )
                for entry in members["inputs"]
            )
            members["loras"] = tuple(LoraIdentity(**entry) for entry in members["loras"])
            return cls(**members)
        except (KeyError, TypeError) as error:
            raise ValueError(f"not the key of an engine: {error}") from error

    def _members(self) -> dict[str, Any]:
        return {
            "weights": self.weights,
            "loras": [asdict(lora) for lora in sorted(self.loras)],
            "config": _plain(self.config),
            "component": self.component,
            "inputs": [_plain(asdict(entry)) for entry in self.inputs],
            "dtype": self.dtype,
            "backend": self.backend,
            "backend_version": self.backend_version,
            "cuda": self.cuda,
            "options": _plain(self.options),
            "schema": self.schema,
        }

    def _shapes(self) -> str:
        """The ranges of the first input, the others follow from it: `1..8x4x64x64`."""
        if not self.inputs:
            return ""
        first = self.inputs[0]
        return "x".join(
            str(low) if low == high else f"{low}..{high}" for low, high in zip(first.least, first.most, strict=True)
        )


def target_of(capabilities: Iterable[int]) -> str:
    """The target of an engine for these compute capabilities (89 is SM 8.9): sorted, each once."""
    numbers = sorted(set(capabilities))
    if not numbers:
        raise ValueError("an engine is for one compute capability at least")
    return "+".join(f"sm{number}" for number in numbers)


def capabilities_of(target: str) -> frozenset[int]:
    """The compute capabilities that a target names; none for `portable` and CPUs."""
    return frozenset(int(part[2:]) for part in target.split("+") if re.fullmatch(r"sm\d{2,3}", part))


def is_digest(text: str) -> bool:
    """Whether `text` is a name that `EngineKey.base` could have given."""
    return _DIGEST.fullmatch(text) is not None


def target_of_place(text: str) -> str | None:
    """The target of an engine by its `place`; None for what cannot be the name of its directory."""
    target, _, digest = text.rpartition("-")
    return target if re.fullmatch(r"[0-9a-f]{16}", digest) and _TARGET.fullmatch(target) else None


def _hash(members: Mapping[str, Any]) -> str:
    return hashlib.sha256(canonical(members).encode("utf-8")).hexdigest()


def canonical(value: Any) -> str:
    """JSON of which each value has exactly one: sorted names, no spaces, shortest numbers.

    Raises `ValueError` for what JSON cannot say, NaN and infinity included.
    """
    return json.dumps(_plain(value), sort_keys=True, separators=(",", ":"), allow_nan=False)


def _plain(value: Any) -> Any:
    """Tuples as lists and mappings as dicts, since JSON tells neither apart. A float stays one: 1.0 is not 1."""
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {str(name): _plain(member) for name, member in items}
    if isinstance(value, list | tuple):
        return [_plain(member) for member in cast("Iterable[Any]", value)]
    if value is None or isinstance(value, str | int | float):
        return value
    raise ValueError(f"{type(value).__name__} cannot be part of a key")


__all__ = [
    "BACKENDS",
    "PORTABLE",
    "SCHEMA",
    "BackendName",
    "EngineKey",
    "LoraIdentity",
    "TensorRange",
    "canonical",
    "capabilities_of",
    "is_digest",
    "target_of",
    "target_of_place",
]
