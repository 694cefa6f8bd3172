"""Engines that are built behind running streams, by the builder's own program in a process of its own."""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from sdstream.engines.events import EngineEvent, Report
from sdstream.engines.keys import BackendName
from sdstream.engines.registry import capability_of
from sdstream.worker.builder_process import BuilderProcess
from sdstream.worker.engine_requests import FRAME, EngineRequest, Parts

BuildPolicy = Literal["auto", "never", "always"]


class EngineBuilds:
    """Builds one engine at a time, for whoever waits for it on its own thread. `close` ends a build under way."""

    def __init__(
        self,
        policy: BuildPolicy,
        directory: Path | None,
        streams: int,
        device: torch.device,
        report: Report,
        builder: BuilderProcess,
    ) -> None:
        """`directory` is where engines go to; without one nothing is built. `streams` are the most of a call."""
        self._policy = policy
        self._directory = directory
        self._streams = streams
        self._device = device
        self._report = report
        self._builder = builder

    @property
    def are_wanted(self) -> bool:
        if self._directory is None or self._policy == "never":
            return False
        # On a CPU a build takes the cores that make the pictures, so only who asks for it gets it.
        return self._policy == "always" or self._device.type == "cuda"

    def close(self) -> None:
        """Build nothing more, and end what is being built."""
        self._builder.close()

    def build(self, request: EngineRequest, name: BackendName, parts: Parts) -> str | None:
        """Bake in a process of its own, at low priority: it can neither hold a frame up nor end the worker. None when
        it is done, else why not, empty when there is nothing to say."""
        runner = request.runner()
        if runner is None or self._builder.is_closed or self._directory is None:
            return ""
        text = profile_text(request, name, capability_of(self._device), parts, self._streams)
        if text is None:
            return ""
        runner.explain(f"an engine for {name} is being built")
        failure = self._builder.bake(text, self._directory)
        if not failure:
            self._report(EngineEvent("built", request.model, name))
            return None
        if not self._builder.is_closed:  # else it was ended, which is no failure
            self._report(EngineEvent("build_failed", request.model, failure))
        return f"an engine for {name} could not be built: {failure}"


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
    """Text, numbers and lists of them as TOML; JSON's forms of these are TOML's, too."""
    return json.dumps(value)


__all__ = ["BuildPolicy", "EngineBuilds", "profile_text"]
