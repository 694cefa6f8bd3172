"""Why a model cannot be loaded, as far as names, descriptions and headers of files tell: `load_model` looks with this
before it reads weights, and the server where it tells which models are here. No torch here.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sdstream.diffusion.fetching.selection import INDEX
from sdstream.diffusion.loading import architectures
from sdstream.diffusion.loading.headers import look_into
from sdstream.diffusion.loading.kinds import family_of
from sdstream.diffusion.loading.original_keys import INPUT, family_of_keys
from sdstream.diffusion.loading.parts import TOKENIZERS, find_weights, look_for_tokenizer, read_json, stem_of
from sdstream.model_errors import ModelUnavailable
from sdstream.settings import Family

LATENT_CHANNELS = 4
TINY_VAE = "AutoencoderTiny"
"""What diffusers calls the small VAE."""
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Flaw:
    """A file that a load needs and that is missing or of no use; `name` is below the model's directory."""

    name: str
    error: ModelUnavailable
    """What the load says."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """What a model takes from other places than its own."""

    taesd: Path | None = None
    """The directory of the small VAE, for a model that has none inside."""
    tokenizer: Path | None = None
    """Of a single file."""
    fetched: bool = False
    """What lies nowhere of these comes from the hub before the load."""


def find_small_vae(path: Path, elsewhere: Path | None) -> Path | None:
    """The directory of the small VAE, inside the model's or elsewhere."""
    inside = path / "taesd"
    return inside if (inside / "config.json").is_file() else elsewhere


def find_flaws(
    path: Path, family: Family, *, half: bool, taesd: bool = True, elsewhere: Elsewhere | None = None
) -> tuple[Flaw, ...]:
    """All flaws of a diffusers directory or a single file, in the order in which a load meets them; a model without one
    may have others, which only its weights show. `half` and `taesd` as a load has them. Waits for the disk."""
    elsewhere = elsewhere or Elsewhere()
    look = _Look(path, family)
    if path.suffix == ".safetensors" and path.is_file():
        look.at_file(elsewhere)
    else:
        look.at_directory(half, taesd, elsewhere)
    return tuple(look.flaws)


@dataclass(slots=True)
class _Look:
    path: Path
    family: Family
    flaws: list[Flaw] = field(default_factory=list[Flaw])

    def at_directory(self, half: bool, taesd: bool, elsewhere: Elsewhere) -> None:
        self._json(INDEX)
        unet = self._json("unet/config.json")
        if unet is not None:
            self._note("unet/config.json", lambda: self._check_unet(family_of(unet), unet))
        vae = self._json("vae/config.json") or {}
        self._json("scheduler/scheduler_config.json")
        for index in ("", "_2") if self.family == "sdxl-turbo" else ("",):
            self._network(f"text_encoder{index}", half)
            folder = f"tokenizer{index}"
            self._note(f"{folder}/{TOKENIZERS[0]}", lambda folder=folder: look_for_tokenizer(self.path / folder))
        small = find_small_vae(self.path, elsewhere.taesd) if taesd and vae.get("_class_name") != TINY_VAE else None
        if small is not None:
            self._network(small.name, half, small)
        elif not (taesd and elsewhere.fetched):
            self._network("vae", half)
        self._network("unet", half)

    def at_file(self, elsewhere: Elsewhere) -> None:
        header = self._note(self.path.name, lambda: look_into(self.path))
        if header is None:
            return
        family: Family | None = self._note(self.path.name, lambda: family_of_keys(self.path, header.shapes))
        beside = self.path.with_suffix("")
        if family is None:
            return
        if not (beside / "unet/config.json").is_file():
            unet = {**architectures.UNETS[family], "in_channels": header.shapes[INPUT][1]}
            self._note(self.path.name, lambda: self._check_unet(family, unet))
        else:
            for name in ("unet/config.json", "vae/config.json", "scheduler/scheduler_config.json"):
                config = self._json(name, beside)
                if name.startswith("unet") and config is not None:
                    self._note(f"{beside.name}/{name}", lambda config=config: self._check_unet(family, config))
        if not (elsewhere.tokenizer or elsewhere.fetched or (beside / "tokenizer").is_dir()):
            self.flaws.append(Flaw("tokenizer", no_tokenizer(self.path)))

    def _json(self, name: str, folder: Path | None = None) -> dict[str, Any] | None:
        told = name if folder is None else f"{folder.name}/{name}"
        return self._note(told, lambda: read_json((folder or self.path) / name))

    def _network(self, part: str, half: bool, folder: Path | None = None) -> None:
        place = self.path / part if folder is None else folder
        stem = stem_of(part)
        if not any(flaw.name == f"{part}/config.json" for flaw in self.flaws):
            self._note(f"{part}/config.json", lambda: read_json(place / "config.json"))
        self._note(f"{part}/{stem}.safetensors", lambda: find_weights(place, stem, half=half))

    def _check_unet(self, found: Family, config: Mapping[str, Any]) -> None:
        if found != self.family:
            raise ModelUnavailable(f"{self.path} holds a model of the {found} family, not of {self.family}")
        for member in ("in_channels", "out_channels"):
            if config.get(member, LATENT_CHANNELS) != LATENT_CHANNELS:
                raise ModelUnavailable(
                    f"{self.path / 'unet'} has {member} {config[member]} and not 4: "
                    "a model for inpainting or another task, which cannot run here"
                )

    def _note(self, name: str, question: Callable[[], Answer]) -> Answer | None:
        try:
            return question()
        except ModelUnavailable as error:
            self.flaws.append(Flaw(name, error))
            return None


def no_tokenizer(path: Path) -> ModelUnavailable:
    """What is said of a single file that finds no tokenizer."""
    return ModelUnavailable(
        f"{path} needs CLIP's tokenizer, and no model on this machine has one",
        hint="`sdstream models pull` of any model brings one.",
    )


__all__ = ["LATENT_CHANNELS", "TINY_VAE", "Elsewhere", "Flaw", "find_flaws", "find_small_vae", "no_tokenizer"]
