"""The least time that a GPU can take for a frame, counted operator by operator on the meta device: no weights, no GPU.

For each matrix product, convolution and attention: the longest of its arithmetic, its exponentials and its bytes, where
activations count as bytes only when they cannot stay in half of the L2 cache; plus a microsecond for each kernel. All
that is elementwise and every norm is taken as fused away, and what depends on the prompt and the timestep alone (keys
and values of cross attention, embeddings of time) as computed before. Weights are 16 bits wide.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

BYTES = 2
KERNEL_SECONDS = 1e-6
STATIC = ("attn2.to_k", "attn2.to_v", "time_emb_proj", "time_embedding", "add_embedding", "time_proj")
SHARED_INPUT = (".attn1.to_k", ".attn1.to_v")
"""They read what the query reads, in one kernel with it."""


@dataclass(frozen=True, slots=True)
class Card:
    """What a GPU can do: 16-bit operations a second (summed in 32 bits), bytes a second of its memory, bytes of its L2
    cache, exponentials a second."""

    operations: float
    bandwidth: float
    cache: float
    exponentials: float


CARDS = {
    # Measured with large products of random numbers on such a card; the rest is from data sheets.
    "H200": Card(790e12, 4.3e12, 60e6, 132 * 16 * 1.755e9),
    "H100": Card(790e12, 3.35e12, 50e6, 132 * 16 * 1.755e9),
    "A100": Card(312e12, 2.039e12, 40e6, 108 * 16 * 1.41e9),
    "L40S": Card(362e12, 0.864e12, 96e6, 142 * 16 * 2.52e9),
    "4090": Card(165.2e12, 1.008e12, 72e6, 128 * 16 * 2.52e9),
    "5090": Card(209.5e12, 1.792e12, 96e6, 170 * 16 * 2.41e9),
    "B200": Card(2250e12, 8.0e12, 126e6, 148 * 16 * 1.85e9),
}


def card_of(name: str) -> Card | None:
    """The card that a device calls itself, None for one that is not known."""
    return next((card for part, card in CARDS.items() if part in name), None)


@dataclass(frozen=True, slots=True)
class Operator:
    """One product, convolution or attention of one row: its operations, bytes of weights and of activations, and
    exponentials. `rides` in another one's kernel."""

    operations: int
    weights: int
    activations: int
    exponentials: int
    rides: bool


class _Counter(TorchDispatchMode):
    """Notes every operator that does arithmetic, with the weight it reads."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.operators: list[Operator] = []
        tensors = [*network.named_parameters(), *network.named_buffers()]
        self._names = {tensor.untyped_storage()._cdata: name for name, tensor in tensors}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        packet = func._overloadpacket
        if packet not in flop_registry:
            return made
        weights, activations, name = 0, made.numel() * BYTES, ""
        for tensor in _tensors(args):
            held = self._names.get(tensor.untyped_storage()._cdata)
            if held is None:
                activations += tensor.numel() * BYTES
                continue
            weights += tensor.numel() * BYTES
            if tensor.dim() >= 2:
                name = held
        if any(part in name for part in STATIC):
            return made
        rides = any(part in name for part in SHARED_INPUT)
        count = flop_registry[packet](*args, **(kwargs or {}), out_val=made)
        self.operators.append(
            Operator(int(count), weights, made.numel() * BYTES if rides else activations, 0, rides=rides)
        )
        return made


def count(network: nn.Module, call: Callable[[], Any]) -> list[Operator]:
    """The operators of one call of a network that lies on the meta device, of one row."""
    counter = _Counter(network)
    with _counted_attention(counter), torch.no_grad(), counter:
        call()
    return counter.operators


@contextmanager
def _counted_attention(counter: _Counter) -> Iterator[None]:
    """Attention as one operator, which it is on a GPU."""
    library: Any = functional
    plain = library.scaled_dot_product_attention

    def attention(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        rows, heads, length, width = query.shape
        pairs = rows * heads * length * key.shape[2]
        moved = (2 * query.numel() + key.numel() + value.numel()) * BYTES
        counter.operators.append(Operator(2 * pairs * (width + value.shape[3]), 0, moved, pairs, rides=False))
        return torch.empty_like(query)

    library.scaled_dot_product_attention = attention
    try:
        yield
    finally:
        library.scaled_dot_product_attention = plain


def least_seconds(operators: list[Operator], card: Card, rows: int) -> float:
    """The floor of one call for `rows` rows."""
    total = 0.0
    for each in operators:
        moved = each.activations * rows
        spilt = moved if moved > card.cache / 2 else 0
        total += max(
            each.operations * rows / card.operations,
            each.exponentials * rows / card.exponentials,
            (each.weights + spilt) / card.bandwidth,
        )
        total += 0.0 if each.rides else KERNEL_SECONDS
    return total


def _tensors(values: Any) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found += _tensors(value)
    return found


__all__ = ["CARDS", "Card", "Operator", "card_of", "count", "least_seconds"]
