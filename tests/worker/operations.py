"""Counts what a processor without a network does: one operation for each number that an operation of torch makes."""

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

FREE = frozenset({
    "empty", "empty_like", "new_empty", "zeros", "zeros_like", "full", "full_like", "new_zeros", "arange",
    "scalar_tensor", "_local_scalar_dense", "lift_fresh",
})  # fmt: skip
"""Operations that only make room, or read it."""


class OperationCounter(TorchDispatchMode):
    """`operations` is the count inside of the `with` block: of products their own multiplications and additions."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._overloadpacket.__name__
        if name in FREE or func.is_view:
            return result
        outputs = result if isinstance(result, tuple | list) else (result,)
        self.operations += sum(each.numel() for each in outputs if isinstance(each, torch.Tensor))
        return result


def count_operations(run: Any) -> float:
    """In billions: of each number that is made one, and of products and convolutions what torch counts besides."""
    with torch.no_grad(), FlopCounterMode(display=False) as products, OperationCounter() as counter:
        run()
    return (products.get_total_flops() + counter.operations) / 1e9


__all__ = ["OperationCounter", "count_operations"]
