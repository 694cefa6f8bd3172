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
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from weakref import ReferenceType, WeakKeyDictionary

import torch
from torch import nn

from sdstream.diffusion.components import ComponentMaker, ModelSizes, row_ranges
from sdstream.diffusion.engine_networks import Call, EngineFrame, EngineNetworks
from sdstream.diffusion.frame import Frame
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

BuildPolicy = Literal["auto", "never", "always"]


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """What a group of streams runs, and how its runner takes something faster."""

    frame: Frame
    """The plain one, over `EagerNetworks`."""
    like: Knobs
    """Of one stream of the group; only shapes count."""
    width: int
    height: int
    latent_scale: int
    model: str
    """Where the model comes from: for people, and for the profile of a build."""
    family: Family
    base: nn.Module | None
    """The UNet without its LoRAs, None where it has none."""
    loras: tuple[LoraIdentity, ...]
    runner: "ReferenceType[SwappingRunner]"
    """Weak: streams that ended meanwhile need no engine."""


@dataclass(frozen=True, slots=True)
class Found:
    """Engines of one back end that serve a request."""

    backend: Backend
    entries: dict[str, Entry]
    components: dict[str, Component]


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
            components = self._components(request, name)
            needs = {part: self._need(component, backend) for part, component in components.items()}
            main = next(iter(needs))  # the UNet or the frame: without it the others are of little use
            if self._supply.find(needs[main]) is None:
                if self._supply.has_mirror:
                    for need in needs.values():
                        self._supply.fetch(need)
                if self._supply.find(needs[main]) is None and self._may_build(name):
                    self._build_behind(request, name)
            entries = {part: entry for part, need in needs.items() if (entry := self._supply.find(need))}
            if main in entries and self._put(request, Found(backend, entries, components)):
                return
            reason = reason or self._supply.explain(needs[main])
        if (runner := request.runner()) is not None and reason:
            runner.explain(reason)

    def _put(self, request: EngineRequest, found: Found) -> bool:
        """Load what was found and hand it over; whether it could be loaded."""
        runner = request.runner()
        if runner is None:
            return True
        try:
            fast = self._load(request, found)
        except EngineError as error:
            self._report(EngineEvent("run_failed", next(iter(found.entries.values())).name, error.message))
            runner.explain(error.message)
            return False
        runner.put(fast)
        self._report(EngineEvent("swapped", next(iter(found.entries.values())).name, fast.in_force))
        return True

    def _load(self, request: EngineRequest, found: Found) -> Runner:
        calls: dict[str, Call] = {
            part: found.backend.load(entry, self._device) for part, entry in found.entries.items()
        }
        plain = request.frame
        if isinstance(found.backend, CompiledBackend):
            (call,) = calls.values()
            most = next(iter(found.entries.values())).key.inputs[0].most[0]
            return make_runner(EngineFrame(plain, call, most, "compiled"), self._device, graphs=False)  # pyright: ignore[reportArgumentType]
        networks = EngineNetworks(plain.networks, calls, found.backend.name)
        frame = Frame(
            networks,
            slots=plain.slots,
            guidance=plain.guidance,
            prediction=plain.prediction,
            batched=plain.batched,
            compat=plain.compat,
        )
        return make_runner(frame, self._device, graphs=self._graphs)

    def _components(self, request: EngineRequest, name: BackendName) -> dict[str, Component]:
        plain = request.frame.networks
        if not isinstance(plain, EagerNetworks):
            raise EngineError("engines are made of plain networks only")
        one = RowRange(1, 1, 1)
        sizes = ModelSizes(
            request.width, request.height, request.latent_scale, row_ranges(one, request.frame.slots), one
        )
        maker = ComponentMaker(
            plain, sizes, request.loras, Path(request.model).name, digest=self._digest, base=request.base
        )
        if name == "compiled":
            return {"frame": maker.frame(request.frame, request.like, make_memory(request.like))}
        return {"unet": maker.unet(), "encoder": maker.encoder(), "decoder": maker.decoder()}

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

    def _build_behind(self, request: EngineRequest, name: BackendName) -> None:
        """Bake in a process of its own, at low priority: it can neither hold a frame up nor end the worker."""
        runner = request.runner()
        if runner is None or self._closed or request.loras:  # a profile names LoRAs by their files, which are not known
            return
        runner.explain(f"an engine for {name} is being built")
        with tempfile.TemporaryDirectory(prefix="sdstream-bake-") as folder:
            file = Path(folder, "wanted.toml")
            file.write_text(profile_text(request, name, capability_of(self._device)), "utf-8")
            command = [sys.executable, "-m", "builder", "bake", "--polite", "--profile", str(file)]
            command += ["--engines", str(self._engines)]
            try:
                self._build = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
                _, said = self._build.communicate(timeout=BUILD_SECONDS)
            except (OSError, subprocess.TimeoutExpired) as error:
                if self._build is not None:
                    self._build.kill()
                self._report(EngineEvent("build_failed", request.model, str(error)))
                return
            if self._build.returncode != 0:
                last = (said.decode("utf-8", "replace").strip().splitlines() or ["it did not say why"])[-1]
                self._report(EngineEvent("build_failed", request.model, last))
            else:
                self._report(EngineEvent("built", request.model, name))

    def _fail(self, request: EngineRequest, words: str) -> None:
        self._report(EngineEvent("run_failed", request.model, words))
        if (runner := request.runner()) is not None:
            runner.explain(f"no engine is in force: {words}")


def profile_text(request: EngineRequest, name: BackendName, capability: int | None) -> str:
    """A profile for the builder that makes exactly what a request lacks."""
    frame = request.frame
    components = ["frame"] if name == "compiled" else ["unet", "encoder", "decoder"]
    target = [] if name == "compiled" or capability is None else [capability]
    lines = {
        "family": request.family,
        "model": request.model,
        "sizes": [f"{request.width}x{request.height}"],
        "slots": [frame.slots],
        "guidance": [frame.guidance],
        "components": components,
    }
    text = "".join(f"{member} = {toml_value(value)}\n" for member, value in lines.items())
    return f"{text}\n[targets]\n{name} = {toml_value(target)}\n"


def toml_value(value: object) -> str:
    """Text, numbers and lists of them as TOML; JSON's forms of these are TOML's, too."""
    return json.dumps(value)


__all__ = ["BuildPolicy", "EngineFinder", "EngineRequest", "profile_text"]
