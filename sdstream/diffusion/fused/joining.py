"""Weights of queries, keys and values in one storage, so that one product answers for all three. Without diffusers."""

from typing import Any

import torch
from torch import nn


class Joined:
    """The weights of queries, keys and values as one, [3 * width, width]: each of the three is a view of it.

    No buffer, so that it is neither saved nor exported beside them. A copy of a network that shares them shares it;
    one that does not is to be joined anew.
    """

    def __init__(self, weight: torch.Tensor) -> None:
        self.weight = weight

    def __deepcopy__(self, memo: Any) -> "Joined":
        return self


class OneProduct:
    """A self attention, of `to_q`, `to_k` and `to_v`, that reads `joined` once there is one.

    `join` keeps the weights of all three in one storage: what is written into one of them in place shows in the
    product.
    """

    __slots__ = ()  # a block becomes one by its class alone

    joined: Joined | None = None
    eight_bit: Any = None
    """The 8-bit copy of the joined weights (`sdstream.diffusion.eight_bit.products`); None where there is none."""


def join(network: nn.Module) -> None:
    """Keep the weights of each `OneProduct` of `network` in one storage, where they are not there yet.

    To be done when its tensors have been moved, copied or exchanged. Layers get parameters of their own then, with the
    values that they had; other networks that shared the old ones keep those.
    """
    for module in network.modules():
        if not isinstance(module, OneProduct):
            continue
        attention: Any = module
        layers: list[Any] = [attention.to_q, attention.to_k, attention.to_v]
        if _is_joined(module.joined, [layer.weight for layer in layers]):
            continue
        joined = torch.cat([layer.weight.detach() for layer in layers])
        module.joined = Joined(joined)
        for layer, weight in zip(layers, joined.chunk(3), strict=True):
            layer.weight = nn.Parameter(weight, requires_grad=False)


def _is_joined(joined: Joined | None, weights: list[torch.Tensor]) -> bool:
    if joined is None or joined.weight.device != weights[0].device or joined.weight.dtype != weights[0].dtype:
        return False
    places = [part.data_ptr() for part in joined.weight.chunk(3)]
    return places == [weight.data_ptr() for weight in weights]


__all__ = ["Joined", "OneProduct", "join"]
