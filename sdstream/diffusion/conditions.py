"""ControlNets, IP-Adapters and the networks that embed style images, from files that are on this machine."""

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import nn
from torch.nn import functional

from sdstream.diffusion.adapters import ImageAdapter, make_adapter
from sdstream.diffusion.fetching.selection import NETWORK, TRANSFORMERS, opening
from sdstream.diffusion.libraries import diffusers, transformers
from sdstream.diffusion.placing import place
from sdstream.errors import first_line
from sdstream.model_errors import ModelUnavailable

MEAN, SPREAD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
"""By which CLIP's pictures are shifted and scaled."""
LOAD_ERRORS = (
    OSError,
    ValueError,
    RuntimeError,
    KeyError,
    TypeError,
    AttributeError,
    EOFError,
    SafetensorError,
    pickle.UnpicklingError,
)

PICKLE_REFUSED = "its weights are a pickle that is broken or holds more than tensors, which could run any program"
"""What the libraries say of one names neither."""


def load_controlnet(folder: Path, unet: Any, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """A ControlNet for `unet`. Raises `ModelUnavailable`: corrupt, incomplete, not finite, or of another family."""
    config = _config(folder)
    expected, found = int(unet.config.cross_attention_dim), config.get("cross_attention_dim")
    if found != expected:
        raise ModelUnavailable(
            f"{folder} is a ControlNet of another family: it reads texts of width {found}, and the model of {expected}"
        )
    options = {"torch_dtype": dtype, **opening(folder, NETWORK[1])}
    return _load(diffusers.ControlNetModel, folder, options, device)


def load_image_encoder(folder: Path, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The CLIP vision model that embeds style images. Raises `ModelUnavailable`."""
    _config(folder)
    options = {"dtype": dtype, **opening(folder, TRANSFORMERS[1])}
    return _load(transformers.CLIPVisionModelWithProjection, folder, options, device)


def load_adapter(file: Path, unet: Any) -> ImageAdapter:
    """An IP-Adapter for `unet`, on its device: of safetensors, or of a pickle of tensors alone, as those of faces are
    published. Raises `ModelUnavailable`."""
    state: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    try:
        library: Any = safetensors.torch
        if file.suffix == ".safetensors":
            tensors: dict[str, torch.Tensor] = library.load_file(file)
            for name, tensor in tensors.items():
                group, _, key = name.partition(".")
                state[group][key] = tensor
        else:
            content: Any = torch.load(file, map_location="cpu", weights_only=True)
            state = {group: dict(content[group]) for group in state}
        adapter = replace(make_adapter(unet, state), file=file)
    except LOAD_ERRORS as error:
        raise ModelUnavailable(f"{file} is no IP-Adapter for this model: {first_line(error)}") from error
    layers = nn.ModuleList(part for pair in adapter.layers for part in pair)
    _refuse_what_is_not_finite(file, nn.ModuleDict({"projection": adapter.projection, "layers": layers}))
    bad = [name for name, pair in adapter.changes.items() if not all(bool(part.isfinite().all()) for part in pair)]
    if bad:
        raise ModelUnavailable(f"{file} holds weights that are not finite numbers, such as what it adds to {bad[0]}")
    return adapter


@torch.no_grad()
def embed_image(encoder: nn.Module, image: torch.Tensor) -> torch.Tensor:
    """The embedding of a picture, float [1, 3, H, W], 0 to 1: its middle square as CLIP sees it, [embedding]."""
    network: Any = encoder
    side = int(network.config.image_size)
    parameter = next(encoder.parameters())
    height, width = image.shape[2:]
    factor = side / min(height, width)
    sides = (max(side, round(height * factor)), max(side, round(width * factor)))
    small = functional.interpolate(image, sides, mode="bicubic", align_corners=False, antialias=True).clamp(0, 1)
    top, left = (sides[0] - side) // 2, (sides[1] - side) // 2
    square = small[:, :, top : top + side, left : left + side]
    mean, spread = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, SPREAD))
    pixels = ((square - mean) / spread).to(parameter.device, parameter.dtype)
    embeds: torch.Tensor = network(pixel_values=pixels).image_embeds
    return embeds[0]


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    try:
        content: Any = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"{file} cannot be read: {first_line(error)}") from None
    if not isinstance(content, dict):
        raise ModelUnavailable(f"{file} must hold a JSON object")
    return cast("dict[str, Any]", content)


def _load(kind: Any, folder: Path, options: dict[str, Any], device: torch.device) -> nn.Module:
    try:
        network, report = kind.from_pretrained(folder, local_files_only=True, output_loading_info=True, **options)
    except LOAD_ERRORS as error:
        why = PICKLE_REFUSED if options.get("use_safetensors") is False else first_line(error)
        raise ModelUnavailable(f"{folder} cannot be loaded: {why}") from error
    missing = sorted(str(key) for key in report["missing_keys"])
    if missing:
        raise ModelUnavailable(f"{folder} lacks {len(missing)} weights, such as {missing[0]}")
    place(network, device)
    _refuse_what_is_not_finite(folder, network)
    return network


def _refuse_what_is_not_finite(path: Path, network: nn.Module) -> None:
    tensors = {name: value for name, value in network.named_parameters() if value.is_floating_point()}
    looked: Any = torch.stack([value.isfinite().all() for value in tensors.values()])
    bad = [name for name, good in zip(tensors, looked.tolist(), strict=True) if not good]
    if bad:
        raise ModelUnavailable(f"{path} holds weights that are not finite numbers, such as {bad[0]}")


__all__ = ["embed_image", "load_adapter", "load_controlnet", "load_image_encoder"]
