"""Engines for streams that run already: looked for, fetched and built on a thread beside them, put in when ready.

A group of streams starts on the plain twin. Its request is served in this order: an engine on the local disk or the
volume, one from the bucket, one that is built here if the settings allow it. What was found takes the place of the
plain twin between two frames.
"""

import json
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from weakref import ReferenceType, WeakKeyDictionary

import torch
from torch import nn

from sdstream import platform
from sdstream.diffusion.adapters import ImageAdapter
from sdstream.diffusion.components import ComponentMaker, ModelSizes, row_ranges
from sdstream.diffusion.engine_networks import EngineControls, EngineFrame, EngineNetworks, LoadedEngine
from sdstream.diffusion.frame import Frame
from sdstream.diffusion.models import ModelOrigin
from sdstream.diffusion.networks import EagerNetworks
from sdstream.diffusion.runners import Runner, make_runner
from sdstream.diffusion.state import Knobs, make_memory
from sdstream.diffusion.swapping import SwappingRunner
from sdstream.engines.backend import Backend
from sdstream.engines.compiled import CompiledBackend
from sdstream.engines.component import Component, RowRange
from sdstream.engines.entry import Entry
from sdstream.engines.events import EngineEvent, Report, say_nothing
from sdstream.engines.keys import PORTABLE, BackendName, LoraIdentity
from sdstream.engines.registry import backends_for, capability_of, make_backend
from sdstream.engines.supply import EngineSupply, Need
from sdstream.engines.weights import digest_of_weights
from sdstream.errors import EngineError, SdstreamError
from sdstream.settings import Family

MOST_WAITING = 64
"""Requests that wait; a further one is told that its streams stay on the plain twin."""
BUILD_SECONDS = 7200.0
FRAME, CONTROLNET = "frame", "controlnet-"
"""Names of parts; those of ControlNets end with their place."""

BuildPolicy = Literal["auto", "never", "always"]


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
    def nets(self) -> list[nn.Module]:
        """The ControlNets."""
        return [] if self.frame.controls is None else list(self.frame.controls.nets)

    @property
    def recalled(self) -> int:
        """How many earlier pictures are attended to."""
        return self.like.frame_bank.shape[3]


Parts = dict[str, Component]
"""What is compiled of a request, by its place in the frame: the UNet's variant or `frame` first, then the others."""


@dataclass(frozen=True, slots=True)
class Found:
    """Engines of one back end that serve a request; of some `parts` there may be none."""

    backend: Backend
    entries: dict[str, Entry]
    parts: Parts


