"""A part of a model that is compiled by itself: its module, what goes in, what comes out, and its name for a key."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from sdstream.engines.keys import BackendName, EngineKey, LoraIdentity, TensorRange

DTYPES: Mapping[str, torch.dtype] = {
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float32": torch.float32,
    "int64": torch.int64,
    "bool": torch.bool,
}


def keep_all() -> None:
    """For components whose weights stay where they are."""


@dataclass(frozen=True, slots=True)
class Component:
    """`module` is called with one tensor for each of `inputs`, in order, and gives one for each of `outputs`, in order.

    The first axis of all inputs and outputs is the one that may have several sizes, and is of the same size in a call;
    every other axis has one size. A module whose results depend on a value inside a tensor cannot be compiled.
    """

    name: str
    module: nn.Module
    inputs: tuple[TensorRange, ...]
    outputs: tuple[str, ...]
    config: Mapping[str, Any]
    weights: str
    """The digest of its tensors without any LoRA."""
    dtype: str
    loras: tuple[LoraIdentity, ...] = ()
    model: str = ""
    """For people: which model it is of."""
    plainly: Callable[[], AbstractContextManager[None]] = field(default=nullcontext, compare=False)
    """Within it the module works without operations that only this project's own process knows."""
    release: Callable[[], None] = field(default=keep_all, compare=False)
    """Called when the module was read and may not be for a while: lets go of memory that is filled again by need."""

    def key(
        self,
        backend: BackendName,
        version: str,
        target: str,
        cuda: str,
        options: Mapping[str, Any] | None = None,
    ) -> EngineKey:
        """The key of this component's engine."""
        return EngineKey(
            weights=self.weights,
            config=self.config,
            component=self.name,
            inputs=self.inputs,
            dtype=self.dtype,
            backend=backend,
            backend_version=version,
            target=target,
            cuda=cuda,
            loras=self.loras,
            options=dict(options or {}),
            name=self.model,
        )

    def example(self, rows: int | None = None, seed: int = 0) -> tuple[torch.Tensor, ...]:
        """Inputs to export and to compare with, on the CPU; `rows` is the size of the first axis, unset the best."""
        generator = torch.Generator().manual_seed(seed)
        made: list[torch.Tensor] = []
        for entry in self.inputs:
            shape = entry.best if rows is None else (rows, *entry.best[1:])
            dtype = DTYPES[entry.dtype]
            if dtype.is_floating_point:
                # float32 first: the same numbers, whatever type they end in
                made.append(torch.randn(shape, generator=generator).mul_(0.5).to(dtype))
            else:
                most = 2 if dtype == torch.bool else 999
                made.append(torch.randint(0, most, shape, generator=generator).to(dtype))
        return tuple(made)

    @property
    def rows(self) -> tuple[int, int, int]:
        """The least, best and most of the first axis."""
        first = self.inputs[0]
        return first.least[0], first.best[0], first.most[0]


@dataclass(frozen=True, slots=True)
class RowRange:
    """How many rows an engine takes, and for how many it is tuned."""

    least: int
    best: int
    most: int

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.best <= self.most:
            raise ValueError(f"rows go from 1 upwards: {self.least}, {self.best}, {self.most}")


@dataclass(frozen=True, slots=True)
class InputList:
    """Collects the inputs of a component whose first axis is `rows`."""

    rows: RowRange
    entries: list[TensorRange] = field(default_factory=list[TensorRange])

    def add(self, name: str, dtype: str, *shape: int) -> None:
        """An input [rows, *shape]."""
        rows = self.rows
        self.entries.append(TensorRange(name, dtype, (rows.least, *shape), (rows.best, *shape), (rows.most, *shape)))


def dtype_name(dtype: torch.dtype) -> str:
    """`float16` for `torch.float16`."""
    return str(dtype).removeprefix("torch.")


__all__ = ["DTYPES", "Component", "InputList", "RowRange", "dtype_name"]
