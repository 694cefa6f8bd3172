"""Where the tensors of a network lie, and how its blocks work there."""

from typing import Any, TypeVar

import torch
from torch import nn

from sdstream.diffusion.eight_bit.layers import place_eight_bit
from sdstream.diffusion.eight_bit.switch import eight_bit_wanted
from sdstream.diffusion.fused.blocks import PREPARED_KINDS, fuse
from sdstream.diffusion.fused.joining import join
from sdstream.diffusion.fused.steps_trial import try_steps
from sdstream.diffusion.fused.trial import kinds_that_work
from sdstream.diffusion.owning import own_tensors

Network = TypeVar("Network", bound=nn.Module)


def place(network: Network, device: torch.device) -> Network:
    """`network` for inference only, on `device`, the way it is the fastest there.

    On a GPU convolutions are channels last: tensor cores take nothing else, and weights that lie otherwise are turned
    over for each picture anew. Blocks are fused there, where that works; elsewhere those of a UNet that save work. A
    UNet and a ControlNet multiply in eight bits what is faster so, where that is wanted. The weights, their names and
    their shapes stay what they are.
    """
    network.requires_grad_(False).eval()
    denoises = hasattr(network, "time_embedding")
    if device.type != "cuda":
        if denoises:
            fuse(network, PREPARED_KINDS)
        network.to(device)
        own_tensors(network)
    else:
        _place_on_a_gpu(network, device)
    wanted = eight_bit_wanted()
    if denoises and wanted != "off":
        place_eight_bit(network, device, convolutions=wanted == "all")
    return network


def _place_on_a_gpu(network: nn.Module, device: torch.device) -> None:
    fuse(network, kinds_that_work(device))
    try_steps(device)
    placed: Any = network
    placed.to(device, memory_format=torch.channels_last)
    join(network)


__all__ = ["place"]
