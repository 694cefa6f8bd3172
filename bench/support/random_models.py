"""Networks of random weights: those of the real models in full size, and small ones for a CPU. Never zeros, which GPUs
multiply faster than anything else."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.support.roofline import Operator, count
from sdstream.diffusion.libraries import diffusers, transformers
from sdstream.diffusion.loading.models import load_model
from sdstream.diffusion.placing import place
from sdstream.diffusion.tiny import write_tiny_model

SD15: Mapping[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
SD_TURBO: Mapping[str, Any] = {
    **SD15,
    "cross_attention_dim": 1024,
    "attention_head_dim": (5, 10, 20, 20),
    "use_linear_projection": True,
}
SDXL_TURBO: Mapping[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280),
    "layers_per_block": 2,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "cross_attention_dim": 2048,
    "attention_head_dim": (5, 10, 20),
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
FULL: Mapping[str, Mapping[str, Any]] = {"sd-turbo": SD_TURBO, "sdxl-turbo": SDXL_TURBO, "sd15": SD15}
SMALL = {"tiny": 16, "mid": 128}
"""Width of the first block of the UNet of a small model."""
TOKENS = 77


@dataclass(frozen=True, slots=True)
class Networks:
    """A UNet and a small VAE, ready for use."""

    unet: Any
    vae: Any

    @property
    def text_width(self) -> int:
        return int(self.unet.config.cross_attention_dim)

    @property
    def is_xl(self) -> bool:
        return self.unet.config.addition_embed_type == "text_time"


def make_networks(name: str, device: torch.device, dtype: torch.dtype) -> Networks:
    """The networks of a model of `FULL` or `SMALL`."""
    if name in SMALL:
        with tempfile.TemporaryDirectory() as folder:
            write_tiny_model(Path(folder), "sd-turbo", width=SMALL[name])
            model = load_model(Path(folder), "sd-turbo", device, dtype=dtype)
        return Networks(model.unet, model.vae)
    with torch.device("meta"):
        made = (diffusers.UNet2DConditionModel(**FULL[name]), diffusers.AutoencoderTiny())
    for network in made:
        network.to(dtype).to_empty(device=device)
        _fill(network, device)
        place(network, device)
    return Networks(*made)


def write_full_model(folder: Path, name: str) -> None:
    """A model directory with UNet and small VAE of full size, and text encoders of full width and one layer."""
    family: Any = name
    write_tiny_model(folder, family)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    made = make_networks(name, device, torch.float16)
    made.unet.save_pretrained(folder / "unet", safe_serialization=True)
    made.vae.save_pretrained(folder / "taesd", safe_serialization=True)
    widen_text_encoders(folder, FULL[name])


def widen_text_encoders(folder: Path, unet: Mapping[str, Any]) -> None:
    """Make the text encoders of a tiny model as wide as a UNet of this configuration wants them together."""
    width = unet["cross_attention_dim"]
    if unet.get("addition_embed_type") != "text_time":
        _widen(folder / "text_encoder", transformers.CLIPTextModel, hidden_size=width)
        return
    pooled = unet["projection_class_embeddings_input_dim"] - 6 * unet["addition_time_embed_dim"]
    _widen(folder / "text_encoder", transformers.CLIPTextModel, hidden_size=width - pooled)
    second = transformers.CLIPTextModelWithProjection
    _widen(folder / "text_encoder_2", second, hidden_size=pooled, projection_dim=pooled)  # one width, as published ones


def _widen(folder: Path, kind: Any, **sizes: int) -> None:
    config = kind.config_class.from_pretrained(folder).to_dict()
    wide = transformers.CLIPTextConfig(**config | {"num_hidden_layers": 1, "num_attention_heads": 16, **sizes})
    kind(wide).save_pretrained(folder, safe_serialization=True)


def operators_of(name: str, size: int, rows: int) -> list[tuple[list[Operator], int]]:
    """What a frame of one stream asks of a GPU: operators of the VAE's encoder, of the UNet, of the VAE's decoder, and
    for how many rows each runs."""
    with torch.device("meta"):
        unet, vae = diffusers.UNet2DConditionModel(**FULL[name]).half(), diffusers.AutoencoderTiny().half()
        side = size // 8
        latent = torch.empty(1, 4, side, side, dtype=torch.float16)
        image = torch.empty(1, 3, size, size, dtype=torch.float16)
        text = torch.empty(1, TOKENS, unet.config.cross_attention_dim, dtype=torch.float16)
        time = torch.empty(1, dtype=torch.float16)
        extra: dict[str, Any] = {}
        if name == "sdxl-turbo":
            added = {"text_embeds": torch.empty(1, 1280).half(), "time_ids": torch.empty(1, 6).half()}
            extra["added_cond_kwargs"] = added
    return [
        (count(vae, lambda: vae.encode(image)), 1),
        (count(unet, lambda: unet(latent, time, text, **extra)), rows),
        (count(vae, lambda: vae.decode(latent)), 1),
    ]


@torch.no_grad()
def _fill(network: nn.Module, device: torch.device) -> None:
    """Weights that neither blow activations up nor kill them, so that their numbers are of ordinary sizes."""
    generator = torch.Generator(device).manual_seed(0)
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() >= 2:
                parameter.normal_(0.0, parameter[0].numel() ** -0.5, generator=generator)
            elif name == "weight":
                parameter.normal_(1.0, 0.1, generator=generator)
            else:
                parameter.normal_(0.0, 0.02, generator=generator)


__all__ = [
    "FULL",
    "SMALL",
    "TOKENS",
    "Networks",
    "make_networks",
    "operators_of",
    "widen_text_encoders",
    "write_full_model",
]
