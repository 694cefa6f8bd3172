"""The keys of checkpoints in the layout of the original trainers, by which their family is known. No torch here."""

from collections.abc import Mapping
from pathlib import Path

from sdstream.model_errors import ModelUnavailable
from sdstream.settings import Family

UNET = "model.diffusion_model."
VAE = ("first_stage_model.", "vae.")
ENCODERS: Mapping[Family, tuple[str, ...]] = {
    "sd15": ("cond_stage_model.transformer.",),
    "sd-turbo": ("cond_stage_model.model.",),
    "sdxl-turbo": ("conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."),
}
"""How the keys of the text encoders begin."""
REFINER = "conditioner.embedders.0.model."
INPUT = f"{UNET}input_blocks.0.0.weight"
VELOCITY = ("v_pred",)
"""Keys that trainers of velocity prediction leave in a file."""


def family_of_keys(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Family:
    """The family of a file in the original layout. Raises `ModelUnavailable` for what is none of them."""
    if INPUT not in shapes:
        kind = (
            "a LoRA"
            if any("lora" in key for key in shapes)
            else "no model in the layout of Stable Diffusion's trainers"
        )
        raise ModelUnavailable(f"{path} is {kind}: it has no {INPUT}")
    for family, prefixes in ENCODERS.items():
        if all(any(key.startswith(prefix) for key in shapes) for prefix in prefixes):
            return family
    if any(key.startswith(REFINER) for key in shapes):
        raise ModelUnavailable(f"{path} is SDXL's refiner, which cannot run alone")
    raise ModelUnavailable(f"{path} holds a UNet without the text encoders of SD 1.5, SD 2.1 or SDXL")


__all__ = ["ENCODERS", "INPUT", "REFINER", "UNET", "VAE", "VELOCITY", "family_of_keys"]
