"""What a ControlNet makes of knobs alone, and what it answers with that: as `sdstream.diffusion.prepared` of a UNet."""

from typing import Any

import torch

from sdstream.diffusion.libraries import diffusers
from sdstream.diffusion.prepared import Context, Layout, Shifts, attended, place_blocks
from sdstream.diffusion.question import Question, Subject


def lay_out_control(net: Any) -> Layout | None:
    """Tell the blocks of a ControlNet where their part begins; None when not all of them take what is prepared, or
    when it has parts that those of Stable Diffusion do not have."""
    if not isinstance(net, diffusers.ControlNetModel):
        return None
    config: Any = net.config
    if net.class_embedding is not None or net.encoder_hid_proj is not None or net.mid_block is None:
        return None
    if config.addition_embed_type not in (None, "text_time") or config.only_cross_attention:
        return None
    if config.global_pool_conditions or config.controlnet_conditioning_channel_order != "rgb":
        return None
    return place_blocks(net)


def takes_sizes(net: Any) -> bool:
    """Whether a ControlNet reads SDXL's pooled text and sizes."""
    return net.config.addition_embed_type == "text_time"


def control_shifts_of(net: Any, layout: Layout, subject: Subject, dtype: torch.dtype) -> torch.Tensor:
    """What the time adds in each residual block, as `prepared.shifts_of`: [B, columns]."""
    embedded = net.time_embedding(net.time_proj(subject.timesteps).to(dtype))
    if takes_sizes(net):
        pooled, time_ids = subject.of_xl
        sizes = net.add_time_proj(time_ids.flatten()).reshape(len(pooled), -1)
        embedded = embedded + net.add_embedding(torch.cat((pooled, sizes), -1).to(dtype))
    return torch.cat([block.shift_at(embedded) for block in layout.residuals], 1)


def plain_control_answer(
    net: Any, question: Question, picture: torch.Tensor, *, is_xl: bool
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """What `net` answers as diffusers has it, not scaled: see `control_answer`. `is_xl` is whether it `takes_sizes`."""
    latents, subject = question.latents, question.subject
    extra = subject.added(is_xl)
    made: tuple[list[torch.Tensor], torch.Tensor] = net(
        latents, subject.timesteps, subject.texts, controlnet_cond=picture, return_dict=False, **extra
    )
    return made


def control_answer(
    net: Any, latents: torch.Tensor, context: Context, shifts: Shifts, picture: torch.Tensor
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """What `net.forward` answers, with all of it that is not prepared: the residuals of the skip connections and that
    of the middle, not scaled."""
    hidden = net.conv_in(latents) + net.controlnet_cond_embedding(picture)
    skipped = [hidden]
    for block in net.down_blocks:
        hidden, more = block(hidden, temb=shifts, **attended(block, context))
        skipped += more
    hidden = net.mid_block(hidden, temb=shifts, **attended(net.mid_block, context))
    pairs = zip(net.controlnet_down_blocks, skipped, strict=True)
    return [layer(values) for layer, values in pairs], net.controlnet_mid_block(hidden)


__all__ = ["control_answer", "control_shifts_of", "lay_out_control", "plain_control_answer", "takes_sizes"]
