"""The architectures of the families' published models, for checkpoints that come without a description.

These are facts about the networks that Stability AI, Runway and OpenAI published: how wide and deep they are, and in
how many heads attention is cut, which no weight's shape tells.
"""

from collections.abc import Mapping
from typing import Any

from sdstream.settings import Family

NOISE: Mapping[str, Any] = {
    "_class_name": "EulerDiscreteScheduler",
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}
"""The noise that all families were trained with."""

_CLIP_L: Mapping[str, Any] = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
}
_CLIP_H: Mapping[str, Any] = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,  # of 24: these models read the last layer but one, so the last was left out
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "projection_dim": 512,
}
_CLIP_BIG_G: Mapping[str, Any] = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}
_CLIP_COMMON: Mapping[str, Any] = {
    "vocab_size": 49408,
    "max_position_embeddings": 77,
    "bos_token_id": 49406,
    "eos_token_id": 49407,
    "pad_token_id": 49407,
}
TEXT_ENCODERS: Mapping[Family, tuple[Mapping[str, Any], ...]] = {
    "sd15": ({**_CLIP_COMMON, **_CLIP_L},),
    "sd-turbo": ({**_CLIP_COMMON, **_CLIP_H},),
    "sdxl-turbo": ({**_CLIP_COMMON, **_CLIP_L}, {**_CLIP_COMMON, **_CLIP_BIG_G}),
}
PADS: Mapping[Family, tuple[str, ...]] = {
    "sd15": ("<|endoftext|>",),
    "sd-turbo": ("!",),
    "sdxl-turbo": ("<|endoftext|>", "!"),
}
"""What fills up short prompts, for each text encoder."""

_DOWN, _UP = "CrossAttnDownBlock2D", "CrossAttnUpBlock2D"
_SD: Mapping[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    "sample_size": 64,
    "layers_per_block": 2,
    "block_out_channels": [320, 640, 1280, 1280],
    "down_block_types": [_DOWN, _DOWN, _DOWN, "DownBlock2D"],
    "up_block_types": ["UpBlock2D", _UP, _UP, _UP],
}
UNETS: Mapping[Family, Mapping[str, Any]] = {
    "sd15": {**_SD, "cross_attention_dim": 768, "attention_head_dim": 8},
    "sd-turbo": {
        **_SD,
        "cross_attention_dim": 1024,
        "attention_head_dim": [5, 10, 20, 20],
        "use_linear_projection": True,
    },
    "sdxl-turbo": {
        **_SD,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", _DOWN, _DOWN],
        "up_block_types": [_UP, _UP, "UpBlock2D"],
        "cross_attention_dim": 2048,
        "attention_head_dim": [5, 10, 20],
        "transformer_layers_per_block": [1, 2, 10],
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}
LATENT_SCALES: Mapping[Family, float] = {"sd15": 0.18215, "sd-turbo": 0.18215, "sdxl-turbo": 0.13025}


def vae_config(family: Family) -> dict[str, Any]:
    """The VAE that all families have; the strength of its latents differs."""
    return {
        "_class_name": "AutoencoderKL",
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "layers_per_block": 2,
        "block_out_channels": [128, 256, 512, 512],
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "sample_size": 1024 if family == "sdxl-turbo" else 512,
        "scaling_factor": LATENT_SCALES[family],
    }


__all__ = ["LATENT_SCALES", "NOISE", "PADS", "TEXT_ENCODERS", "UNETS", "vae_config"]
