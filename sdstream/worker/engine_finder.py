"""Engines for streams that run already: looked for, fetched and built on a thread beside them, put in when ready.

A group of streams starts on the plain twin. Its request is served in this order: an engine on the local disk or the
volume, one from the bucket, one that is built here if the settings allow it. What was found takes the place of the
plain twin between two frames.
"""

import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from sdstream.diffusion.engine_networks import EngineControls, EngineFrame, EngineNetworks, LoadedEngine
from sdstream.diffusion.frame import Frame
from sdstream.diffusion.runners import Runner, bucket, make_runner
from sdstream.engines.backend import Backend
from sdstream.engines.compiled import CompiledBackend
from sdstream.engines.component import Component
from sdstream.engines.entry import Entry
from sdstream.engines.events import EngineEvent, Report, say_nothing
from sdstream.engines.kernels import compile_now
from sdstream.engines.keys import PORTABLE, BackendName
from sdstream.engines.registry import backends_for, capability_of, make_backend
from sdstream.engines.supply import EngineSupply, Need
from sdstream.engines.weights import digest_of_weights
from sdstream.errors import EngineError, SdstreamError
from sdstream.worker.builder_process import BuilderProcess
from sdstream.worker.engine_builds import BuildPolicy, EngineBuilds
from sdstream.worker.engine_requests import CONTROLNET, FRAME, EngineRequest, Parts, choices, rows_of
from sdstream.worker.engine_use import KEEP_SECONDS, EnginesInUse

MOST_WAITING = 64
"""Requests that wait; a further one is told that its streams stay on the plain twin."""


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
        streams: int = 1,
        builder: BuilderProcess | None = None,
        graphs: bool = True,
        keep_seconds: float = KEEP_SECONDS,
        report: Report = say_nothing,
        make: Callable[[BackendName, torch.device], Backend] = make_backend,
        names: Callable[[torch.device], tuple[BackendName, ...]] = backends_for,
    ) -> None:
        """`engines` is the directory that builds go to; without one nothing is built. `streams` are the most that ride
        in one call: what is built takes as many, and of several engines one that does is preferred."""
        self._supply = supply
        self._device = device
        self.streams = streams
        self._builds = EngineBuilds(builds, engines, streams, device, report, builder or BuilderProcess())
        self._graphs = graphs
        self._keep_seconds = keep_seconds
        self._report = report
        self._make = make
        self._names = names
        self._waiting: queue.Queue[EngineRequest | None] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._closed = False
        self._use = EnginesInUse(supply)
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
        self._builds.close()
        if self._thread is not None:
            try:
                self._waiting.put_nowait(None)
            except queue.Full:
                return  # the thread sees `_closed` before its next request
            self._thread.join(10)

    def _run(self) -> None:
        while not self._closed:
            try:
                request = self._waiting.get(timeout=self._keep_seconds)
            except queue.Empty:
                self._use.note()
                continue
            if request is None:
                return
            try:
                self._serve(request)
            except SdstreamError as error:
                self._fail(request, error.message)
            except Exception as error:  # noqa: BLE001 - supervises the requests: one that raises fails alone, by name
                self._fail(request, f"{type(error).__name__}: {error}")
            self._use.note()
            self._supply.tidy()
            del request  # what a stream holds goes with it, and not with the next

    def _serve(self, request: EngineRequest) -> None:
        reason = ""
        for name in self._names(self._device):
            backend = self._make(name, self._device)
            possible = self._choices(request, name)
            for parts in possible:
                found = self._find(request, parts, backend)
                if found is not None and self._put(request, found):
                    return
            failure = self._builds.build(request, name, possible[0]) if self._builds.are_wanted else ""
            if failure is None:
                found = self._find(request, possible[0], backend)
                if found is not None and self._put(request, found):
                    return
            part, first = next(iter(possible[0].items()))
            reason = reason or failure or self._supply.explain(self._need(request, part, first, backend))
        if (runner := request.runner()) is not None and reason:
            runner.explain(reason)

    def _find(self, request: EngineRequest, parts: Parts, backend: Backend) -> Found | None:
        """The engines of `parts`; None without that of the first, for the others alone are of little use."""
        needs = {part: self._need(request, part, component, backend) for part, component in parts.items()}
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
        runner.put(fast, *self._notes_of(request, found))
        self._use.add(request.runner, [entry.key for entry in found.entries.values()])
        self._report(EngineEvent("swapped", name, fast.in_force))
        return True

    def _notes_of(self, request: EngineRequest, found: Found) -> list[str]:
        """What engines that were found do not do."""
        notes: list[str] = []
        lacking = ", ".join(part for part in found.parts if part not in found.entries)
        if lacking:
            notes.append(f"no engine of {lacking} is here, so torch runs it")
        if not self._divides:
            streams = {part: entry.key.most_rows // rows_of(request, part) for part, entry in found.entries.items()}
            few = [f"{part} {count}" for part, count in streams.items() if count < self.streams]
            if few:
                notes.append(
                    f"engines take fewer streams in one call than the {self.streams} of SDSTREAM_BATCH_SIZE "
                    f"({', '.join(few)}); torch runs fuller calls"
                )
        return notes

    @property
    def _divides(self) -> bool:
        """Whether engines are called several times for more rows than they take."""
        return self._device.type == "cpu"

    def _load(self, request: EngineRequest, found: Found) -> Runner:
        engines: dict[str, LoadedEngine] = {}
        for part, entry in found.entries.items():
            call = found.backend.load(entry, self._device)
            compile_now(call, [streams * rows_of(request, part) for streams in self._call_sizes])
            self._supply.share_kernels(entry)
            engines[part] = LoadedEngine(call, entry.key.most_rows, self._divides)
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

    @property
    def _call_sizes(self) -> set[int]:
        """How many streams frames are made for at once: captured ones for one of a few numbers."""
        counts = range(1, self.streams + 1)
        return {bucket(count) for count in counts} if self._graphs else set(counts)

    def _choices(self, request: EngineRequest, name: BackendName) -> list[Parts]:
        return choices(request, name, self.streams, self._digest)

    def _digest(self, module: nn.Module) -> str:
        """Of weights that never change while the module lives, so it is taken once. Those of LoRAs do, in place, and
        are never asked for: a UNet with some is named by its base."""
        known = self._digests.get(module)
        if known is None:
            known = self._digests[module] = digest_of_weights(module)
        return known

    def _need(self, request: EngineRequest, part: str, component: Component, backend: Backend) -> Need:
        capability = None if isinstance(backend, CompiledBackend) else capability_of(self._device)
        target = backend.target() if isinstance(backend, CompiledBackend) else PORTABLE
        key = component.key(backend.name, backend.version, target, backend.cuda, backend.options)
        rows = rows_of(request, part)
        return Need(key, capability, rows, self.streams * rows)

    def _fail(self, request: EngineRequest, words: str) -> None:
        self._report(EngineEvent("run_failed", request.model, words))
        if (runner := request.runner()) is not None:
            runner.explain(f"no engine is in force: {words}")


def _of_nets(engines: Mapping[str, LoadedEngine]) -> dict[int, LoadedEngine]:
    """Those of ControlNets, by the place of the net."""
    return {
        int(part.removeprefix(CONTROLNET)): engine for part, engine in engines.items() if part.startswith(CONTROLNET)
    }


__all__ = ["EngineFinder", "EngineRequest"]
