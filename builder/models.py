"""The components that a profile asks for, made of a loaded model."""

import gc
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from builder.profiles import LoraSource, Profile
from sdstream.diffusion.adapters import ImageAdapter, make_adapter
from sdstream.diffusion.components import ComponentMaker, ModelSizes, lora_identities, row_ranges
from sdstream.diffusion.conditions import load_adapter, load_controlnet
from sdstream.diffusion.frame import Frame
from sdstream.diffusion.fusing import fused, networks_of
from sdstream.diffusion.lora import Lora, read_lora
from sdstream.diffusion.models import Model, load_model
from sdstream.diffusion.networks import EagerNetworks
from sdstream.diffusion.selection import LORA
from sdstream.diffusion.sources import find_cached, find_model, find_taesd
from sdstream.diffusion.state import Knobs, Memory, make_knobs, make_memory
from sdstream.diffusion.tiny import write_tiny_model
from sdstream.diffusion.tiny_conditions import make_tiny_adapter, make_tiny_controlnet
from sdstream.engines.component import Component, RowRange
from sdstream.engines.keys import BackendName
from sdstream.errors import ModelUnavailable

FRAME_LENGTH = 50
CPU = torch.device("cpu")


@dataclass(frozen=True, slots=True)
class LoadedProfile:
    """A profile's components, in the order in which they are baked."""

    profile: Profile
    components: tuple[Component, ...]


@contextmanager
def model_directory(profile: Profile) -> Generator[Path]:
    """Where the model's files are; a tiny one is made for as long as this lasts."""
    if profile.tiny is None:
        yield find_model(profile.model)
        return
    with tempfile.TemporaryDirectory(prefix="sdstream-tiny-") as folder:
        directory = Path(folder, "model")
        write_tiny_model(directory, profile.family, seed=profile.tiny, width=16)
        yield directory


def load_profile(profile: Profile, backend: BackendName, device: torch.device = CPU) -> LoadedProfile:
    """Load the model and make the components that `backend` compiles of it.

    Half precision for TensorRT and for GPUs, single for packages of a CPU. Raises `ModelUnavailable`.
    """
    dtype = torch.float32 if backend == "compiled" and device.type == "cpu" else torch.float16
    with model_directory(profile) as directory:
        model = load_model(
            directory,
            profile.family,
            CPU,
            dtype=dtype,
            taesd=not profile.full_vae,
            taesd_elsewhere=find_taesd(profile.family) if profile.taesd is None else Path(profile.taesd).expanduser(),
            tokenizer_elsewhere=None if profile.tokenizer is None else Path(profile.tokenizer).expanduser(),
        )
        if profile.loras:
            model = fused(model, [(_read_lora(lora, model), lora.scale) for lora in profile.loras])
        controlnets = [_load_controlnet(source, model) for source in profile.controlnets]
        adapter = None if profile.adapter is None else _load_adapter(profile.adapter, model)
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
                components.append(maker.unet(control=control, adapter=adapter if "-tokens" in name else None))
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
    return LoadedProfile(profile, tuple(components))


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


def _load_controlnet(source: str, model: Model) -> tuple[str, torch.nn.Module]:
    if source == "tiny":
        module: torch.nn.Module = make_tiny_controlnet(model.unet).to(model.dtype)
    else:
        module = load_controlnet(find_model(source), model.unet, model.dtype, model.device)
    return source.rpartition("/")[2], module


def _load_adapter(source: str, model: Model) -> ImageAdapter:
    plain: Any = model.unet if model.base is None else model.base.unet
    if source == "tiny":
        return make_adapter(plain, make_tiny_adapter(plain))
    file = Path(source).expanduser()
    if not file.is_file():
        owner, name, *inside = (*source.split("/"), "", "")
        path = "/".join(part for part in inside if part)
        folder = find_cached(f"{owner}/{name}") if path else None
        if folder is None or not (folder / path).is_file():
            raise ModelUnavailable(
                f"the IP-Adapter {source} is not on this machine: no file has this name, and it is not in the hub's "
                f"cache as OWNER/NAME/FILE; `hf download {owner}/{name} {path or 'FILE'}` fetches it"
            )
        file = folder / path
    return load_adapter(file, plain)


def _read_lora(wanted: LoraSource, model: Model) -> Lora:
    file = Path(wanted.source).expanduser()
    if not file.is_file():
        folder = find_cached(wanted.source)
        if folder is None:
            raise ModelUnavailable(
                f"the LoRA {wanted.source} is not on this machine: no file has this name, and it is not in the hub's "
                f"cache; `hf download {wanted.source}` fetches it"
            )
        file = folder / LORA
    return read_lora(file, wanted.source, model.family, networks_of(model))


def _name(profile: Profile) -> str:
    return f"tiny-{profile.family}" if profile.tiny is not None else Path(profile.model).name


__all__ = ["LoadedProfile", "example_blocks", "load_profile", "model_directory"]
