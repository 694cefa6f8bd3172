"""8-bit copies (float8 e4m3) of weights, with one scale for each output channel, made so once for each change.

The half-precision weights stay what they are: LoRAs are added to them, exports read them, and the 8-bit copies follow
(`follow`) in the same storages, so that captured graphs stay valid.
"""

from collections.abc import Container, Iterable
from typing import Any

import torch
from torch import nn

from sdstream.diffusion.fused.group_norm import LARGEST
from sdstream.diffusion.fused.joining import OneProduct


class EightBitCopy:
    """Of a weight. No buffer: it is neither saved nor exported; networks that share the weight share it."""

    def __init__(self, source: torch.Tensor) -> None:
        """`source` [out, in], contiguous, stays where it is and is read again by `write`."""
        out, width = source.shape
        self.source = source
        self.values = torch.empty((out, width), dtype=torch.float8_e4m3fn, device=source.device)
        self.scales = torch.empty((1, out), dtype=torch.float32, device=source.device)
        self.zeros = torch.zeros(out, dtype=source.dtype, device=source.device)
        """Where a layer has no bias. Torch 2.11's product by rows takes its answer for bfloat16 where it is given none
        on GPUs other than Hopper, whatever was asked for."""
        self.write()

    def __deepcopy__(self, memo: Any) -> "EightBitCopy":
        return self

    def of(self, source: torch.Tensor) -> "EightBitCopy":
        """The same of another weight."""
        return EightBitCopy(source)

    @torch.no_grad()
    def write(self) -> None:
        """Make the copy anew of what the weight is now, in the same storages."""
        values, scales = plain_quantised(self.source.detach())
        self.values.copy_(values)
        self.scales.copy_(scales.T)

    def error(self) -> torch.Tensor:
        """How far the copy is from the weight, relative, in the middle one of its input channels: float32, without
        dimensions. Over all of them together a few large numbers would hide what the others lose."""
        exact = self.source.detach().float()
        lost = (self.values.float() * self.scales.T - exact).square().sum(0)
        return (lost / exact.square().sum(0).clamp(min=torch.finfo(torch.float32).tiny)).median().sqrt()

    @property
    def bytes(self) -> int:
        """Memory of it, beside the weight."""
        return sum(part.numel() * part.element_size() for part in (self.values, self.scales, self.zeros))


def plain_quantised(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows in eight bits, by torch's own operations: e4m3 of the shape of `x`, and float32 [..., 1]. A row of zeros has
    the scale of 1."""
    exact = x.float()
    top = exact.abs().amax(-1, keepdim=True)
    top = torch.where(top == 0, LARGEST, top)
    values = (exact * (LARGEST / top)).clamp(-LARGEST, LARGEST)
    return values.to(torch.float8_e4m3fn), top / LARGEST


def copy_of(module: Any) -> EightBitCopy | None:
    """The 8-bit copy of a layer's weight, or of the joined ones of a self attention; None where there is none."""
    found: EightBitCopy | None = getattr(module, "eight_bit", None)
    return found


def source_of(module: Any) -> torch.Tensor:
    """The weight [out, in] of a linear layer, of a convolution, or the joined one of an attention. Of a convolution's
    filters all channels of a place are side by side, as they lie where pictures are channels last."""
    if isinstance(module, OneProduct):
        assert module.joined is not None
        return module.joined.weight
    weight: torch.Tensor = module.weight.detach()
    return weight if weight.dim() == 2 else weight.permute(0, 2, 3, 1).flatten(1)


def follow(network: nn.Module, written: Container[int] | None = None) -> None:
    """Have the 8-bit copies in `network` be those of its weights: new ones where a layer has another weight now, and
    made anew in their storages where the weight's memory is among `written` (`memory_of`)."""
    for module in network.modules():
        copy = copy_of(module)
        if copy is None:
            continue
        source = source_of(module)
        if source.data_ptr() != copy.source.data_ptr():
            owner: Any = module
            owner.eight_bit = copy.of(source)
        elif written is not None and source.untyped_storage().data_ptr() in written:
            copy.write()


def memory_of(tensors: Iterable[torch.Tensor]) -> frozenset[int]:
    """Where these lie, for `follow`."""
    return frozenset(tensor.untyped_storage().data_ptr() for tensor in tensors)


def eight_bit_layers(network: nn.Module) -> int:
    """How many layers of `network` multiply in eight bits."""
    return sum(copy_of(module) is not None for module in network.modules())


def eight_bit_bytes(network: nn.Module) -> int:
    """Memory of their 8-bit copies, beside the weights themselves."""
    found = [copy_of(module) for module in network.modules()]
    return sum(copy.bytes for copy in found if copy is not None)


def note_of(network: nn.Module) -> str:
    """Why `network` does not multiply in eight bits though that was asked for; empty where it does, or was not."""
    note: str = getattr(network, "eight_bit_note", "")
    return note


__all__ = [
    "EightBitCopy",
    "copy_of",
    "eight_bit_bytes",
    "eight_bit_layers",
    "follow",
    "memory_of",
    "note_of",
    "plain_quantised",
    "source_of",
]
