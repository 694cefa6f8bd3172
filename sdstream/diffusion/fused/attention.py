"""diffusers' attention with fewer and larger steps; see `sdstream.diffusion.fused.blocks`."""

# What diffusers' classes give has no types, and torch 2.11's compiler knows super() only where it is called at once.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from sdstream.diffusion.convolving.layers import FusedConvolution
from sdstream.diffusion.eight_bit.products import (
    EightBitRows,
    gated_for,
    normed_for,
    product,
    summed_norm_for,
    weight_of,
)
from sdstream.diffusion.fused.attending import attend
from sdstream.diffusion.fused.group_norm import group_norm_kept
from sdstream.diffusion.fused.joining import OneProduct
from sdstream.diffusion.fused.pointwise import add_product, are_joined, gated
from sdstream.diffusion.fused.switch import are_blocks_fused
from sdstream.diffusion.libraries import activations, attentions, transformer_blocks
from sdstream.diffusion.prepared import Context, TakesContext

_Attention: Any = attentions.Attention
_Block: Any = transformer_blocks.BasicTransformerBlock
_Gate: Any = activations.GEGLU
_Transformer: Any = transformer_blocks.Transformer2DModel


class FusedCrossAttention(_Attention, TakesContext):
    """Attention to a text whose keys and values were made before, when it is given such a one."""

    def forward(
        self, hidden_states: torch.Tensor, encoder_hidden_states: Any = None, attention_mask: Any = None, **kwargs: Any
    ) -> torch.Tensor:
        if not isinstance(encoder_hidden_states, Context):
            return super().forward(hidden_states, encoder_hidden_states, attention_mask, **kwargs)
        made: torch.Tensor = self.to_out[0](self.look(hidden_states, encoder_hidden_states))
        return made

    def look(self, hidden_states: torch.Tensor | EightBitRows, context: Context) -> torch.Tensor:
        """What is seen, before the layer that answers."""
        query = self.to_q(hidden_states)
        width: int = self.to_k.out_features
        seen = self._attend(query, *context.of_text(self.place, width))
        if context.strengths is not None:
            strength = context.strengths[:, self.layer].to(seen.dtype).view(-1, 1, 1)
            seen = seen + strength * self._attend(query, *context.of_image(self.place, width))
        return seen

    def _attend(self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
        """[B, queries, width] of `query` in that shape, and `keys` and `values` [R, tokens, width], where R divides B:
        rows that look at the same text are as many more queries to it."""

        def heads(part: torch.Tensor) -> torch.Tensor:
            return part.view(len(keys), -1, self.heads, part.shape[-1] // self.heads).transpose(1, 2)

        seen = attend(heads(query), heads(keys), heads(values))
        return seen.transpose(1, 2).reshape(query.shape)


class FusedSelfAttention(_Attention, OneProduct):
    """Attention to the picture itself with one product for queries, keys and values."""

    def forward(
        self, hidden_states: torch.Tensor, encoder_hidden_states: Any = None, attention_mask: Any = None, **kwargs: Any
    ) -> torch.Tensor:
        others = encoder_hidden_states is not None or attention_mask is not None
        if others or not self.can_look or not are_blocks_fused():
            return super().forward(hidden_states, encoder_hidden_states, attention_mask, **kwargs)
        made: torch.Tensor = self.to_out[0](self.look(hidden_states))
        return made

    @property
    def can_look(self) -> bool:
        """Whether its weights are joined, and nothing else was installed that attends in its place."""
        return self.joined is not None and isinstance(self.processor, attentions.AttnProcessor2_0)

    def look(self, hidden_states: torch.Tensor | EightBitRows) -> torch.Tensor:
        """What is seen, before the layer that answers."""
        assert self.joined is not None
        rows, tokens, width = hidden_states.shape
        projected = _times(hidden_states, self, self.joined.weight)
        parts = projected.view(rows, tokens, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        seen = attend(parts[0], parts[1], parts[2])
        return seen.transpose(1, 2).reshape(hidden_states.shape)


class FusedGate(_Gate):
    """GEGLU whose gate is one step."""

    def forward(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if not are_blocks_fused() or not are_joined(hidden_states):
            return super().forward(hidden_states, *args, **kwargs)
        return gated(self.proj(hidden_states))


class FusedTransformerBlock(_Block):
    """What each attention adds, and the norm of the sum, in one step."""

    def forward(self, hidden_states: torch.Tensor, encoder_hidden_states: Any = None, **kwargs: Any) -> torch.Tensor:
        first, second = self.attn1, self.attn2
        can_look = isinstance(first, FusedSelfAttention) and isinstance(second, FusedCrossAttention) and first.can_look
        prepared = can_look and isinstance(encoder_hidden_states, Context) and are_blocks_fused()
        if not prepared or not are_joined(hidden_states):
            return super().forward(hidden_states, encoder_hidden_states=encoder_hidden_states, **kwargs)
        answer, asked = first.to_out[0], weight_of(second.to_q)
        seen = _times(first.look(normed_for(weight_of(first), self.norm1, hidden_states)), answer, answer.weight)
        hidden_states, normed = summed_norm_for(asked, hidden_states, seen, answer.bias, self.norm2)
        answer, gate, last = second.to_out[0], self.ff.net[0], _adding(self.ff)
        seen = _times(second.look(normed, encoder_hidden_states), answer, answer.weight)
        asked = weight_of(gate.proj) if isinstance(gate, FusedGate) else None
        after = None if last is None else last.bias
        hidden_states, normed = summed_norm_for(asked, hidden_states, seen, answer.bias, self.norm3, after)
        if last is not None:
            return add_product(hidden_states, gate(normed), last.weight)
        made: torch.Tensor = hidden_states + _fed_forward(self.ff, normed)
        return made


class FusedTransformer(_Transformer):
    """Attention over a picture that stays channels last all the way: pixels are tokens there as they lie."""

    def forward(self, hidden_states: torch.Tensor, encoder_hidden_states: Any = None, **kwargs: Any) -> Any:
        others = any(value is not None for name, value in kwargs.items() if name != "return_dict")
        if others or kwargs.get("return_dict", True) or not are_blocks_fused():
            return super().forward(hidden_states, encoder_hidden_states, **kwargs)
        rows, _, height, width = hidden_states.shape
        last, kept = self.proj_out, None
        if are_joined(hidden_states) and _is_simple(last):
            # What the last product is added to, with its bias: written beside the norm, which reads all of it anyhow.
            normed, kept = group_norm_kept(self.norm, hidden_states, last.bias)
        else:
            normed = self.norm(hidden_states)
        tokens = _product(self.proj_in, normed.permute(0, 2, 3, 1).flatten(1, 2))
        for block in self.transformer_blocks:
            tokens = block(tokens, encoder_hidden_states=encoder_hidden_states)
        if kept is not None:
            add_product(kept.permute(0, 2, 3, 1).flatten(1, 2), tokens, last.weight.flatten(1))
            return (kept,)
        made = _product(self.proj_out, tokens).view(rows, height, width, -1).permute(0, 3, 1, 2)
        return (hidden_states + made,)


def _fed_forward(layers: Any, normed: torch.Tensor | EightBitRows) -> torch.Tensor:
    """Of a feed-forward net; in eight bits what its gate answers is such at once."""
    gate, last = layers.net[0], layers.net[-1]
    weight = weight_of(last)
    if not isinstance(gate, FusedGate) or (weight is None and not isinstance(normed, EightBitRows)):
        return layers(normed)
    made: torch.Tensor = last(gated_for(weight, gate.proj(normed)))
    return made


def _adding(layers: Any) -> Any:
    """The last layer of a feed-forward net if that adds into what is given to it; None if it is to answer alone."""
    gate, last = layers.net[0], layers.net[-1]
    others = [layer for layer in layers.net[1:-1] if not isinstance(layer, nn.Dropout) or layer.p]
    return last if isinstance(gate, FusedGate) and not others and _is_simple(last) else None


def _is_simple(layer: Any) -> bool:
    """Whether it is a linear layer, or a convolution of single pixels, and nobody multiplies in another way there."""
    known = type(layer) in (nn.Linear, nn.Conv2d, FusedConvolution)
    return known and layer.bias is not None and getattr(layer, "eight_bit", None) is None


def _product(layer: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Of a linear layer, or of a convolution of single pixels, [B, pixels, channels]."""
    return _times(tokens, layer, layer.weight.flatten(1), layer.bias)


def _times(
    x: torch.Tensor | EightBitRows, owner: Any, weight: torch.Tensor, bias: torch.Tensor | None = None
) -> torch.Tensor:
    """`x` [B, tokens, in] times `weight` [out, in], which is `owner`'s, in eight bits where that is so there."""
    small = weight_of(owner)
    if isinstance(x, EightBitRows) or (small is not None and small.takes(x)):
        assert small is not None, "what is in eight bits was made for this weight"
        return product(x, small, bias)
    return functional.linear(x, weight, bias)


def _is_plain(attention: Any) -> bool:
    """Whether it has nothing that Stable Diffusion's attention does not have."""
    norms = (attention.norm_q, attention.norm_k, attention.group_norm, attention.spatial_norm, attention.norm_cross)
    return (
        all(norm is None for norm in norms)
        and not attention.residual_connection
        and attention.rescale_output_factor == 1.0
        and attention.to_q.bias is None
        and not attention.to_out[1].p
    )


def _is_cross(attention: Any) -> bool:
    return bool(attention.is_cross_attention) and _is_plain(attention)


def _is_self(attention: Any) -> bool:
    if attention.is_cross_attention or not _is_plain(attention):
        return False
    shape = attention.to_q.weight.shape
    return shape[0] == shape[1] and all(layer.weight.shape == shape for layer in (attention.to_k, attention.to_v))


def _is_pair(block: Any) -> bool:
    """Whether it is self attention, cross attention and a feed-forward net with layer norms, and nothing more."""
    norms = [getattr(block, name) for name in ("norm1", "norm2", "norm3")]
    return (
        block.norm_type == "layer_norm"
        and all(isinstance(norm, nn.LayerNorm) and len(list(norm.parameters())) == 2 for norm in norms)
        and block.pos_embed is None
        and not block.only_cross_attention
        and block._chunk_size is None
        and not hasattr(block, "fuser")
        and block.attn2 is not None
        and _is_self(block.attn1)
        and _is_cross(block.attn2)
        and block.attn1.to_out[0].bias is not None
        and block.attn2.to_out[0].bias is not None
    )


def _is_pictures(transformer: Any) -> bool:
    return bool(transformer.is_input_continuous) and isinstance(transformer.norm, nn.GroupNorm)


ATTENTION_KINDS: Mapping[type, tuple[tuple[type, Callable[[Any], bool]], ...]] = {
    _Attention: ((FusedCrossAttention, _is_cross), (FusedSelfAttention, _is_self)),
    _Block: ((FusedTransformerBlock, _is_pair),),
    _Gate: ((FusedGate, lambda gate: True),),
    _Transformer: ((FusedTransformer, _is_pictures),),
}
"""What a block of diffusers' can become, and which ones can."""

__all__ = [
    "ATTENTION_KINDS",
    "FusedCrossAttention",
    "FusedGate",
    "FusedSelfAttention",
    "FusedTransformer",
    "FusedTransformerBlock",
]
