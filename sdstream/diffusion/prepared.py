"""What a UNet makes of knobs alone, made once for each change of them and not in every frame.

That is the keys and values of the text in all cross attentions, and what the time adds in all residual blocks. Frames
are given both as tensors; the blocks find their own part by where it begins, which `lay_out` writes into them.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from sdstream.diffusion.attention import cross_layers
from sdstream.diffusion.fused.group_norm import group_norm
from sdstream.diffusion.question import ControlResiduals, Subject


class Context(NamedTuple):
    """What cross attentions are given in place of a text: see `Prepared`. `columns` are those of a token in all layers.

    `strengths` float32 [B, layers] says how much each layer makes of the style image; None without one.
    """

    values: torch.Tensor
    columns: int
    tokens: int
    image_tokens: int
    strengths: torch.Tensor | None

    def of_text(self, place: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the layer at `place`, [R, tokens, width] each."""
        return self._pair(place * self.tokens, self.tokens, width)

    def of_image(self, place: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The same of the style image, [R, image_tokens, width] each."""
        start = self.columns * self.tokens + place * self.image_tokens
        return self._pair(start, self.image_tokens, width)

    def _pair(self, start: int, tokens: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        middle, end = start + tokens * width, start + 2 * tokens * width
        keys, values = self.values[:, start:middle], self.values[:, middle:end]
        return keys.view(-1, tokens, width), values.view(-1, tokens, width)


class Shifts(NamedTuple):
    """What residual blocks are given in place of the time's embedding: see `Prepared`."""

    values: torch.Tensor

    def of(self, place: int, channels: int) -> torch.Tensor:
        """[B, channels] of the block at `place`."""
        return self.values[:, place : place + channels]


class TakesContext:
    """A cross attention that can be given a `Context` in place of a text."""

    __slots__ = ()  # a block becomes one by its class alone

    layer = 0
    """Which of the UNet's cross attentions it is, in the order of the picture's way."""
    place = 0
    """Where its part begins in what is prepared of the text; see `lay_out`."""


class TakesShifts:
    """A residual block that can be given `Shifts` in place of the time's embedding."""

    __slots__ = ()

    place = 0
    """Where its part begins in what is prepared of the time; see `lay_out`."""


class Layout(NamedTuple):
    """The blocks of a UNet that are given their part of what is prepared, in its order."""

    attentions: tuple[Any, ...]
    residuals: tuple[Any, ...]

    @property
    def columns(self) -> int:
        """Numbers that keys and values of one token are, in all layers together."""
        return sum(2 * attention.to_k.out_features for attention in self.attentions)

    @property
    def shift_columns(self) -> int:
        """Numbers that the time adds in one row, in all blocks together."""
        return sum(block.conv1.out_channels for block in self.residuals)


def lay_out(unet: Any) -> Layout | None:
    """Tell the blocks of `unet` where their part begins; None when not all of them take what is prepared, or when it
    has parts that Stable Diffusion's UNets do not have.

    The places follow from the UNet's structure, so whoever shares its blocks may lay them out again.
    """
    config = unet.config
    unknown = (unet.class_embedding, unet.encoder_hid_proj, unet.time_embed_act)
    if any(part is not None for part in unknown) or config.addition_embed_type not in (None, "text_time"):
        return None
    if config.only_cross_attention or config.center_input_sample or unet.mid_block is None:
        return None
    if not unet.conv_norm_out or not isinstance(unet.conv_act, nn.SiLU):
        return None
    return place_blocks(unet)


def place_blocks(network: Any) -> Layout | None:
    """Tell the blocks of `network`, of diffusers' kind, where their part begins; None when not all of them take it."""
    layers = [network.get_submodule(name) for name in cross_layers(network)]
    blocks = [module for module in network.modules() if getattr(module, "time_emb_proj", None) is not None]
    if not all(isinstance(layer, TakesContext) for layer in layers):
        return None
    if not all(isinstance(block, TakesShifts) for block in blocks):
        return None
    place = 0
    for index, layer in enumerate(layers):
        layer.layer, layer.place = index, place
        place += 2 * layer.to_k.out_features
    place = 0
    for block in blocks:
        block.place = place
        place += block.conv1.out_channels
    return Layout(tuple(layers), tuple(blocks))


def context_of(
    layout: Layout, subject: Subject, image_layers: Sequence[tuple[nn.Module, nn.Module]] = ()
) -> torch.Tensor:
    """Keys and values of the texts, layer after layer, keys first, then those of the style images by `image_layers`:
    [R, length]."""
    parts = [part(subject.texts) for layer in layout.attentions for part in (layer.to_k, layer.to_v)]
    if subject.image_tokens is not None:
        parts += [part(subject.image_tokens) for pair in image_layers for part in pair]
    return torch.cat([part.flatten(1) for part in parts], 1)


def shifts_of(unet: Any, layout: Layout, subject: Subject, dtype: torch.dtype) -> torch.Tensor:
    """What each residual block adds to its first convolution at the subject's timesteps, that convolution's bias with
    it: [B, columns] of `dtype`."""
    timesteps = subject.timesteps
    like = torch.empty(len(timesteps), device=timesteps.device, dtype=dtype)
    embedded = unet.time_embedding(unet.get_time_embed(sample=like, timestep=timesteps))
    more = unet.get_aug_embed(emb=embedded, encoder_hidden_states=like, **subject.added(True))
    if more is not None:
        embedded = embedded + more
    return torch.cat([block.shift_at(embedded) for block in layout.residuals], 1)


def answer(
    unet: Any, latents: torch.Tensor, context: Context, shifts: Shifts, control: ControlResiduals | None = None
) -> torch.Tensor:
    """What `unet.forward` answers for `latents`, with all of `unet` that is not prepared."""
    hidden = unet.conv_in(latents)
    skipped = [hidden]
    for block in unet.down_blocks:
        hidden, more = block(hidden, temb=shifts, **attended(block, context))
        skipped += more
    if control is not None:
        skipped = [steered(one, other, control.scale) for one, other in zip(skipped, control.down, strict=True)]
    hidden = unet.mid_block(hidden, temb=shifts, **attended(unet.mid_block, context))
    if control is not None:
        hidden = steered(hidden, control.mid, control.scale)
    # Of sides that are not halved evenly the way up must be told where it came from.
    uneven = any(side % 2**unet.num_upsamplers for side in latents.shape[-2:])
    for block in unet.up_blocks:
        count = len(block.resnets)
        taken, skipped = tuple(skipped[-count:]), skipped[:-count]
        size = skipped[-1].shape[2:] if uneven and skipped else None
        hidden = block(hidden, taken, temb=shifts, upsample_size=size, **attended(block, context))
    made: torch.Tensor = unet.conv_out(group_norm(unet.conv_norm_out, hidden, silu=True))
    return made


def steered(x: torch.Tensor, residual: torch.Tensor, scale: torch.Tensor | None) -> torch.Tensor:
    """`x` + `residual` [B, C, H, W], that times `scale` [B, 1, 1, 1] if given."""
    return x + residual if scale is None else torch.addcmul(x, residual, scale)


def attended(block: Any, context: Context) -> dict[str, Any]:
    """What a block with attention is given besides."""
    return {"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {}


__all__ = [
    "Context",
    "Layout",
    "Shifts",
    "TakesContext",
    "TakesShifts",
    "answer",
    "attended",
    "context_of",
    "lay_out",
    "place_blocks",
    "shifts_of",
    "steered",
]
