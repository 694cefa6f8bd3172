"""Models in diffusers directories: their parts found, opened and checked. Nothing pickled is ever opened."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdstream.diffusion.fetching.selection import INDEX
from sdstream.diffusion.libraries import diffusers, transformers
from sdstream.diffusion.loading.headers import SafetensorError
from sdstream.diffusion.loading.parts import find_weights, look_for_tokenizer, read_json, stem_of
from sdstream.diffusion.placing import place
from sdstream.errors import first_line
from sdstream.model_errors import ModelUnavailable

CANNOT_LOAD = (OSError, ValueError, RuntimeError, KeyError, TypeError, IndexError, AttributeError, SafetensorError)
"""What diffusers and transformers raise on files that are broken or of another kind."""


@dataclass(frozen=True, slots=True)
class ModelDirectory:
    """A model's directory, and how its networks are wanted. Everything raises `ModelUnavailable`, naming the file."""

    path: Path
    dtype: torch.dtype
    device: torch.device

    @property
    def force_zeros_for_empty_prompt(self) -> bool:
        """SDXL's habit of taking zeros for a negative prompt that nobody gave."""
        return bool(self.json(INDEX).get("force_zeros_for_empty_prompt"))

    def config(self, part: str) -> dict[str, Any]:
        """The description of a network."""
        return self.json(f"{part}/config.json")

    def scheduler(self) -> dict[str, Any]:
        """The description of the schedule."""
        return self.json("scheduler/scheduler_config.json")

    def json(self, name: str) -> dict[str, Any]:
        """The object in a JSON file."""
        return read_json(self.path / name)

    def network(self, part: str, made: str) -> nn.Module:
        """A network in `part`, ready for use; `made` is its class in diffusers or transformers."""
        self.config(part)
        is_diffusers = not made.startswith("CLIP")
        variant = find_weights(self.path / part, stem_of(part), half=self.dtype == torch.float16)
        try:
            # Both build it without memory for random weights first, and read each file's tensors by mapping.
            network, report = getattr(diffusers if is_diffusers else transformers, made).from_pretrained(
                self.path / part,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
                variant=variant.removeprefix(".") or None,
                **{"torch_dtype" if is_diffusers else "dtype": self.dtype},
            )
        except CANNOT_LOAD as error:
            raise ModelUnavailable(f"{self.path / part} cannot be loaded: {why_not_loaded(error)}") from error
        missing = sorted(str(key) for key in report["missing_keys"])
        if missing:
            raise ModelUnavailable(f"{self.path / part} lacks {len(missing)} weights, such as {missing[0]}")
        return made_ready(network, str(self.path / part), self.dtype, self.device)

    def tokenizer(self, part: str) -> Any:
        """The tokenizer in `part`."""
        return open_tokenizer(self.path / part)


def made_ready(network: nn.Module, where: str, dtype: torch.dtype, device: torch.device) -> nn.Module:
    """The network on its device and for inference only. Raises `ModelUnavailable` for weights that are not finite."""
    place(network, device)
    # One sum for each tensor and one look at all of them: a look at each would wait for the GPU hundreds of times.
    tensors = {name: tensor for name, tensor in network.named_parameters() if tensor.is_floating_point()}
    looked: Any = torch.stack([tensor.isfinite().all() for tensor in tensors.values()])
    finite: list[bool] = looked.tolist()
    bad = [name for name, good in zip(tensors, finite, strict=True) if not good]
    if bad:
        raise ModelUnavailable(f"{where} holds weights that are not finite numbers in {dtype}, such as {bad[0]}")
    return network


def open_tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer in `folder`."""
    look_for_tokenizer(folder)
    try:
        return transformers.CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelUnavailable(f"{folder} cannot be loaded: {error}") from error


def why_not_loaded(error: BaseException) -> str:
    """What diffusers or transformers says of files that it cannot load, without its advice for those who write code."""
    return first_line(error).partition(" If you want to")[0].removeprefix("Cannot load  because ")


__all__ = ["CANNOT_LOAD", "ModelDirectory", "made_ready", "open_tokenizer", "why_not_loaded"]
