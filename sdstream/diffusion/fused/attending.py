"""Which attention computes each shape on a GPU: one of torch's or this project's, whichever takes the least time.

Torch has an order of its own that no shape changes, and its first may take the longest. How one of them is chosen is in
`sdstream.diffusion.trials.ways`. The plain twin is torch's choice: on a CPU, for a compiler, where blocks are plain.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from sdstream.diffusion.fused.attention_tiling import ATTENTION_TILINGS
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
"""What this project's raises besides torch's errors where it cannot be made."""
_kernels: Any = None
try:
    from sdstream.diffusion.fused import attention_kernels as _made
except ImportError:  # Triton comes with torch for CUDA only
    pass
else:
    _kernels = _made
    kernel_failures = (_kernels.TritonError,)

LEAST_WIDTH = 32
"""Of a head: those of the published models have 40 and more."""
DTYPES = (torch.float16, torch.bfloat16)

Attention = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Of queries [B, heads, queries, width], and keys and values [B, heads, keys, width], of any strides."""


def plain_attention(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """By what torch takes by itself."""
    return functional.scaled_dot_product_attention(query, keys, values)


# Asked for by name and not by torch's switches, which are those of the whole process, other threads and all.
def _cudnn(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    operations: Any = torch.ops.aten
    made: torch.Tensor = operations._scaled_dot_product_cudnn_attention(query, keys, values, None, False)[0]
    return made


def _flash(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    operations: Any = torch.ops.aten
    made: torch.Tensor = operations._scaled_dot_product_flash_attention(query, keys, values)[0]
    return made


def _efficient(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    operations: Any = torch.ops.aten
    made: torch.Tensor = operations._scaled_dot_product_efficient_attention(query, keys, values, None, False)[0]
    return made


def _own(tiling: str) -> Attention:
    def attend_in_tiles(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        made: torch.Tensor = _kernels.attention(query, keys, values, tiling)
        return made

    return attend_in_tiles


BACKENDS: Mapping[str, Attention] = {"cudnn": _cudnn, "flash": _flash, "efficient": _efficient} | (
    {} if _kernels is None else {f"own {each.name}": _own(each.name) for each in ATTENTION_TILINGS}
)
"""What there is on a GPU. None of them keeps what a gradient would need."""


class AttentionShape(NamedTuple):
    """What a choice is made for. `stride` is from one query to the next, in numbers: three times the width of all heads
    where queries, keys and values are one product."""

    rows: int
    heads: int
    queries: int
    keys: int
    width: int
    stride: int
    dtype: torch.dtype

    @property
    def name(self) -> str:
        """What it is remembered by: every field is in it."""
        number = str(self.dtype).removeprefix("torch.")
        tokens = f"{self.queries} to {self.keys} tokens"
        return f"{self.rows} x {self.heads} heads of {self.width}, {tokens} {self.stride} apart, {number}"


def try_backends(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    stopwatch: Stopwatch,
    backends: Mapping[str, Attention] = BACKENDS,
) -> list[Sample]:
    """See `try_ways`."""
    told = (query, keys, values)
    ways = {name: partial(way, *told) for name, way in backends.items()}
    return try_ways(lambda: plain_attention(*told), ways, stopwatch, kernel_failures)


class _State:
    on = True
    choices: dict[tuple[torch.device, AttentionShape], str] = {}  # noqa: RUF012  (of this process, as the switch)


def use_tried_attention(wanted: bool) -> None:
    """Have attention computed by what trials choose from now on, or by what torch takes by itself."""
    _State.on = wanted


def attention_choices() -> dict[str, str]:
    """What was chosen in this process by the names of shapes; empty for torch's choice."""
    return {shape.name: backend for (_, shape), backend in _State.choices.items()}


def attend(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Attention of queries [B, heads, queries, width] to keys and values [B, heads, keys, width], of any strides."""
    if torch.compiler.is_compiling() or not is_on_a_gpu(query):
        return plain_attention(query, keys, values)
    backend = _chosen(query, keys, values)
    return BACKENDS[backend](query, keys, values) if backend else plain_attention(query, keys, values)


def is_on_a_gpu(query: torch.Tensor) -> bool:
    """Whether it lies there, with memory: tensors of shapes alone are of another class."""
    return query.is_cuda and type(query) is torch.Tensor


def shape_of(query: torch.Tensor, keys: torch.Tensor) -> AttentionShape:
    """What a choice for these is made for."""
    rows, heads, queries, width = query.shape
    return AttentionShape(rows, heads, queries, keys.shape[2], width, query.stride(2), query.dtype)


def _chosen(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> str:
    wanted = _State.on and are_blocks_fused() and query.dtype in DTYPES and query.shape[-1] >= LEAST_WIDTH
    if not wanted or (torch.is_grad_enabled() and query.requires_grad):
        return ""
    shape = shape_of(query, keys)
    return chosen(_State.choices, (query.device, shape), lambda: _settle(shape, query, keys, values))


def _settle(shape: AttentionShape, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> str:
    told = (query, keys, values)
    return settled(
        store_of(query.device),
        Subject("attention", shape.name),
        BACKENDS.keys(),
        lambda: choose(try_backends(*told, RecordedCalls(query.device))),
        lambda name: answers_rightly(lambda: BACKENDS[name](*told), plain_attention(*told), kernel_failures),
    )


__all__ = [
    "BACKENDS",
    "Attention",
    "AttentionShape",
    "attend",
    "attention_choices",
    "plain_attention",
    "shape_of",
    "try_backends",
    "use_tried_attention",
]
