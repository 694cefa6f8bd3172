"""A linear layer and the gate behind it on a GPU: in two steps, or in one of this project's where that takes less time.

How a way is chosen is in `sdstream.diffusion.trials.ways`. The plain twin is torch's product and the gate.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from sdstream.diffusion.convolving.tilings import Tiling
from sdstream.diffusion.fused.pointwise import are_joined, gated
from sdstream.diffusion.fused.switch import are_blocks_fused
from sdstream.diffusion.trials.memory import store_of
from sdstream.diffusion.trials.store import Subject
from sdstream.diffusion.trials.ways import (
    RecordedCalls,
    Sample,
    Stopwatch,
    answers_rightly,
    choose,
    chosen,
    settled,
    try_ways,
)

kernel_failures: tuple[type[Exception], ...] = ()
"""What the kernel raises besides torch's errors where it cannot be made."""
_kernels: Any = None
try:
    from sdstream.diffusion.fused import gated_product_kernels as _made
except ImportError:  # Triton comes with torch for CUDA only
    pass
else:
    _kernels = _made
    kernel_failures = (_kernels.TritonError,)

GATED_TILINGS = tuple(
    tiling.name
    for tiling in (
        Tiling(128, 128, 64, 8, 3),
        Tiling(128, 64, 64, 4, 3),
        Tiling(128, 64, 64, 8, 4),
        Tiling(64, 64, 64, 4, 4),
    )
)
"""The ways that there are: columns are those of the answer."""
DEPTH = 64
"""Of all of them; what goes in is as wide or some times that."""
DTYPES = (torch.float16, torch.bfloat16)


class ProductShape(NamedTuple):
    """What a choice is made for: `rows` of `depth` that become `columns` behind the gate."""

    rows: int
    depth: int
    columns: int
    dtype: torch.dtype

    @property
    def name(self) -> str:
        """What it is remembered by: every field is in it."""
        return f"{self.rows} x {self.depth} to {self.columns}, {str(self.dtype).removeprefix('torch.')}"


class _State:
    on = True
    choices: dict[tuple[torch.device, ProductShape], str] = {}  # noqa: RUF012  (of this process, as the switch)


def use_tried_gates(wanted: bool) -> None:
    """Have products with a gate computed by what trials choose from now on, or in two steps."""
    _State.on = wanted


def gate_choices() -> dict[str, str]:
    """What was chosen in this process by the names of shapes; empty for two steps."""
    return {shape.name: way for (_, shape), way in _State.choices.items()}


def gated_product(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """`layer` of `x` [..., in]: the first half of its answer times GELU of the second, exact."""
    way = _chosen(layer, x)
    return in_one(layer, x, way) if way else plain_gated_product(layer, x)


def plain_gated_product(layer: nn.Linear, x: torch.Tensor) -> torch.Tensor:
    """The plain twin."""
    return gated(layer(x))


def in_one(layer: nn.Linear, x: torch.Tensor, tiling: str) -> torch.Tensor:
    """By this project's kernel, cut up as the tiling of that name says. Needs Triton."""
    made: torch.Tensor = _kernels.gated_product(x, layer.weight, layer.bias, tiling)
    return made


def try_tilings(layer: nn.Linear, x: torch.Tensor, stopwatch: Stopwatch) -> list[Sample]:
    """See `try_ways`."""
    ways = {name: partial(in_one, layer, x, name) for name in GATED_TILINGS}
    return try_ways(partial(plain_gated_product, layer, x), ways, stopwatch, kernel_failures)


def shape_of(layer: nn.Linear, x: torch.Tensor) -> ProductShape:
    """What a choice for these is made for."""
    depth = x.shape[-1]
    return ProductShape(x.numel() // depth, depth, layer.weight.shape[0] // 2, x.dtype)


def is_asked(layer: nn.Linear, x: torch.Tensor) -> bool:
    """Whether there is anything to choose from: not on a CPU, not for a compiler, and not for layers that multiply in
    another way. Tensors of shapes alone are of another class."""
    return (
        _State.on
        and _kernels is not None
        and type(x) is torch.Tensor
        and are_joined(x)
        and are_blocks_fused()
        and type(layer) is nn.Linear
        and x.dtype in DTYPES
        and x.shape[-1] % DEPTH == 0
    )


def _chosen(layer: nn.Linear, x: torch.Tensor) -> str:
    if not is_asked(layer, x):
        return ""
    shape = shape_of(layer, x)
    return chosen(_State.choices, (x.device, shape), lambda: _settle(shape, layer, x))


def _settle(shape: ProductShape, layer: nn.Linear, x: torch.Tensor) -> str:
    def works(way: str) -> bool:
        return answers_rightly(partial(in_one, layer, x, way), plain_gated_product(layer, x), kernel_failures)

    def tried() -> str:
        return choose(try_tilings(layer, x, RecordedCalls(x.device)))

    return settled(store_of(x.device), Subject("gated", shape.name), GATED_TILINGS, tried, works)


__all__ = [
    "GATED_TILINGS",
    "ProductShape",
    "gate_choices",
    "gated_product",
    "in_one",
    "is_asked",
    "plain_gated_product",
    "shape_of",
    "try_tilings",
    "use_tried_gates",
]
