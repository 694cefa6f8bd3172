"""Safety checkers that are tiny and random."""

from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker

from sdstream.diffusion.libraries import transformers

Library = Any


def made(concepts: float, care: float = 2.0) -> Library:
    """diffusers' checker, tiny and random, with all concepts at these thresholds: cosines lie between -1 and 1."""
    vision = {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "image_size": 64,
        "patch_size": 16,
        "projection_dim": 16,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model: Library = StableDiffusionSafetyChecker(
            transformers.CLIPConfig(vision_config=vision, projection_dim=16)
        ).eval()
        for name in ("concept_embeds", "special_care_embeds"):
            getattr(model, name).copy_(torch.randn(getattr(model, name).shape))
    model.concept_embeds_weights.fill_(concepts)
    model.special_care_embeds_weights.fill_(care)
    return model.requires_grad_(False)


def write_checker(folder: Path, threshold: float) -> None:
    """Save one; at a threshold of -2 everything is unsafe, at 2 nothing."""
    made(threshold).save_pretrained(folder)
