"""Where the tensors of a network lie, and how its blocks work there."""

from typing import Any, TypeVar

import torch
from torch import nn

from sdstream.diffusion.fused import PREPARED_KINDS, fuse
from sdstream.diffusion.fused_trial import kinds_that_work
from sdstream.diffusion.joining import join
from sdstream.diffusion.steps_trial import try_steps

Network = TypeVar("Network", bound=nn.Module)


def place(network: Network, device: torch.device) -> Network:
    """`network` for inference only, on `device`, the way it is the fastest there.

    On a GPU convolutions are channels last: tensor cores take nothing else, and weights that lie otherwise are turned
    over for each picture anew. Blocks are fused there, where that works; elsewhere those of a UNet that save work. The
    weights, their names and their shapes stay what they are.
    """
    network.requires_grad_(False).eval()
    if device.type != "cuda":
        if hasattr(network, "time_embedding"):
            fuse(network, PREPARED_KINDS)
        return network.to(device)
    fuse(network, kinds_that_work(device))
    try_steps(device)
    placed: Any = network
    placed = placed.to(device, memory_format=torch.channels_last)
    join(placed)
    return placed


__all__ = ["place"]
