"""Tiny ControlNets and IP-Adapters with random weights for the tiny models, laid out as the real ones are."""

from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from sdstream.diffusion.libraries import diffusers, transformers

EMBEDDING = 24
"""Numbers of an image's embedding."""
TOKENS = 4
RANK = 2


def make_tiny_controlnet(unet: Any, *, channels: int = 3, seed: int = 0) -> Any:
    """A ControlNet for `unet`, whose layers that begin at nothing in training have an effect."""
    with _seeded(seed):
        net = diffusers.ControlNetModel.from_unet(
            unet, conditioning_channels=channels, conditioning_embedding_out_channels=(8, 8, 16, 16)
        )
        for part in (*net.controlnet_down_blocks, net.controlnet_mid_block):
            torch.nn.init.normal_(part.weight, std=0.2)
        torch.nn.init.normal_(net.controlnet_cond_embedding.conv_out.weight, std=3.0)
    return net.requires_grad_(False).eval()


def write_tiny_controlnet(directory: Path, unet: Any, *, channels: int = 3, seed: int = 0) -> None:
    """Write one as `save_pretrained` does."""
    make_tiny_controlnet(unet, channels=channels, seed=seed).save_pretrained(directory, safe_serialization=True)


def make_tiny_adapter(
    unet: Any, *, face: bool = False, changes: bool = False, seed: int = 0
) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of an IP-Adapter's file for `unet`, regular or of faces; with `changes` to the network itself, as
    those of faces have them."""
    width = int(unet.config.cross_attention_dim)
    with _seeded(seed):

        def normal(*shape: int, scale: float) -> torch.Tensor:
            return torch.randn(*shape) * scale

        norm = {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
        if face:
            projection = {
                "proj.0.weight": normal(2 * EMBEDDING, EMBEDDING, scale=0.2),
                "proj.0.bias": normal(2 * EMBEDDING, scale=0.1),
                "proj.2.weight": normal(TOKENS * width, 2 * EMBEDDING, scale=0.2),
                "proj.2.bias": normal(TOKENS * width, scale=0.1),
            }
        else:
            projection = {
                "proj.weight": normal(TOKENS * width, EMBEDDING, scale=0.3),
                "proj.bias": normal(TOKENS * width, scale=0.1),
            }
        layers: dict[str, torch.Tensor] = {}
        for index, name in enumerate(unet.attn_processors):
            if name.endswith("attn1.processor"):
                continue
            inside = unet.get_submodule(name.rpartition(".")[0]).to_k
            for part in ("k", "v"):
                layers[f"{index}.to_{part}_ip.weight"] = normal(inside.out_features, width, scale=0.3)
        added = _tiny_changes(unet) if changes else {}
    # The files number every attention from 1, self attentions too, in diffusers' order.
    numbered: dict[str, torch.Tensor] = {}
    for number, index in enumerate(dict.fromkeys(int(name.partition(".")[0]) for name in layers)):
        for part in ("k", "v"):
            numbered[f"{2 * number + 1}.to_{part}_ip.weight"] = layers[f"{index}.to_{part}_ip.weight"]
    return {"image_proj": projection | norm, "ip_adapter": numbered | added}


def _tiny_changes(unet: Any) -> dict[str, torch.Tensor]:
    added: dict[str, torch.Tensor] = {}
    for index, name in enumerate(unet.attn_processors):
        attention = unet.get_submodule(name.removesuffix(".processor"))
        parts = (attention.to_q, attention.to_k, attention.to_v, attention.to_out[0])
        for layer, part in zip(("to_q", "to_k", "to_v", "to_out"), parts, strict=True):
            added[f"{index}.{layer}_lora.down.weight"] = torch.randn(RANK, part.in_features) * 0.1
            added[f"{index}.{layer}_lora.up.weight"] = torch.randn(part.out_features, RANK) * 0.1
    return added


def write_tiny_adapter(directory: Path, name: str, unet: Any, *, face: bool = False, seed: int = 0) -> None:
    """Write an IP-Adapter and, in `image_encoder`, the network that embeds images for it; one of faces has none.

    A name that does not end in `.safetensors` makes it a pickle.
    """
    directory.mkdir(parents=True, exist_ok=True)
    state = make_tiny_adapter(unet, face=face, changes=face, seed=seed)
    if not name.endswith(".safetensors"):
        torch.save(state, directory / name)
        return
    flat = {f"{group}.{key}": value for group, own in state.items() for key, value in own.items()}
    library: Any = safetensors.torch
    library.save_file(flat, directory / name)
    if not face:
        make_tiny_image_encoder(seed).save_pretrained(directory / "image_encoder", safe_serialization=True)


def make_tiny_image_encoder(seed: int = 0) -> Any:
    """A CLIP vision model that embeds pictures of 32x32."""
    config = transformers.CLIPVisionConfig(
        hidden_size=32,
        intermediate_size=32,
        projection_dim=EMBEDDING,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    with _seeded(seed):
        return transformers.CLIPVisionModelWithProjection(config).eval()


def _seeded(seed: int) -> Any:
    """Random numbers from `seed` on, and afterwards as if nothing had been drawn."""
    random: Any = torch.random
    context = random.fork_rng(devices=[])

    class Seeded:
        def __enter__(self) -> None:
            context.__enter__()
            random.manual_seed(seed)

        def __exit__(self, *error: Any) -> None:
            context.__exit__(*error)

    return Seeded()


__all__ = [
    "EMBEDDING",
    "make_tiny_adapter",
    "make_tiny_controlnet",
    "make_tiny_image_encoder",
    "write_tiny_adapter",
    "write_tiny_controlnet",
]
