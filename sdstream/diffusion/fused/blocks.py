"""diffusers' blocks with fewer and larger steps, for GPUs: the same weights under the same names, the same answers.

A block becomes one of these by its class alone, so it can be shared, moved and saved as before. What is exported for
other compilers is the plain block (`fused_switch`), since they know none of these operations and fuse by themselves.
"""

# What diffusers' classes give has no types, and torch 2.11's compiler knows super() only where it is called at once.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Callable, Container, Mapping
from typing import Any

import torch
from torch import nn

from sdstream.diffusion.convolving.layers import CONVOLUTION_KINDS
from sdstream.diffusion.convolving.operation import are_convolved, can_convolve, convolve, reads_two
from sdstream.diffusion.convolving.shapes import RELU
from sdstream.diffusion.eight_bit.filters import convolve_normed, factor_for
from sdstream.diffusion.fused.attention import (
    ATTENTION_KINDS,
    FusedCrossAttention,
)
from sdstream.diffusion.fused.group_norm import Two, group_norm, group_norm_kept, group_norm_of_two
from sdstream.diffusion.fused.pointwise import are_joined
from sdstream.diffusion.fused.switch import are_blocks_fused
from sdstream.diffusion.fused.up import UP_KINDS
from sdstream.diffusion.libraries import residual_blocks, unet_blocks
from sdstream.diffusion.prepared import Shifts, TakesShifts

_ResidualBlock: Any = residual_blocks.ResnetBlock2D
_SmallBlock: Any = unet_blocks.AutoencoderTinyBlock


class FusedGroupNorm(nn.GroupNorm):
    """A group norm of pictures."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not are_blocks_fused() or input.dim() != 4:
            return super().forward(input)
        return group_norm(self, input)


class FusedResidualBlock(_ResidualBlock, TakesShifts):
    """Norm and SiLU in one step, the second with the convolution's bias and the time's embedding in it, too."""

    def forward(
        self, input_tensor: torch.Tensor | Two, temb: torch.Tensor | Shifts | None, *args: Any, **kwargs: Any
    ) -> torch.Tensor:
        """`Two` are what the way up brings and what was skipped, which nobody put together yet."""
        if isinstance(input_tensor, Two) and not (are_blocks_fused() and are_joined(input_tensor.one)):
            input_tensor = input_tensor.together()
        if not are_blocks_fused():
            return super().forward(input_tensor, temb, *args, **kwargs)
        first, last, beside = self.conv1, self.conv2, self.conv_shortcut
        other = None
        if not isinstance(input_tensor, Two):
            hidden = group_norm(self.norm1, input_tensor, silu=True, factor=factor_for(first))
        elif beside is not None and reads_two(beside, *input_tensor):
            hidden = group_norm_of_two(self.norm1, input_tensor, silu=True, factor=factor_for(first))
            input_tensor, other = input_tensor
        else:
            hidden, input_tensor = group_norm_kept(self.norm1, input_tensor, silu=True, factor=factor_for(first))
        hidden = convolve_normed(first, hidden, bias=False)
        shift = temb.of(self.place, first.out_channels) if isinstance(temb, Shifts) else self.shift_at(temb)
        hidden = group_norm(self.norm2, hidden, shift, silu=True, factor=factor_for(last))
        if beside is not None:
            input_tensor = convolve(beside, input_tensor, other, bias=False)
        more = None if beside is None else beside.bias
        made = convolve_normed(last, hidden, residual=input_tensor, more=more)
        return made if self.output_scale_factor == 1.0 else made / self.output_scale_factor

    def shift_at(self, temb: torch.Tensor | None) -> torch.Tensor:
        """What is added to the first convolution at the time's embedding [B, width]: its bias and the projection of
        that, [B, channels]; [channels] in a block that knows no time."""
        bias: torch.Tensor = self.conv1.bias
        if self.time_emb_proj is None:
            return bias
        projected: torch.Tensor = self.time_emb_proj(temb if self.skip_time_act else self.nonlinearity(temb))
        return bias + projected


class FusedSmallBlock(_SmallBlock):
    """A block of the small VAE: each convolution with its bias, its ReLU and what is added, in one step."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not are_blocks_fused() or not are_convolved(x):
            return super().forward(x)
        hidden = convolve(self.conv[0], x, activation=RELU)
        hidden = convolve(self.conv[2], hidden, activation=RELU)
        return convolve(self.conv[4], hidden, residual=self.skip(x), activation=RELU)


def fuse(network: nn.Module, kinds: Container[type] | None = None) -> None:
    """Make the blocks of a network that can be fused so, in place; only into `kinds` if given. Weights and their names
    stay what they are."""
    for module in network.modules():
        for kind, can_be in _KINDS.get(type(module), ()):
            if (kinds is None or kind in kinds) and can_be(module):
                module.__class__ = kind
                break


def _is_scaled(norm: Any) -> bool:
    return bool(norm.affine)


def _is_plain_residual(block: Any) -> bool:
    """Whether a block is of the only kind that Stable Diffusion has, among those that the class can be."""
    return (
        block.upsample is None
        and block.downsample is None
        and block.time_embedding_norm == "default"
        and isinstance(block.nonlinearity, nn.SiLU)
        and not block.dropout.p
        and all(
            layer is None or (layer.bias is not None and can_convolve(layer))
            for layer in (block.conv1, block.conv2, block.conv_shortcut)
        )
    )


def _is_plain_small(block: Any) -> bool:
    return isinstance(block.conv[1], nn.ReLU) and all(
        block.conv[place].bias is not None and can_convolve(block.conv[place]) for place in (0, 2, 4)
    )


_KINDS: Mapping[type, tuple[tuple[type, Callable[[Any], bool]], ...]] = {
    nn.GroupNorm: ((FusedGroupNorm, _is_scaled),),
    _ResidualBlock: ((FusedResidualBlock, _is_plain_residual),),
    _SmallBlock: ((FusedSmallBlock, _is_plain_small),),
    **ATTENTION_KINDS,
    **CONVOLUTION_KINDS,
    **UP_KINDS,
}
PREPARED_KINDS = frozenset({FusedResidualBlock, FusedCrossAttention})
"""Those that take what is prepared once for each change, which is faster everywhere."""

__all__ = [
    "PREPARED_KINDS",
    "FusedCrossAttention",
    "FusedGroupNorm",
    "FusedResidualBlock",
    "FusedSmallBlock",
    "fuse",
]
