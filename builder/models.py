"""The components that a profile asks for, made of a loaded model."""

import gc
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from builder.processors import processor_components
from builder.profiles import Profile
from builder.sources import ProfileFiles, ProfileSources
from sdstream.diffusion.adapters import ImageAdapter, make_adapter
from sdstream.diffusion.components import ComponentMaker, ModelSizes, lora_identities, row_ranges
from sdstream.diffusion.conditions import load_adapter, load_controlnet
from sdstream.diffusion.frame import Frame
from sdstream.diffusion.fusing import fused, networks_of
from sdstream.diffusion.loading.models import Model, load_model
from sdstream.diffusion.lora import read_lora
from sdstream.diffusion.networks import EagerNetworks
from sdstream.diffusion.state import Knobs, Memory, make_knobs, make_memory
from sdstream.diffusion.tiny import write_tiny_model
from sdstream.diffusion.tiny_conditions import make_tiny_adapter, make_tiny_controlnet
from sdstream.engines.component import Component, RowRange
from sdstream.engines.keys import BackendName

FRAME_LENGTH = 50
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class LoadedProfile:
    """A profile's components, in the order in which they are baked."""

    profile: Profile
    components: tuple[Component, ...]


@contextmanager
def model_directory(profile: Profile, files: ProfileFiles) -> Generator[Path]:
    """Where the model's files are; a tiny one is made for as long as this lasts."""
    if files.model is not None:
        yield files.model
        return
    with tempfile.TemporaryDirectory(prefix="sdstream-tiny-") as folder:
        directory = Path(folder, "model")
        write_tiny_model(directory, profile.family, seed=profile.tiny or 0, width=16)
        yield directory


def load_profile(
    profile: Profile, backend: BackendName, device: torch.device = CPU, sources: ProfileSources | None = None
) -> LoadedProfile:
    """Load the model and the networks of image processors, and make the components that `backend` compiles of them.
    `sources` finds the files.

    Half precision for TensorRT and for GPUs, single for packages of a CPU. Raises `ModelUnavailable`.
    """
    dtype = torch.float32 if backend == "compiled" and device.type == "cpu" else torch.float16
    sources = sources or ProfileSources()
    files = sources.find(profile)
    components = _of_model(profile, files, dtype) if profile.components else []
    components += processor_components(profile, sources.places(profile), dtype)
    return LoadedProfile(profile, tuple(components))


def _of_model(profile: Profile, files: ProfileFiles, dtype: torch.dtype) -> list[Component]:
    with model_directory(profile, files) as directory:
        model = load_model(
            directory,
            profile.family,
            CPU,
            dtype=dtype,
            taesd=not profile.full_vae,
            taesd_elsewhere=files.taesd,
            tokenizer_elsewhere=files.tokenizer,
        )
        if profile.loras:
            networks = networks_of(model)
            loras = [
                (read_lora(file, lora.source, model.family, networks), lora.scale)
                for file, lora in zip(files.loras, profile.loras, strict=True)
            ]
            model = fused(model, loras)
        controlnets = [
            _load_controlnet(name, folder, model)
            for name, folder in zip(profile.controlnets, files.controlnets, strict=True)
        ]
        adapter = None if profile.adapter is None else _load_adapter(files.adapter, model)
    components: list[Component] = []
    for width, height in profile.pictures:
        maker = ComponentMaker(
            EagerNetworks(model.unet, model.vae),
            _sizes(profile, model, width, height),
            lora_identities(model),
            _name(profile),
            base=None if model.base is None else model.base.unet,
        )
        for name in profile.components:
            if name.startswith("unet"):
                control = controlnets[0][1] if "-control" in name else None
                components.append(
                    maker.unet(
                        control=control,
                        adapter=adapter if "-tokens" in name else None,
                        recalled=profile.recalled if name.endswith("-recall") else 0,
                    )
                )
            elif name == "encoder":
                components.append(maker.encoder())
            elif name == "decoder":
                components.append(maker.decoder())
            elif name == "controlnet":
                components += [maker.controlnet(module, title) for title, module in controlnets]
            else:
                components += _frames(profile, model, maker, width, height)
    del model  # with its text encoders, which nothing is compiled of
    gc.collect()
    return components


def _sizes(profile: Profile, model: Model, width: int, height: int) -> ModelSizes:
    streams = RowRange(1, profile.streams.best, profile.streams.most)
    return ModelSizes(width, height, model.latent_scale, row_ranges(streams, max(profile.slots)), streams)


def _frames(profile: Profile, model: Model, maker: ComponentMaker, width: int, height: int) -> list[Component]:
    made: list[Component] = []
    for slots in profile.slots:
        knobs, memory = example_blocks(model, slots, width, height)
        for guidance in profile.guidance:
            frame = Frame(maker.networks, slots=slots, guidance=guidance, prediction=model.schedule.prediction)
            made.append(maker.frame(frame, knobs, memory))
    return made


def example_blocks(model: Model, slots: int, width: int, height: int) -> tuple[Knobs, Memory]:
    """Knobs and memory of one stream of this kind; only their shapes count."""
    steps = [round(index * (FRAME_LENGTH - 1) / slots) for index in range(slots)]
    prompt = model.prompts.encode("").conditioning
    knobs = make_knobs(
        model.schedule.tables(steps, FRAME_LENGTH),
        torch.zeros(slots, *model.latent_shape(width, height)),
        prompt,
        prompt,
        time_ids=model.time_ids(width, height),
    )
    return knobs, make_memory(knobs)


def _load_controlnet(name: str, folder: Path | None, model: Model) -> tuple[str, torch.nn.Module]:
    """What it is called, and the network; a tiny one where there is no folder."""
    if folder is None:
        module: torch.nn.Module = make_tiny_controlnet(model.unet).to(model.dtype)
    else:
        module = load_controlnet(folder, model.unet, model.dtype, model.device)
    return name.rpartition("/")[2], module


def _load_adapter(file: Path | None, model: Model) -> ImageAdapter:
    plain: Any = model.unet if model.base is None else model.base.unet
    return make_adapter(plain, make_tiny_adapter(plain)) if file is None else load_adapter(file, plain)


def _name(profile: Profile) -> str:
    return f"tiny-{profile.family}" if profile.tiny is not None else Path(profile.model).name


__all__ = ["LoadedProfile", "example_blocks", "load_profile", "model_directory"]
