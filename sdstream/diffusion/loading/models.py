"""Models: loaded from a diffusers directory or from a single file, checked, ready to run. Nothing is fetched here."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdstream.diffusion.loading.directory import ModelDirectory
from sdstream.diffusion.loading.flaws import LATENT_CHANNELS, TINY_VAE, Elsewhere, find_flaws, find_small_vae
from sdstream.diffusion.loading.kinds import family_of, is_turbo
from sdstream.diffusion.loading.single_file import SingleFile
from sdstream.diffusion.loading.weighing import weight_bytes
from sdstream.diffusion.prompts import PromptEncoder, TextEncoder
from sdstream.diffusion.schedule import Schedule
from sdstream.model_errors import ModelUnavailable
from sdstream.settings import Family

Progress = Callable[[str, float | None], None]
"""Told what is being loaded, and how much of the whole is done, 0 to 100."""


@dataclass(frozen=True, slots=True)
class ModelOrigin:
    """The files that a model was read from: its directory or file, what did not lie with it, its LoRAs in order."""

    path: Path
    taesd: Path | None = None
    tokenizer: Path | None = None
    loras: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True, weakref_slot=True, eq=False)
class Model:
    """A loaded model. Its networks are shared by all streams that use it and are never changed by one."""

    family: Family
    unet: nn.Module
    vae: nn.Module
    prompts: PromptEncoder
    schedule: Schedule
    device: torch.device
    dtype: torch.dtype
    latent_scale: int
    """Pixels along a side for one latent."""
    has_taesd: bool
    is_turbo: bool = True
    """Trained to be run in few steps, so that it needs no LCM LoRA."""
    loras: tuple[tuple[str, float], ...] = ()
    """What is fused into its weights: names, and how strongly."""
    lora_digests: tuple[str, ...] = ()
    """For each of `loras` the digest of what it changes in the UNet, whatever its file is called."""
    base: "Model | None" = None
    """The model without its LoRAs; None where there are none."""
    origin: ModelOrigin | None = None
    """For a process that loads the same again."""

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        """The shape of the latents of a picture: channels, height, width."""
        return LATENT_CHANNELS, height // self.latent_scale, width // self.latent_scale

    def time_ids(self, width: int, height: int) -> torch.Tensor | None:
        """SDXL's note on sizes: original, crop and target, float32 [6]; None for the others."""
        if self.family != "sdxl-turbo":
            return None
        return torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32)


def default_dtype(device: torch.device) -> torch.dtype:
    """Half precision on a GPU, where it is twice as fast; single on a CPU, where it is the fastest."""
    return torch.float16 if device.type == "cuda" else torch.float32


def load_model(
    path: Path,
    family: Family,
    device: torch.device,
    *,
    dtype: torch.dtype | None = None,
    taesd: bool = True,
    taesd_elsewhere: Path | None = None,
    tokenizer_elsewhere: Path | None = None,
    progress: Progress = lambda detail, percent: None,
    admit: Callable[[int], None] = lambda need: None,
) -> Model:
    """Load a diffusers directory, or a single file in the original layout.

    `taesd` takes the small VAE in the directory's folder `taesd`, else the one at `taesd_elsewhere`; where neither is
    given the model's own VAE is used. A single file takes its tokenizer from `tokenizer_elsewhere`. `admit` is told the
    bytes that the weights take at least before any are read, and may raise. Raises `ModelUnavailable`, naming the file:
    something is missing, pickled, corrupt, incomplete or not finite, or the model is of another family.
    """
    dtype = default_dtype(device) if dtype is None else dtype
    half = dtype == torch.float16
    elsewhere = Elsewhere(taesd_elsewhere, tokenizer_elsewhere)
    for flaw in find_flaws(path, family, half=half, taesd=taesd, elsewhere=elsewhere):
        raise flaw.error
    admit(weight_bytes(path, family, dtype.itemsize, half=half, taesd=taesd, taesd_elsewhere=taesd_elsewhere))
    source: ModelDirectory | SingleFile
    if path.suffix == ".safetensors" and path.is_file():
        source = SingleFile.open(path, dtype, device, tokenizer_elsewhere)
    else:
        source = ModelDirectory(path, dtype, device)
    own_vae = source.config("vae").get("_class_name")
    small = find_small_vae(path, taesd_elsewhere) if taesd and own_vae != TINY_VAE else None
    has_taesd = own_vae == TINY_VAE or small is not None
    scheduler = source.scheduler()
    names = ("", "_2") if family == "sdxl-turbo" else ("",)
    encoders: list[TextEncoder] = []
    for index, name in enumerate(names):
        progress("loading the text encoder", 5.0 + 15.0 * index)
        made = "CLIPTextModelWithProjection" if name else "CLIPTextModel"
        model = source.network(f"text_encoder{name}", made)
        encoders.append(TextEncoder(source.tokenizer(f"tokenizer{name}"), model))
    progress("loading the VAE", 40.0)
    vae_source = source if small is None else ModelDirectory(small.parent, dtype, device)
    vae_part = "vae" if small is None else small.name
    vae = vae_source.network(vae_part, TINY_VAE if has_taesd else "AutoencoderKL")
    progress("loading the UNet", 50.0)
    unet = source.network("unet", "UNet2DConditionModel")
    progress("loaded", 100.0)
    config: Any = vae.config
    channels = config.latent_channels
    if channels != LATENT_CHANNELS:
        raise ModelUnavailable(f"{vae_source.path / vae_part}: has {channels} latent channels, and {family} has 4")
    stages = config.decoder_block_out_channels if has_taesd else config.block_out_channels
    return Model(
        family=family,
        unet=unet,
        vae=vae,
        prompts=PromptEncoder(encoders, empty_is_zero=source.force_zeros_for_empty_prompt),
        schedule=Schedule.from_config(scheduler),
        device=device,
        dtype=dtype,
        latent_scale=2 ** (len(stages) - 1),
        has_taesd=has_taesd,
        is_turbo=is_turbo(path),
        origin=ModelOrigin(path, small, tokenizer_elsewhere),
    )


__all__ = ["LATENT_CHANNELS", "Model", "ModelOrigin", "Progress", "default_dtype", "family_of", "load_model"]
