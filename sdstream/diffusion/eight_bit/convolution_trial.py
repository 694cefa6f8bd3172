"""Whether convolutions in eight bits can be on a device: a residual block is tried there once."""

from functools import cache
from typing import Any

import torch
from torch import nn

from sdstream.diffusion.convolving.hopper.tilings import CAPABILITY
from sdstream.diffusion.convolving.twins import has_hopper_kernels
from sdstream.diffusion.eight_bit.copies import source_of
from sdstream.diffusion.eight_bit.filters import EightBitFilter, bound_of, factor_of
from sdstream.diffusion.eight_bit.products import apart
from sdstream.diffusion.eight_bit.trial import MOST_ERROR
from sdstream.diffusion.fused.blocks import fuse
from sdstream.diffusion.libraries import residual_blocks
from sdstream.diffusion.trials.failures import FAILURES
from sdstream.diffusion.trials.session import without_trials
from sdstream.errors import first_line

CHANNELS, COLUMNS, EMBEDDING, SIDE = 320, 640, 64, 16
"""Of the block that is tried: its first convolution ends with half a step, its second one has a sum."""


def lacking_for_convolutions(device: torch.device) -> str:
    """What a device lacks for convolutions in eight bits, in words; empty where it lacks nothing."""
    if device.type != "cuda":
        return f"{device} has no units for float8"
    capability = torch.cuda.get_device_capability(device)
    if capability != CAPABILITY:
        name, has = torch.cuda.get_device_name(device), ".".join(map(str, capability))
        return f"{name} has compute capability {has}, and they are written for {'.'.join(map(str, CAPABILITY))}"
    return "" if has_hopper_kernels() else "NVIDIA's bindings (cuda-bindings) are not installed"


@cache
def convolution_problem(device: torch.device) -> str:
    """Why convolutions cannot be in eight bits on `device`; empty where they can. Looked at when the first model is
    loaded, before there are frames beside it."""
    lacks = lacking_for_convolutions(device)
    if lacks:
        return lacks
    try:
        with without_trials():
            error = block_error(device, torch.float16)
    except (torch.AcceleratorError, torch.OutOfMemoryError):
        raise  # the device is lost, or full: no fault of theirs
    except FAILURES as problem:
        return f"{type(problem).__name__}: {first_line(problem)}"
    return "" if error <= MOST_ERROR else f"a block's answer is {error:.2g} from that in half precision"


@torch.no_grad()
def block_error(device: torch.device, dtype: torch.dtype) -> float:
    """Root of the mean square by which a residual block in eight bits is off, relative to what its convolutions add."""
    generator = torch.Generator().manual_seed(0)
    block: Any = residual_blocks.ResnetBlock2D(in_channels=CHANNELS, out_channels=COLUMNS, temb_channels=EMBEDDING)
    for weight in block.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator) * weight[0].numel() ** -0.5)
    for norm in (block.norm1, block.norm2):
        nn.init.ones_(norm.weight)
    fuse(block)
    block.requires_grad_(False).eval().to(device, dtype, memory_format=torch.channels_last)
    image, time = (
        torch.randn(size, generator=generator).to(device, dtype) for size in ((2, CHANNELS, SIDE, SIDE), (2, EMBEDDING))
    )
    image = image.contiguous(memory_format=torch.channels_last)
    wanted = block(image, time)
    beside = block.conv_shortcut(image)
    for layer, norm in ((block.conv1, block.norm1), (block.conv2, block.norm2)):
        layer.eight_bit = EightBitFilter(source_of(layer), factor_of(float(bound_of(norm))))
    return float(apart(block(image, time) - beside, wanted - beside))


__all__ = ["block_error", "convolution_problem", "lacking_for_convolutions"]
