"""diffusers' blocks of a UNet's way up, whose residual blocks are given what was skipped beside what comes up; see
`sdstream.diffusion.fused.blocks`."""

# What diffusers' classes give has no types, and torch 2.11's compiler knows super() only where it is called at once.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Callable, Mapping
from typing import Any

import torch

from sdstream.diffusion.fused.group_norm import Two
from sdstream.diffusion.fused.switch import are_blocks_fused
from sdstream.diffusion.libraries import unet_blocks
from sdstream.diffusion.prepared import TakesShifts

_UpBlock: Any = unet_blocks.UpBlock2D
_CrossUpBlock: Any = unet_blocks.CrossAttnUpBlock2D


class FusedUpBlock(_UpBlock):
    """Without attention."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        res_hidden_states_tuple: tuple[torch.Tensor, ...],
        temb: Any = None,
        upsample_size: Any = None,
        *args: Any,
        **kwargs: Any,
    ) -> torch.Tensor:
        if args or kwargs or not _takes_two(self):
            return super().forward(hidden_states, res_hidden_states_tuple, temb, upsample_size, *args, **kwargs)
        for block, skipped in zip(self.resnets, reversed(res_hidden_states_tuple), strict=True):
            hidden_states = block(Two(hidden_states, skipped), temb)
        return _doubled(self, hidden_states, upsample_size)


class FusedCrossUpBlock(_CrossUpBlock):
    """With attention."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        res_hidden_states_tuple: tuple[torch.Tensor, ...],
        temb: Any = None,
        encoder_hidden_states: Any = None,
        cross_attention_kwargs: Any = None,
        upsample_size: Any = None,
        attention_mask: Any = None,
        encoder_attention_mask: Any = None,
    ) -> torch.Tensor:
        others = (cross_attention_kwargs, attention_mask, encoder_attention_mask)
        if any(each is not None for each in others) or not _takes_two(self):
            told = (temb, encoder_hidden_states, cross_attention_kwargs, upsample_size)
            return super().forward(hidden_states, res_hidden_states_tuple, *told, *others[1:])
        blocks = zip(self.resnets, self.attentions, reversed(res_hidden_states_tuple), strict=True)
        for block, attention, skipped in blocks:
            hidden_states = block(Two(hidden_states, skipped), temb)
            hidden_states = attention(hidden_states, encoder_hidden_states=encoder_hidden_states, return_dict=False)[0]
        return _doubled(self, hidden_states, upsample_size)


def _takes_two(block: Any) -> bool:
    """Whether its residual blocks take both parts, and nothing is done with these before (FreeU)."""
    if not are_blocks_fused() or any(getattr(block, name, None) for name in ("s1", "s2", "b1", "b2")):
        return False
    return all(isinstance(each, TakesShifts) for each in block.resnets)


def _doubled(block: Any, hidden_states: torch.Tensor, size: Any) -> torch.Tensor:
    for upsampler in block.upsamplers or ():
        hidden_states = upsampler(hidden_states, size)
    return hidden_states


UP_KINDS: Mapping[type, tuple[tuple[type, Callable[[Any], bool]], ...]] = {
    _UpBlock: ((FusedUpBlock, lambda block: True),),
    _CrossUpBlock: ((FusedCrossUpBlock, lambda block: True),),
}
"""What a block of diffusers' can become, and which ones can."""

__all__ = ["UP_KINDS", "FusedCrossUpBlock", "FusedUpBlock"]
