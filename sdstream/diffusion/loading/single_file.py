"""Models in one `.safetensors` file, in the layout of the original trainers: known by their keys, converted, checked.

Such a file holds weights only. What it does not tell, how attention is cut into heads above all, comes from a diffusers
directory of the same name beside it (`NAME/` beside `NAME.safetensors`), else from the published models of its family,
whose shapes it must have then. The tokenizer is CLIP's and comes from any model at hand.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

from sdstream.diffusion.libraries import diffusers, single_files, transformers
from sdstream.diffusion.loading import architectures
from sdstream.diffusion.loading.directory import CANNOT_LOAD, ModelDirectory, made_ready, open_tokenizer, why_not_loaded
from sdstream.diffusion.loading.flaws import no_tokenizer
from sdstream.diffusion.loading.headers import look_into
from sdstream.diffusion.loading.original_keys import ENCODERS, INPUT, UNET, VAE, VELOCITY, family_of_keys
from sdstream.diffusion.loading.weights import read_tensors
from sdstream.model_errors import ModelUnavailable
from sdstream.settings import Family


@dataclass(frozen=True, slots=True)
class SingleFile:
    """A model in one file. Everything raises `ModelUnavailable`, naming the file."""

    path: Path
    dtype: torch.dtype
    device: torch.device
    family: Family
    shapes: Mapping[str, tuple[int, ...]]
    """Of all tensors, by key."""
    metadata: Mapping[str, str]
    tokenizer_folder: Path | None = None
    beside: ModelDirectory | None = field(default=None)
    """The directory of the same name, which describes the model."""

    @classmethod
    def open(
        cls, path: Path, dtype: torch.dtype, device: torch.device, tokenizer_folder: Path | None = None
    ) -> "SingleFile":
        """Read the header and tell the family by it. No weights are read."""
        header = look_into(path)
        folder = path.with_suffix("")
        beside = ModelDirectory(folder, dtype, device) if (folder / "unet/config.json").is_file() else None
        family = family_of_keys(path, header.shapes)
        return cls(path, dtype, device, family, header.shapes, header.metadata, tokenizer_folder, beside)

    @property
    def force_zeros_for_empty_prompt(self) -> bool:
        """SDXL's habit, which its published models have."""
        return self.family == "sdxl-turbo" if self.beside is None else self.beside.force_zeros_for_empty_prompt

    def config(self, part: str) -> dict[str, Any]:
        """The description of a network."""
        if self.beside is not None:
            return self.beside.config(part)
        if part == "unet":
            channels = {"in_channels": self.shapes[INPUT][1]}
            return {**architectures.UNETS[self.family], **channels}
        if part == "vae":
            return architectures.vae_config(self.family)
        return dict(architectures.TEXT_ENCODERS[self.family][part.endswith("_2")])

    def scheduler(self) -> dict[str, Any]:
        """The description of the schedule: what the file's header says, and what all of the family have."""
        if self.beside is not None:
            return self.beside.scheduler()
        said = self.metadata.get("modelspec.prediction_type", self.metadata.get("modelspec.predict_key", ""))
        velocity = said.startswith("v") or any(key in self.shapes for key in VELOCITY)
        return {
            **architectures.NOISE,
            "prediction_type": "v_prediction" if velocity else "epsilon",
            "rescale_betas_zero_snr": "ztsnr" in self.shapes,
        }

    def network(self, part: str, made: str) -> nn.Module:
        """A network of the file, ready for use; only its own weights are read."""
        prefixes = self._prefixes(part)
        weights = read_tensors(self.path, lambda key: key.startswith(prefixes))
        if not weights:
            raise ModelUnavailable(f"{self.path} has no weights of the {part}: none begins with {prefixes[0]}")
        with TemporaryDirectory() as folder:
            place = Path(folder, part)
            place.mkdir()
            config = self.config(part)
            (place / "config.json").write_text(json.dumps(config), "utf-8")
            try:
                network = self._convert(part, made, weights, config, folder)
            except CANNOT_LOAD as error:
                raise ModelUnavailable(
                    f"{self.path}: the {part} cannot be loaded: {why_not_loaded(error)}", hint=self._hint()
                ) from error
        self._refuse_what_lacks(part, [name for name, tensor in network.named_parameters() if tensor.is_meta])
        return made_ready(network, f"{self.path} ({part})", self.dtype, self.device)

    def tokenizer(self, part: str) -> Any:
        """CLIP's tokenizer, with what this family fills prompts up with."""
        if self.beside is not None and (self.beside.path / part).is_dir():
            return self.beside.tokenizer(part)
        if self.tokenizer_folder is None:
            raise no_tokenizer(self.path)
        tokenizer = open_tokenizer(self.tokenizer_folder)
        tokenizer.pad_token = architectures.PADS[self.family][part.endswith("_2")]
        return tokenizer

    def _prefixes(self, part: str) -> tuple[str, ...]:
        if part == "unet":
            return (UNET,)
        if part == "vae":
            return VAE
        return (ENCODERS[self.family][part.endswith("_2")],)

    def _convert(
        self, part: str, made: str, weights: dict[str, torch.Tensor], config: dict[str, Any], folder: str
    ) -> nn.Module:
        if part in ("unet", "vae"):
            kind = getattr(diffusers, made)
            with torch.device("meta"):
                wanted: dict[str, torch.Tensor] = kind.from_config(config).state_dict()
            convert = (
                single_files.convert_ldm_unet_checkpoint if part == "unet" else single_files.convert_ldm_vae_checkpoint
            )
            converted: dict[str, torch.Tensor] = convert(weights, config)
            self._refuse_what_lacks(part, [name for name in wanted if name not in converted])
            return kind.from_single_file(
                {name: converted[name] for name in wanted},  # which it takes as they are, for no name is another's
                config=folder,
                subfolder=part,
                torch_dtype=self.dtype,
                local_files_only=True,
            )
        return single_files.create_diffusers_clip_model_from_ldm(
            getattr(transformers, made),
            weights,
            subfolder=part,
            config=folder,
            torch_dtype=self.dtype,
            local_files_only=True,
        )

    def _refuse_what_lacks(self, part: str, missing: list[str]) -> None:
        if missing:
            raise ModelUnavailable(
                f"{self.path} lacks {len(missing)} weights of the {part}, such as {missing[0]}", hint=self._hint()
            )

    def _hint(self) -> str:
        if self.beside is not None:
            return f"{self.beside.path} describes another model than this file holds."
        return (
            f"It is not built like the published models of {self.family}. A diffusers directory {self.path.stem}/ "
            "beside it, weights not needed, can describe it."
        )


__all__ = ["SingleFile"]
