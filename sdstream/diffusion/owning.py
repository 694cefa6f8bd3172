"""Networks that need their files no longer. Imports no diffusers, which workers without a model do without."""

from typing import TypeVar

from torch import nn

Network = TypeVar("Network", bound=nn.Module)


def own_tensors(network: Network) -> Network:
    """`network` with all tensors in memory of their own, for those that stay on a CPU.

    Libraries map files of weights instead of reading them. One that is overwritten in its place would change a picture
    that is being made of it, and one that is cut there would end the process.
    """
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.data = tensor.data.clone()
    return network


__all__ = ["own_tensors"]
