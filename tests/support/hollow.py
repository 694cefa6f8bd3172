"""Models that have every file and no weights: whole to all that reads names, descriptions and headers only."""

import json
from pathlib import Path
from typing import Any

from sdstream.diffusion.loading.architectures import UNETS
from sdstream.settings import Family

EMPTY = (2).to_bytes(8, "little") + b"{}"
"""A safetensors file without tensors."""


def write_hollow_model(folder: Path, family: Family = "sd15") -> Path:
    """Make the diffusers directory `folder`, without a small VAE."""
    descriptions: dict[str, Any] = {
        "model_index.json": {},
        "scheduler/scheduler_config.json": {},
        "unet/config.json": dict(UNETS[family]),
        "vae/config.json": {},
    }
    weights = ["unet/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors"]
    for part in ("", "_2") if family == "sdxl-turbo" else ("",):
        descriptions |= {f"text_encoder{part}/config.json": {}, f"tokenizer{part}/vocab.json": {}}
        weights.append(f"text_encoder{part}/model.safetensors")
    for name in (*descriptions, *weights):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(json.dumps(descriptions[name]).encode() if name in descriptions else EMPTY)
    return folder


__all__ = ["EMPTY", "write_hollow_model"]