class EngineFinder:
    """One thread that serves requests one after the other. `close` ends it; a build under way is ended, too."""

    def __init__(
        self,
        supply: EngineSupply,
        device: torch.device,
        *,
        builds: BuildPolicy = "auto",
        engines: Path | None = None,
        graphs: bool = True,
        report: Report = say_nothing,
        make: Callable[[BackendName, torch.device], Backend] = make_backend,
        names: Callable[[torch.device], tuple[BackendName, ...]] = backends_for,
    ) -> None:
        """`engines` is the directory that builds go to; without one nothing is built."""
        self._supply = supply
        self._device = device
        self._builds = builds
        self._engines = engines
        self._graphs = graphs
        self._report = report
        self._make = make
        self._names = names
        self._waiting: queue.Queue[EngineRequest | None] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._build: subprocess.Popen[bytes] | None = None
        self._closed = False
        self._digests: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()

    def look_for(self, request: EngineRequest) -> None:
        """Serve a request as soon as those before it are. Never waits."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="engines", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(request)
        except queue.Full:
            if runner := request.runner():
                runner.explain("too many kinds of streams wait for engines, so these run without")

    def close(self) -> None:
        """Take no more requests, and end what is under way as soon as it can be."""
        self._closed = True
        if self._build is not None:
            self._build.terminate()
        if self._thread is not None:
            try:
                self._waiting.put_nowait(None)
            except queue.Full:
                return  # the thread sees `_closed` before its next request
            self._thread.join(10)

    def _run(self) -> None:
        while not self._closed:
            request = self._waiting.get()
            if request is None:
                return
            try:
                self._serve(request)
            except SdstreamError as error:
                self._fail(request, error.message)
            except Exception as error:  # noqa: BLE001 - supervises the requests: one that raises fails alone, by name
                self._fail(request, f"{type(error).__name__}: {error}")

    def _serve(self, request: EngineRequest) -> None:
        reason = ""
        for name in self._names(self._device):
            backend = self._make(name, self._device)
            choices = self._choices(request, name)
            for parts in choices:
                found = self._find(parts, backend)
                if found is not None and self._put(request, found):
                    return
            failure = self._build_behind(request, name, choices[0]) if self._may_build(name) else ""
            if failure is None:
                found = self._find(choices[0], backend)
                if found is not None and self._put(request, found):
                    return
            first = next(iter(choices[0].values()))
            reason = reason or failure or self._supply.explain(self._need(first, backend))
        if (runner := request.runner()) is not None and reason:
            runner.explain(reason)

    def _find(self, parts: Parts, backend: Backend) -> Found | None:
        """The engines of `parts`; None without that of the first, for the others alone are of little use."""
        needs = {part: self._need(component, backend) for part, component in parts.items()}
        first = next(iter(needs))
        entry = self._supply.find(needs[first])
        if entry is None and self._supply.has_mirror:
            entry = self._supply.fetch(needs[first])
        if entry is None:
            return None
        entries = {first: entry}
        for part, need in needs.items():
            if part == first:
                continue
            entry = self._supply.find(need)
            if entry is None and self._supply.has_mirror:
                entry = self._supply.fetch(need)
            if entry is not None:
                entries[part] = entry
        return Found(backend, entries, parts)

    def _put(self, request: EngineRequest, found: Found) -> bool:
        """Load what was found and hand it over; whether it could be loaded."""
        runner = request.runner()
        if runner is None:
            return True
        name = next(iter(found.entries.values())).name
        try:
            fast = self._load(request, found)
        except EngineError as error:
            self._report(EngineEvent("run_failed", name, error.message))
            runner.explain(error.message)
            return False
        lacking = ", ".join(part for part in found.parts if part not in found.entries)
        runner.put(fast, *([f"no engine of {lacking} is here, so torch runs it"] if lacking else []))
        self._report(EngineEvent("swapped", name, fast.in_force))
        return True

    def _load(self, request: EngineRequest, found: Found) -> Runner:
        engines = {
            part: LoadedEngine(found.backend.load(entry, self._device), entry.key.most_rows)
            for part, entry in found.entries.items()
        }
        plain = request.frame
        if FRAME in engines:
            whole: Any = EngineFrame(plain, engines[FRAME], found.backend.name)
            return make_runner(whole, self._device, graphs=self._graphs)
        frame = Frame(
            EngineNetworks(plain.networks, engines, found.backend.name),
            slots=plain.slots,
            guidance=plain.guidance,
            prediction=plain.prediction,
            batched=plain.batched,
            compat=plain.compat,
            controls=None if plain.controls is None else EngineControls(plain.controls, _of_nets(engines)),
            aligned=plain.aligned,
            whole=plain.whole,
        )
        return make_runner(frame, self._device, graphs=self._graphs)

    def _choices(self, request: EngineRequest, name: BackendName) -> list[Parts]:
        """What may be compiled for a request, the best first. A whole frame is of the model alone: with ControlNets, a
        style image or earlier pictures each set of them would be another, and switching one on would wait for it."""
        one = RowRange(1, 1, 1)
        sizes = ModelSizes(
            request.width, request.height, request.latent_scale, row_ranges(one, request.frame.slots), one
        )
        maker = ComponentMaker(
            request.networks, sizes, request.loras, Path(request.model).name, digest=self._digest, base=request.base
        )
        nets, recalled = request.nets, request.recalled
        unet = maker.unet(control=nets[0] if nets else None, adapter=request.adapter, recalled=recalled)
        parts = {unet.name: unet, "encoder": maker.encoder(), "decoder": maker.decoder()}
        for index, (net, title) in enumerate(zip(nets, request.controlnets, strict=True)):
            parts[f"{CONTROLNET}{index}"] = maker.controlnet(net, title.rpartition("/")[2])
        if name != "compiled" or nets or request.adapter is not None or recalled or not request.frame.batched:
            return [parts]
        return [{FRAME: maker.frame(request.frame, request.like, make_memory(request.like))}, parts]

    def _digest(self, module: nn.Module) -> str:
        """Of weights that never change while the module lives, so it is taken once. Those of LoRAs do, in place, and
        are never asked for: a UNet with some is named by its base."""
        known = self._digests.get(module)
        if known is None:
            known = self._digests[module] = digest_of_weights(module)
        return known

    def _need(self, component: Component, backend: Backend) -> Need:
        capability = None if isinstance(backend, CompiledBackend) else capability_of(self._device)
        target = backend.target() if isinstance(backend, CompiledBackend) else PORTABLE
        key = component.key(backend.name, backend.version, target, backend.cuda, backend.options)
        return Need(key, capability, component.rows[1])

    def _may_build(self, name: BackendName) -> bool:
        if self._engines is None or self._builds == "never":
            return False
        # On a CPU a build takes the cores that make the pictures, so only who asks for it gets it.
        return self._builds == "always" or self._device.type == "cuda"

    def _build_behind(self, request: EngineRequest, name: BackendName, parts: Parts) -> str | None:
        """Bake in a process of its own, at low priority: it can neither hold a frame up nor end the worker. None when
        it is done, else why not, empty when there is nothing to say."""
        runner = request.runner()
        if runner is None or self._closed:
            return ""
        text = profile_text(request, name, capability_of(self._device), parts)
        if text is None:
            return ""
        runner.explain(f"an engine for {name} is being built")
        with tempfile.TemporaryDirectory(prefix="sdstream-bake-") as folder:
            file = Path(folder, "wanted.toml")
            file.write_text(text, "utf-8")
            command = [sys.executable, "-m", "builder", "bake", "--polite", "--profile", str(file)]
            command += ["--engines", str(self._engines)]
            try:
                # From this thread, which lasts: the builder must not outlive a worker that is killed.
                command = platform.die_with_parent_command(command)
                self._build = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
                _, said = self._build.communicate(timeout=BUILD_SECONDS)
            except (OSError, subprocess.TimeoutExpired) as error:
                if self._build is not None:
                    self._build.kill()
                self._report(EngineEvent("build_failed", request.model, str(error)))
                return f"an engine for {name} could not be built: {error}"
            if self._build.returncode == 0:
                self._report(EngineEvent("built", request.model, name))
                return None
            last = (said.decode("utf-8", "replace").strip().splitlines() or ["it did not say why"])[-1]
            if not self._closed:  # else it was ended, which is no failure
                self._report(EngineEvent("build_failed", request.model, last))
            return f"an engine for {name} could not be built: {last}"

    def _fail(self, request: EngineRequest, words: str) -> None:
        self._report(EngineEvent("run_failed", request.model, words))
        if (runner := request.runner()) is not None:
            runner.explain(f"no engine is in force: {words}")


def _of_nets(engines: Mapping[str, LoadedEngine]) -> dict[int, LoadedEngine]:
    """Those of ControlNets, by the place of the net."""
    return {
        int(part.removeprefix(CONTROLNET)): engine for part, engine in engines.items() if part.startswith(CONTROLNET)
    }


def profile_text(request: EngineRequest, name: BackendName, capability: int | None, parts: Parts) -> str | None:
    """A profile for the builder that makes exactly `parts`; None when the file of something in them is not known."""
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
    return f"{text}\n[targets]\n{name} = {toml_value(target)}\n"


def _folder_of(net: nn.Module) -> str:
    """Where a ControlNet was read from; empty when it was made here."""
    config: Any = net.config
    folder = str(config.get("_name_or_path", ""))
    return folder if folder and Path(folder).is_dir() else ""


def toml_value(value: object) -> str:
    """Text, numbers and lists of them as TOML; JSON's forms of these are TOML's, too."""
    return json.dumps(value)


__all__ = ["BuildPolicy", "EngineFinder", "EngineRequest", "Parts", "profile_text"]
