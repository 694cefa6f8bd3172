"""Engines for the networks of image processors that run already: looked for, fetched and built on a thread beside them.

As `engine_finder` does it for streams' frames: the local disk and the volume, the bucket, a build where the settings
allow one. What was found takes the place of the part's plain twin between two pictures.
"""

import json
import queue
import threading
from collections.abc import Callable
from pathlib import Path
from weakref import WeakKeyDictionary

import torch
from torch import nn

from sdstream.engines.backend import Backend
from sdstream.engines.compiled import CompiledBackend
from sdstream.engines.component import Component, RowRange
from sdstream.engines.entry import Entry
from sdstream.engines.events import EngineEvent, Report, say_nothing
from sdstream.engines.kernels import compile_now
from sdstream.engines.keys import PORTABLE, BackendName
from sdstream.engines.registry import backends_for, capability_of, make_backend
from sdstream.engines.supply import EngineSupply, Need
from sdstream.engines.weights import digest_of_weights
from sdstream.errors import EngineError, SdstreamError
from sdstream.worker.annotators.answers import PartRequest
from sdstream.worker.annotators.components import PROCESSORS, part_component
from sdstream.worker.builder_process import BuilderProcess
from sdstream.worker.engine_builds import BuildPolicy
from sdstream.worker.engine_use import KEEP_SECONDS, EnginesInUse

MOST_WAITING = 64
"""Requests that wait; a further one is told that its part stays on the plain twin."""


class NetworkFinder:
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
        report: Report = say_nothing,
        make: Callable[[BackendName, torch.device], Backend] = make_backend,
        names: Callable[[torch.device], tuple[BackendName, ...]] = backends_for,
    ) -> None:
        """`engines` is the directory that builds go to; without one nothing is built. What is built takes the pictures
        of `streams` in one call."""
        self._supply = supply
        self._device = device
        self._builds = builds
        self._engines = engines
        self._streams = streams
        self._builder = builder or BuilderProcess()
        self._report = report
        self._make = make
        self._names = names
        self._waiting: queue.Queue[PartRequest | None] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._closed = False
        self._use = EnginesInUse(supply)
        self._digests: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()

    def look_for(self, request: PartRequest) -> None:
        """Serve a request as soon as those before it are. Never waits. For one thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="network-engines", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(request)
        except queue.Full:
            _explain(request, "too many kinds of networks wait for engines, so this one runs without")

    def close(self) -> None:
        """Take no more requests, and end what is under way as soon as it can be."""
        self._closed = True
        self._builder.close()
        if self._thread is not None:
            try:
                self._waiting.put_nowait(None)
            except queue.Full:
                return  # the thread sees `_closed` before its next request
            self._thread.join(10)

    def _run(self) -> None:
        while not self._closed:
            try:
                request = self._waiting.get(timeout=KEEP_SECONDS)
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

    def _serve(self, request: PartRequest) -> None:
        reason = ""
        for name in self._names(self._device):
            backend = self._make(name, self._device)
            need = self._need(self._component(request), backend)
            found = self._find(need)
            if found is not None and self._put(request, found, backend):
                return
            failure = self._build_behind(request, name) if found is None and self._may_build else ""
            if failure is None:
                found = self._find(need)
                if found is not None and self._put(request, found, backend):
                    return
            reason = reason or failure or ("" if found is not None else self._supply.explain(need))
        if reason:
            _explain(request, reason)

    def _component(self, request: PartRequest) -> Component:
        return part_component(
            request.part, request.shapes, RowRange(1, 1, self._streams), request.network, self._digest
        )

    def _need(self, component: Component, backend: Backend) -> Need:
        capability = None if isinstance(backend, CompiledBackend) else capability_of(self._device)
        target = backend.target() if isinstance(backend, CompiledBackend) else PORTABLE
        key = component.key(backend.name, backend.version, target, backend.cuda, backend.options)
        return Need(key, capability, rows=1, most=self._streams)

    def _find(self, need: Need) -> Entry | None:
        entry = self._supply.find(need)
        return self._supply.fetch(need) if entry is None and self._supply.has_mirror else entry

    def _put(self, request: PartRequest, entry: Entry, backend: Backend) -> bool:
        """Load what was found and hand it over; whether it could be loaded."""
        seat = request.seat()
        if seat is None:
            return True
        try:
            runner = backend.load(entry, self._device)
            compile_now(runner, range(1, self._streams + 1))
            self._supply.share_kernels(entry)
        except EngineError as error:
            self._report(EngineEvent("run_failed", entry.name, error.message))
            seat.explain(error.message)
            return False
        seat.put(runner, entry.key.most_rows, backend.name)
        self._use.add(request.seat, [entry.key])
        self._report(EngineEvent("swapped", entry.name, backend.name))
        return True

    @property
    def _may_build(self) -> bool:
        if self._engines is None or self._builds == "never":
            return False
        # On a CPU a build takes the cores that make the pictures, so only who asks for it gets it.
        return self._builds == "always" or self._device.type == "cuda"

    def _build_behind(self, request: PartRequest, name: BackendName) -> str | None:
        """Bake in a process of its own. None when it is done, else why not, empty when there is nothing to say."""
        if request.seat() is None or self._closed or self._engines is None:
            return ""
        _explain(request, f"an engine for {name} is being built")
        text = profile_text(request, name, capability_of(self._device), self._streams)
        failure = self._builder.bake(text, self._engines)
        if not failure:
            self._report(EngineEvent("built", request.network, name))
            return None
        if not self._closed:  # else it was ended, which is no failure
            self._report(EngineEvent("build_failed", request.network, failure))
        return f"an engine for {name} could not be built: {failure}"

    def _digest(self, module: nn.Module) -> str:
        known = self._digests.get(module)
        if known is None:
            known = self._digests[module] = digest_of_weights(module)
        return known

    def _fail(self, request: PartRequest, words: str) -> None:
        self._report(EngineEvent("run_failed", request.network, words))
        _explain(request, f"no engine is in force: {words}")


def _explain(request: PartRequest, words: str) -> None:
    if (seat := request.seat()) is not None:
        seat.explain(words)


def profile_text(request: PartRequest, name: BackendName, capability: int | None, streams: int) -> str:
    """A profile for the builder that makes the engine, and those of the network's other parts.

    The size of what goes into the part stands for that of pictures: those of this size are looked at as they are.
    """
    processor = next(processor for processor, network in PROCESSORS.items() if network == request.network)
    _, height, width = _picture(request)
    target = [] if name == "compiled" or capability is None else [capability]
    return (
        f"processors = {json.dumps([processor])}\n"
        f"sizes = {json.dumps([f'{width}x{height}'])}\n"
        f"streams = {{ best = 1, most = {streams} }}\n"
        f"\n[targets]\n{name} = {json.dumps(target)}\n"
    )


def _picture(request: PartRequest) -> tuple[int, ...]:
    """The shape of a picture that leads to a part being asked as in `request`; any, where all do."""
    (first, *_) = request.shapes
    return first if request.part.sized else (3, 512, 512)


__all__ = ["NetworkFinder", "profile_text"]
