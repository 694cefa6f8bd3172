"""The layout of the original trainers, written from diffusers' modules: what a single-file checkpoint looks like.

Written from the structure of the networks (blocks counted from the input on, one entry for each layer and resampler),
not from diffusers' converter, so that the two can be held against each other.
"""

from collections.abc import Iterator
from typing import Any

import torch

Tensors = dict[str, torch.Tensor]

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
VAE_RESNET = {name: name for name in ("norm1", "conv1", "norm2", "conv2")} | {"conv_shortcut": "nin_shortcut"}
VAE_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def original_unet(unet: Any) -> Tensors:
    """The tensors of a UNet, under `model.diffusion_model.`."""
    names = dict(_unet_names(unet))
    return {f"model.diffusion_model.{key}": tensor for key, tensor in _renamed(unet.state_dict(), names).items()}


def original_vae(vae: Any) -> Tensors:
    """The tensors of an AutoencoderKL, under `first_stage_model.`; its attention was convolutions there."""
    tensors = _renamed(vae.state_dict(), dict(_vae_names(vae)))
    for key, tensor in tensors.items():
        if ".attn_1." in key and key.endswith(".weight") and tensor.ndim == 2:
            tensors[key] = tensor[:, :, None, None]
    return {f"first_stage_model.{key}": tensor for key, tensor in tensors.items()}


def original_clip(encoder: Any, prefix: str) -> Tensors:
    """The tensors of a CLIP text model as transformers named them when the original checkpoints were made."""
    flat = not hasattr(encoder, "text_model")
    return {f"{prefix}{'text_model.' if flat else ''}{key}": tensor for key, tensor in encoder.state_dict().items()}


def original_open_clip(encoder: Any, prefix: str) -> Tensors:
    """The tensors of a CLIP text model as OpenCLIP names them, queries, keys and values in one."""
    state = {key.removeprefix("text_model."): tensor for key, tensor in encoder.state_dict().items()}
    found: Tensors = {
        "token_embedding.weight": state["embeddings.token_embedding.weight"],
        "positional_embedding": state["embeddings.position_embedding.weight"],
        "ln_final.weight": state["final_layer_norm.weight"],
        "ln_final.bias": state["final_layer_norm.bias"],
    }
    projection = state.get("text_projection.weight")
    width = found["ln_final.weight"].shape[0]
    # Checkpoints of SD 2 carry one too, which nobody reads.
    found["text_projection"] = torch.zeros(width, width) if projection is None else projection.T.contiguous()
    plain = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj"}
    layers = {key.split(".")[2] for key in state if key.startswith("encoder.layers.")}
    for layer in layers:
        ours, theirs = f"encoder.layers.{layer}", f"transformer.resblocks.{layer}"
        for end in ("weight", "bias"):
            parts = [state[f"{ours}.self_attn.{part}_proj.{end}"] for part in "qkv"]
            found[f"{theirs}.attn.in_proj_{end}"] = torch.cat(parts)
            found[f"{theirs}.attn.out_proj.{end}"] = state[f"{ours}.self_attn.out_proj.{end}"]
            for name, other in plain.items():
                found[f"{theirs}.{other}.{end}"] = state[f"{ours}.{name}.{end}"]
    return {f"{prefix}{key}": tensor for key, tensor in found.items()}


def _renamed(state: Tensors, names: dict[str, str]) -> Tensors:
    found: Tensors = {}
    for key, tensor in state.items():
        start = max((name for name in names if key.startswith(f"{name}.")), key=len)
        found[names[start] + key.removeprefix(start)] = tensor.contiguous()
    return found


def _unet_names(unet: Any) -> Iterator[tuple[str, str]]:
    yield from {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "add_embedding.linear_1": "label_emb.0.0",
        "add_embedding.linear_2": "label_emb.0.2",
        "conv_in": "input_blocks.0.0",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.attentions.0": "middle_block.1",
    }.items()
    for index, number in ((0, 0), (1, 2)):
        yield from _resnet(f"mid_block.resnets.{index}", f"middle_block.{number}", RESNET)
    entry = 1
    for number, block in enumerate(unet.down_blocks):
        ours = f"down_blocks.{number}"
        for layer in range(len(block.resnets)):
            yield from _resnet(f"{ours}.resnets.{layer}", f"input_blocks.{entry}.0", RESNET)
            yield f"{ours}.attentions.{layer}", f"input_blocks.{entry}.1"
            entry += 1
        if block.downsamplers:
            yield f"{ours}.downsamplers.0.conv", f"input_blocks.{entry}.0.op"
            entry += 1
    entry = 0
    for number, block in enumerate(unet.up_blocks):
        ours = f"up_blocks.{number}"
        for layer in range(len(block.resnets)):
            yield from _resnet(f"{ours}.resnets.{layer}", f"output_blocks.{entry}.0", RESNET)
            yield f"{ours}.attentions.{layer}", f"output_blocks.{entry}.1"
            if block.upsamplers and layer == len(block.resnets) - 1:
                place = 2 if hasattr(block, "attentions") else 1
                yield f"{ours}.upsamplers.0.conv", f"output_blocks.{entry}.{place}.conv"
            entry += 1


def _vae_names(vae: Any) -> Iterator[tuple[str, str]]:
    yield from ((name, name) for name in ("quant_conv", "post_quant_conv"))
    for half in ("encoder", "decoder"):
        for name, other in {"conv_in": "conv_in", "conv_norm_out": "norm_out", "conv_out": "conv_out"}.items():
            yield f"{half}.{name}", f"{half}.{other}"
        for index in (0, 1):
            yield from _resnet(f"{half}.mid_block.resnets.{index}", f"{half}.mid.block_{index + 1}", VAE_RESNET)
        for name, other in VAE_ATTENTION.items():
            yield f"{half}.mid_block.attentions.0.{name}", f"{half}.mid.attn_1.{other}"
    for number, block in enumerate(vae.encoder.down_blocks):
        for layer in range(len(block.resnets)):
            ours, theirs = f"encoder.down_blocks.{number}.resnets.{layer}", f"encoder.down.{number}.block.{layer}"
            yield from _resnet(ours, theirs, VAE_RESNET)
        yield f"encoder.down_blocks.{number}.downsamplers.0.conv", f"encoder.down.{number}.downsample.conv"
    last = len(vae.decoder.up_blocks) - 1  # there the blocks of the decoder are counted from the picture on
    for number, block in enumerate(vae.decoder.up_blocks):
        for layer in range(len(block.resnets)):
            ours, theirs = f"decoder.up_blocks.{number}.resnets.{layer}", f"decoder.up.{last - number}.block.{layer}"
            yield from _resnet(ours, theirs, VAE_RESNET)
        yield f"decoder.up_blocks.{number}.upsamplers.0.conv", f"decoder.up.{last - number}.upsample.conv"


def _resnet(ours: str, theirs: str, parts: dict[str, str]) -> Iterator[tuple[str, str]]:
    for name, other in parts.items():
        yield f"{ours}.{name}", f"{theirs}.{other}"
