"""What a group of streams runs, for whoever looks for engines of it: which parts of it can be compiled, and how the
builder is asked for them."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import ReferenceType

from torch import nn

from sdstream.diffusion.adapters import ImageAdapter
from sdstream.diffusion.components import ComponentMaker, ModelSizes, row_ranges
from sdstream.diffusion.frame import Frame
from sdstream.diffusion.loading.models import ModelOrigin
from sdstream.diffusion.networks import EagerNetworks
from sdstream.diffusion.state import Knobs, make_memory
from sdstream.diffusion.swapping import SwappingRunner
from sdstream.engines.component import RowRange
from sdstream.engines.keys import BackendName, LoraIdentity
from sdstream.settings import Family
from sdstream.worker.engines.search import Parts

FRAME, CONTROLNET = "frame", "controlnet-"
"""Names of parts; those of ControlNets end with their place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineRequest:
    """What a group of streams runs, and how its runner takes something faster."""

    frame: Frame
    """The plain one, with the ControlNets and the style image's attention that streams of this group have."""
    networks: EagerNetworks
    """Of the model alone."""
    like: Knobs
    """Of one stream of the group; only shapes count."""
    width: int
    height: int
    latent_scale: int
    model: str
    """Where the model comes from, for people."""
    family: Family
    runner: "ReferenceType[SwappingRunner]"
    """Weak: streams that ended meanwhile need no engine."""
    base: nn.Module | None = None
    """The UNet without its LoRAs, None where it has none."""
    loras: tuple[LoraIdentity, ...] = ()
    controlnets: tuple[str, ...] = ()
    """The ids of the frame's ControlNets, in order."""
    adapter: ImageAdapter | None = None
    """What projects the style image, and is in the frame's networks."""
    origin: ModelOrigin | None = None
    """The model's files, for a process that builds; None where one is not known."""
    full_vae: bool = False

    @property
    def subject(self) -> str:
        """What engines are of, for people."""
        return self.model

    @property
    def holder(self) -> Callable[[], SwappingRunner | None]:
        """What takes them, if it is still there."""
        return self.runner

    @property
    def nets(self) -> list[nn.Module]:
        """The ControlNets."""
        return [] if self.frame.controls is None else list(self.frame.controls.nets)

    @property
    def recalled(self) -> int:
        """How many earlier pictures are attended to."""
        return self.like.frame_bank.shape[3]


def rows_of(request: EngineRequest, part: str) -> int:
    """The rows that one stream of a request has in a call of a part."""
    if part in (FRAME, "encoder", "decoder"):
        return 1
    frame = request.frame
    slots = frame.slots if frame.batched else 1
    against = {"none": 0, "self": 0, "initialize": 1, "full": slots}[frame.guidance]
    return slots + against


def choices(request: EngineRequest, name: BackendName, most: int, digest: Callable[[nn.Module], str]) -> list[Parts]:
    """What may be compiled for a request, the best first, for up to `most` streams in one call.

    A whole frame is of the model alone: with ControlNets, a style image or earlier pictures each set of them would be
    another, and switching one on would wait for it. `digest` is of a module's weights.
    """
    streams = RowRange(1, 1, most)
    rows = row_ranges(streams, request.frame.slots)
    sizes = ModelSizes(request.width, request.height, request.latent_scale, rows, streams)
    maker = ComponentMaker(
        request.networks, sizes, request.loras, Path(request.model).name, digest=digest, base=request.base
    )
    nets, recalled = request.nets, request.recalled
    unet = maker.unet(control=nets[0] if nets else None, adapter=request.adapter, recalled=recalled)
    parts = {unet.name: unet, "encoder": maker.encoder(), "decoder": maker.decoder()}
    for index, (net, title) in enumerate(zip(nets, request.controlnets, strict=True)):
        parts[f"{CONTROLNET}{index}"] = maker.controlnet(net, title.rpartition("/")[2])
    if name != "compiled" or nets or request.adapter is not None or recalled or not request.frame.batched:
        return [parts]
    return [{FRAME: maker.frame(request.frame, request.like, make_memory(request.like))}, parts]


def profile_text(
    request: EngineRequest, name: BackendName, capability: int | None, parts: Parts, streams: int
) -> str | None:
    """A profile for the builder that makes exactly `parts`, for up to `streams` in one call; None when the file of
    something in them is not known."""
    frame, origin = request.frame, request.origin
    nets = [_folder_of(net) for net in request.nets]
    if origin is None or len(origin.loras) != len(request.loras) or not all(nets):
        return None
    target = [] if name == "compiled" or capability is None else [capability]
    lines: dict[str, object] = {
        "family": request.family,
        "model": str(origin.path),
        "full_vae": request.full_vae,
        "sizes": [f"{request.width}x{request.height}"],
        "slots": [frame.slots],
        "guidance": [frame.guidance],
        "components": list(
            dict.fromkeys(
                component.name.partition("-")[0] if part == FRAME else component.name
                for part, component in parts.items()
            )
        ),
        "controlnets": list(dict.fromkeys(nets)),
    }
    if request.recalled:
        lines["recalled"] = request.recalled
    for member, file in (("taesd", origin.taesd), ("tokenizer", origin.tokenizer)):
        if file is not None:
            lines[member] = str(file)
    if request.adapter is not None:
        if request.adapter.file is None:
            return None
        lines["adapter"] = str(request.adapter.file)
    text = "".join(f"{member} = {toml_value(value)}\n" for member, value in lines.items())
    for file, lora in zip(origin.loras, request.loras, strict=True):
        text += f"\n[[loras]]\nsource = {toml_value(str(file))}\nscale = {toml_value(lora.scale)}\n"
    text += f"\n[streams]\nbest = 1\nmost = {streams}\n"
    return f"{text}\n[targets]\n{name} = {toml_value(target)}\n"


def _folder_of(net: nn.Module) -> str:
    """Where a ControlNet was read from; empty when it was made here."""
    config: Any = net.config
    folder = str(config.get("_name_or_path", ""))
    return folder if folder and Path(folder).is_dir() else ""


def toml_value(value: object) -> str:
    """Text, numbers and lists of them as TOML. JSON's forms of these are TOML's, too, but for the pairs of escapes that
    stand for what is beyond 16 bits, such as a smiley in the name of a file."""
    return json.dumps(value, ensure_ascii=False)


__all__ = ["CONTROLNET", "FRAME", "EngineRequest", "choices", "profile_text", "rows_of", "toml_value"]
