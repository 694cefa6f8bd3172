"""Models from diffusers directories: found, checked, loaded. Nothing is fetched, and nothing pickled is ever opened."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from sdstream.diffusion.libraries import diffusers, transformers
from sdstream.diffusion.prompts import PromptEncoder, TextEncoder
from sdstream.diffusion.schedule import Schedule
from sdstream.errors import ModelUnavailable
from sdstream.settings import Family

Progress = Callable[[str, float | None], None]
"""Told what is being loaded, and how much of the whole is done, 0 to 100."""

LATENT_CHANNELS = 4
PICKLED = (".bin", ".ckpt", ".pt", ".pth")
WEIGHTS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}
VARIANTS = ("", ".fp16")
"""Of weight files, the best first; half precision is what some repositories have alone."""


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
    directory: Path,
    family: Family,
    device: torch.device,
    *,
    dtype: torch.dtype | None = None,
    taesd: bool = True,
    taesd_elsewhere: Path | None = None,
    progress: Progress = lambda detail, percent: None,
) -> Model:
    """Load a diffusers directory.

    `taesd` takes the small VAE in its folder `taesd`, else the one at `taesd_elsewhere`; where neither is given the
    model's own VAE is used. Raises `ModelUnavailable`, naming the file: something is missing, pickled, corrupt,
    incomplete or not finite, or the model is of another family.
    """
    folder = _Folder(directory, default_dtype(device) if dtype is None else dtype, device)
    folder.json("model_index.json")
    _check_unet(folder, family)
    own_vae = folder.json("vae/config.json").get("_class_name")
    small = _find_taesd(directory, taesd_elsewhere) if taesd and own_vae != "AutoencoderTiny" else None
    has_taesd = own_vae == "AutoencoderTiny" or small is not None
    schedule = Schedule.from_config(folder.json("scheduler/scheduler_config.json"))
    names = ("", "_2") if family == "sdxl-turbo" else ("",)
    encoders: list[TextEncoder] = []
    for index, name in enumerate(names):
        progress("loading the text encoder", 5.0 + 15.0 * index)
        made = "CLIPTextModelWithProjection" if name else "CLIPTextModel"
        model = folder.network(f"text_encoder{name}", transformers, made)
        encoders.append(TextEncoder(folder.tokenizer(f"tokenizer{name}"), model))
    progress("loading the VAE", 40.0)
    vae_folder = folder if small is None else _Folder(small.parent, folder.dtype, device)
    vae_part = "vae" if small is None else small.name
    vae = vae_folder.network(vae_part, diffusers, "AutoencoderTiny" if has_taesd else "AutoencoderKL")
    progress("loading the UNet", 50.0)
    unet = folder.network("unet", diffusers, "UNet2DConditionModel")
    progress("loaded", 100.0)
    config: Any = vae.config
    channels = config.latent_channels
    if channels != LATENT_CHANNELS:
        raise ModelUnavailable(f"{vae_folder.path / vae_part}: has {channels} latent channels, and {family} has 4")
    stages = config.decoder_block_out_channels if has_taesd else config.block_out_channels
    index = folder.json("model_index.json")
    return Model(
        family=family,
        unet=unet,
        vae=vae,
        prompts=PromptEncoder(encoders, empty_is_zero=bool(index.get("force_zeros_for_empty_prompt"))),
        schedule=schedule,
        device=device,
        dtype=folder.dtype,
        latent_scale=2 ** (len(stages) - 1),
        has_taesd=has_taesd,
    )


def family_of(unet_config: Mapping[str, Any]) -> Family:
    """The family that a UNet is of, by what sets the families apart in `unet/config.json`."""
    if unet_config.get("addition_embed_type") == "text_time":
        return "sdxl-turbo"
    return "sd-turbo" if unet_config.get("use_linear_projection") else "sd15"


@dataclass(frozen=True, slots=True)
class _Folder:
    """A model's directory, and how its networks are wanted."""

    path: Path
    dtype: torch.dtype
    device: torch.device

    def json(self, name: str) -> dict[str, Any]:
        file = self.path / name
        try:
            content: object = json.loads(file.read_text("utf-8"))
        except FileNotFoundError:
            raise ModelUnavailable(
                f"{file} is missing", hint="A model's directory is what `save_pretrained` of diffusers writes."
            ) from None
        except OSError as error:
            raise ModelUnavailable(f"{file} cannot be read: {error.strerror}") from None
        except ValueError as error:
            raise ModelUnavailable(f"{file} is not JSON: {error}") from None
        if not isinstance(content, dict):
            raise ModelUnavailable(f"{file} must hold a JSON object")
        return cast("dict[str, Any]", content)

    def network(self, part: str, library: Any, made: str) -> nn.Module:
        """A network in `part`, ready for use."""
        self.json(f"{part}/config.json")
        is_diffusers = library is diffusers
        variant = self._find_weights(part, WEIGHTS["diffusers" if is_diffusers else "transformers"])
        try:
            network, report = getattr(library, made).from_pretrained(
                self.path / part,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                variant=variant.removeprefix(".") or None,
                **{"torch_dtype" if is_diffusers else "dtype": self.dtype},
            )
        except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
            first = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise ModelUnavailable(f"{self.path / part} cannot be loaded: {first}") from error
        missing = sorted(str(key) for key in report["missing_keys"])
        if missing:
            raise ModelUnavailable(f"{self.path / part} lacks {len(missing)} weights, such as {missing[0]}")
        network.requires_grad_(False).eval().to(self.device)
        self._refuse_what_is_not_finite(part, network)
        return network

    def tokenizer(self, part: str) -> Any:
        known = ("tokenizer.json", "vocab.json")
        if not any((self.path / part / name).is_file() for name in known):
            raise ModelUnavailable(f"{self.path / part / known[0]} is missing, and so is {known[1]}")
        try:
            return transformers.CLIPTokenizer.from_pretrained(self.path / part, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ModelUnavailable(f"{self.path / part} cannot be loaded: {error}") from error

    def _find_weights(self, part: str, stem: str) -> str:
        """The variant of the weights of a part; each of their files has been looked into then."""
        folder = self.path / part
        for variant in VARIANTS:
            index = folder / f"{stem}.safetensors.index{variant}.json"
            single = folder / f"{stem}{variant}.safetensors"
            if single.is_file():
                _look_into(single)
                return variant
            if index.is_file():
                shards = self.json(index.relative_to(self.path).as_posix()).get("weight_map", {})
                for shard in sorted(set(shards.values())):
                    _look_into(folder / shard)
                return variant
        wanted = folder / f"{stem}.safetensors"
        pickled = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLED)
        if pickled:
            raise ModelUnavailable(
                f"{wanted} is missing; {pickled[0]} beside it is a pickle, which can run any program and is not read",
                hint="Load it where you trust it and save it with `save_pretrained(..., safe_serialization=True)`.",
            )
        raise ModelUnavailable(f"{wanted} is missing")

    def _refuse_what_is_not_finite(self, part: str, network: nn.Module) -> None:
        # One sum for each tensor and one look at all of them: a look at each would wait for the GPU hundreds of times.
        tensors = {name: tensor for name, tensor in network.named_parameters() if tensor.is_floating_point()}
        looked: Any = torch.stack([tensor.isfinite().all() for tensor in tensors.values()])
        finite: list[bool] = looked.tolist()
        bad = [name for name, good in zip(tensors, finite, strict=True) if not good]
        if bad:
            raise ModelUnavailable(
                f"{self.path / part} holds weights that are not finite numbers in {self.dtype}, such as {bad[0]}"
            )


def _find_taesd(directory: Path, elsewhere: Path | None) -> Path | None:
    inside = directory / "taesd"
    return inside if (inside / "config.json").is_file() else elsewhere


def _look_into(file: Path) -> None:
    """Read the header, which tells the length: a broken download is refused before anything is made of it."""
    try:
        with safe_open(file, "pt"):
            pass
    except FileNotFoundError:
        raise ModelUnavailable(f"{file} is missing") from None
    except (SafetensorError, OSError) as error:
        raise ModelUnavailable(f"{file} is not a whole safetensors file: {error}") from None


def _check_unet(folder: _Folder, family: Family) -> None:
    config = folder.json("unet/config.json")
    found = family_of(config)
    if found != family:
        raise ModelUnavailable(f"{folder.path} holds a model of the {found} family, not of {family}")
    for member in ("in_channels", "out_channels"):
        if config.get(member, LATENT_CHANNELS) != LATENT_CHANNELS:
            raise ModelUnavailable(
                f"{folder.path / 'unet'} has {member} {config[member]} and not 4: "
                "a model for inpainting or another task, which cannot run here"
            )


__all__ = ["LATENT_CHANNELS", "Model", "Progress", "default_dtype", "family_of", "load_model"]
