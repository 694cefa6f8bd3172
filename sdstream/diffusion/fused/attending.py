"""Which attention computes each shape on a GPU: one of torch's or this project's, whichever takes the least time.

Torch has an order of its own that no shape changes, and its first may take the longest. Whoever prepares a model has
the shapes of its frames tried (`sdstream.diffusion.fused.attention_trials`); frames look up and never wait for a trial.
All ways answer rightly for any number of rows, so one that was not tried has the choice of the nearest that was. The
plain twin is torch's choice: on a CPU, for a compiler, where blocks are plain, and where nothing was tried.
"""

import threading
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.nn import functional

from sdstream.diffusion.fused.attention_tiling import ATTENTION_TILINGS
from sdstream.diffusion.fused.switch import are_blocks_fused

_kernels: Any = None
try:
    from sdstream.diffusion.fused import attention_kernels as _made
except ImportError:  # Triton comes with torch for CUDA only
    pass
else:
    _kernels = _made

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


def prepare_kernels(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> None:
    """Compile what this project's ways need for these at the same time; what fails fails again when it is called."""
    if _kernels is not None:
        _kernels.compile_ahead(query, keys, values, ATTENTION_TILINGS)


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

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        return 4 * self.rows * self.heads * self.queries * self.keys * self.width


@dataclass(frozen=True, slots=True)
class Choices:
    """What is computed by what: backends by the numbers of rows that were tried, empty for torch's choice, by shape but
    for its rows."""

    by_kind: Mapping[AttentionShape, Mapping[int, str]] = field(default_factory=dict[AttentionShape, Mapping[int, str]])

    def with_one(self, shape: AttentionShape, backend: str) -> "Choices":
        """The same and one more."""
        kind = shape._replace(rows=0)
        return Choices({**self.by_kind, kind: {**self.by_kind.get(kind, {}), shape.rows: backend}})

    def of(self, shape: AttentionShape) -> str:
        """The choice for the nearest number of rows by ratio, the smaller of two; torch's where none was made."""
        tried = self.by_kind.get(shape._replace(rows=0), {})
        nearest = min(tried, key=lambda rows: (max(rows, shape.rows) / min(rows, shape.rows), rows), default=None)
        return "" if nearest is None else tried[nearest]


class _State:
    on = True
    choices: dict[torch.device, Choices] = {}  # noqa: RUF012  (of this process, as the switch)
    known: dict[tuple[torch.device, AttentionShape], str] = {}  # noqa: RUF012
    """What was looked up, until a choice is added."""
    lock = threading.Lock()


_asked: ContextVar[Counter[AttentionShape] | None] = ContextVar("attention_asked", default=None)
"""What a frame that is run to see its shapes asks for."""


def use_tried_attention(wanted: bool) -> None:
    """Have attention computed by what trials choose from now on, or by what torch takes by itself."""
    _State.on = wanted


def is_attention_tried() -> bool:
    """Whether it is, where there is a CUDA GPU."""
    return _State.on and are_blocks_fused()


def attention_choices() -> dict[str, str]:
    """What was tried in this process by the names of shapes; empty for torch's choice."""
    return {
        kind._replace(rows=rows).name: backend
        for choices in list(_State.choices.values())
        for kind, tried in choices.by_kind.items()
        for rows, backend in tried.items()
    }


def forget_choices() -> None:
    """Everything is torch's choice again, in this process."""
    with _State.lock:
        _State.choices, _State.known = {}, {}


@contextmanager
def attention_asked() -> Generator[Counter[AttentionShape]]:
    """The shapes that this thread's calls ask for within it, and how often; torch computes all of them."""
    asked: Counter[AttentionShape] = Counter()
    token = _asked.set(asked)
    try:
        yield asked
    finally:
        _asked.reset(token)


def attend(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Attention of queries [B, heads, queries, width] to keys and values [B, heads, keys, width], of any strides."""
    if torch.compiler.is_compiling() or not is_on_a_gpu(query):
        return plain_attention(query, keys, values)
    backend = _looked_up(query, keys)
    return BACKENDS[backend](query, keys, values) if backend else plain_attention(query, keys, values)


def is_on_a_gpu(query: torch.Tensor) -> bool:
    """Whether it lies there, with memory: tensors of shapes alone are of another class."""
    return query.is_cuda and type(query) is torch.Tensor


def shape_of(query: torch.Tensor, keys: torch.Tensor) -> AttentionShape:
    """What a choice for these is made for."""
    rows, heads, queries, width = query.shape
    return AttentionShape(rows, heads, queries, keys.shape[2], width, query.stride(2), query.dtype)


def _looked_up(query: torch.Tensor, keys: torch.Tensor) -> str:
    wanted = is_attention_tried() and query.dtype in DTYPES and query.shape[-1] >= LEAST_WIDTH
    if not wanted or (torch.is_grad_enabled() and query.requires_grad):
        return ""
    shape, asked = shape_of(query, keys), _asked.get()
    if asked is not None:
        asked[shape] += 1
        return ""
    # The table first: what a choice that is added meanwhile makes old goes into one that nobody reads any more.
    place, table = (query.device, shape), _State.known
    known = table.get(place)
    if known is None:
        known = table[place] = _State.choices.get(query.device, Choices()).of(shape)
    return known


def has_choice(device: torch.device, shape: AttentionShape) -> bool:
    """Whether this very shape was tried."""
    choices = _State.choices.get(device, Choices())
    return shape.rows in choices.by_kind.get(shape._replace(rows=0), {})


def bring_into_force(device: torch.device, shape: AttentionShape, backend: str) -> None:
    """Have frames compute a shape by a backend from now on; from any thread, at any time."""
    with _State.lock:
        _State.choices[device] = _State.choices.get(device, Choices()).with_one(shape, backend)
        _State.known = {}


__all__ = [
    "BACKENDS",
    "Attention",
    "AttentionShape",
    "Choices",
    "attend",
    "attention_asked",
    "attention_choices",
    "bring_into_force",
    "forget_choices",
    "has_choice",
    "is_attention_tried",
    "plain_attention",
    "prepare_kernels",
    "shape_of",
    "use_tried_attention",
]
