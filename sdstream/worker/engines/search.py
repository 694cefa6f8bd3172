"""Who looks for engines: on a thread beside the pictures, request by request, for something that runs already.

A request is served in this order: engines on the local disk or the volume, those of the bucket, some that are built
here if the settings allow it. What was found takes the place of the plain twin between two pictures; where there is
nothing, the holder of the request is told why. `engine_finder` does so for the frames of streams, `network_finder` for
image processors.
"""

import queue
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import nn

from sdstream.engine_errors import EngineError
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
from sdstream.errors import SdstreamError
from sdstream.worker.engines.builds import EngineBuilds
from sdstream.worker.engines.use import KEEP_SECONDS, EnginesInUse

MOST_WAITING = 64
"""Requests that wait; of a further one the holder is told that it stays on the plain twin."""

Parts = dict[str, Component]
"""What is compiled for a request, by its place; the first is what counts most."""


class Holder(Protocol):
    """What runs on the plain twin, and on engines once they are put in."""

    def explain(self, words: str) -> None:
        """Say why nothing faster is in force. May be called on any thread."""
        ...


class Request(Protocol):
    """Somebody wants engines."""

    @property
    def subject(self) -> str:
        """Of what, for people."""
        ...

    @property
    def holder(self) -> Callable[[], Holder | None]:
        """Weak: what ended meanwhile needs no engine."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """Engines of one back end that serve a request; of some `parts` there may be none."""

    backend: Backend
    entries: dict[str, Entry]
    parts: Parts


Wanted = TypeVar("Wanted", bound=Request)


class EngineSearch(ABC, Generic[Wanted]):
    """One thread that serves requests one after the other. `close` ends it; a build under way is ended, too."""

    def __init__(
        self,
        supply: EngineSupply,
        device: torch.device,
        *,
        builds: EngineBuilds | None = None,
        streams: int = 1,
        keep_seconds: float = KEEP_SECONDS,
        report: Report = say_nothing,
        make: Callable[[BackendName, torch.device], Backend] = make_backend,
        names: Callable[[torch.device], tuple[BackendName, ...]] = backends_for,
    ) -> None:
        """Without `builds` nothing is built. `streams` are the most that ride in one call: what is built takes as many,
        and of several engines one that does is preferred."""
        self._supply = supply
        self._device = device
        self._builds = builds or EngineBuilds("never", None, device, report)
        self.streams = streams
        self._keep_seconds = keep_seconds
        self._report = report
        self._make = make
        self._names = names
        self._waiting: queue.Queue[Wanted | None] = queue.Queue(MOST_WAITING)
        self._thread: threading.Thread | None = None
        self._closed = False
        self._use = EnginesInUse(supply)
        self._digests: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()

    def look_for(self, request: Wanted) -> None:
        """Serve a request as soon as those before it are. Never waits. For one thread."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="engines", daemon=True)
            self._thread.start()
        try:
            self._waiting.put_nowait(request)
        except queue.Full:
            _explain(request, "too many others wait for engines, so this runs without")

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

    @abstractmethod
    def _choices(self, request: Wanted, name: BackendName) -> list[Parts]:
        """What may be compiled for a request, the best first."""

    @abstractmethod
    def _rows(self, request: Wanted, part: str) -> int:
        """The rows that one stream has in a call of a part."""

    @abstractmethod
    def _profile(self, request: Wanted, name: BackendName, parts: Parts) -> str | None:
        """A profile for the builder that makes `parts`; None where that cannot be said."""

    @abstractmethod
    def _swap(self, request: Wanted, holder: Any, found: Found) -> str:
        """Load what was found and put it into the request's holder; what is in force then. Raises `EngineError`."""

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
            del request  # what it holds goes with it, and not with the next

    def _serve(self, request: Wanted) -> None:
        reason = ""
        for name in self._names(self._device):
            backend = self._make(name, self._device)
            possible = self._choices(request, name)
            failure: str | None = None  # until something was found that did not work, or could not be built
            for parts in possible:
                if (found := self._find(request, parts, backend)) is not None:
                    failure = self._put(request, found)
                    if failure is None:
                        return
            if failure is None:
                failure = self._build(request, name, possible[0])
                if failure is None and (found := self._find(request, possible[0], backend)) is not None:
                    failure = self._put(request, found)
                    if failure is None:
                        return
            part, component = next(iter(possible[0].items()))
            reason = reason or failure or self._supply.explain(self._need(request, part, component, backend))
        if reason:
            _explain(request, reason)

    def _find(self, request: Wanted, parts: Parts, backend: Backend) -> Found | None:
        """The engines of `parts`; None without that of the first, for the others alone are of little use."""
        entries: dict[str, Entry] = {}
        for part, component in parts.items():
            need = self._need(request, part, component, backend)
            entry = self._supply.find(need)
            if entry is None and self._supply.has_mirror:
                entry = self._supply.fetch(need)
            if entry is not None:
                entries[part] = entry
            elif not entries:
                return None
        return Found(backend, entries, parts)

    def _need(self, request: Wanted, part: str, component: Component, backend: Backend) -> Need:
        capability = None if isinstance(backend, CompiledBackend) else capability_of(self._device)
        target = backend.target() if isinstance(backend, CompiledBackend) else PORTABLE
        key = component.key(backend.name, backend.version, target, backend.cuda, backend.options)
        rows = self._rows(request, part)
        return Need(key, capability, rows, self.streams * rows)

    def _build(self, request: Wanted, name: BackendName, parts: Parts) -> str | None:
        """Build what is not here. None when it is done, else why not, empty when there is nothing to say."""
        if not self._builds.are_wanted or request.holder() is None:
            return ""
        profile = self._profile(request, name, parts)
        if profile is None:
            return ""
        _explain(request, f"an engine for {name} is being built")
        return self._builds.build(request.subject, name, profile)

    def _put(self, request: Wanted, found: Found) -> str | None:
        """Load what was found and hand it over; None when it is in force or nobody needs it any more, else why not."""
        holder = request.holder()
        if holder is None:
            return None
        name = next(iter(found.entries.values())).name
        try:
            in_force = self._swap(request, holder, found)
        except EngineError as error:
            self._report(EngineEvent("run_failed", name, error.message))
            return error.message
        self._use.add(request.holder, [entry.key for entry in found.entries.values()])
        self._report(EngineEvent("swapped", name, in_force))
        return None

    def _load(self, backend: Backend, entry: Entry, rows: Iterable[int]) -> Any:
        """An engine that has nothing left to compile for calls of `rows` rows. Raises `EngineError`."""
        runner = backend.load(entry, self._device)
        compile_now(runner, rows)
        self._supply.share_kernels(entry)
        return runner

    def _digest(self, module: nn.Module) -> str:
        """Of weights that never change while the module lives, so it is taken once. Those of LoRAs do, in place, and
        are never asked for: a UNet with some is named by its base."""
        known = self._digests.get(module)
        if known is None:
            known = self._digests[module] = digest_of_weights(module)
        return known

    def _fail(self, request: Wanted, words: str) -> None:
        self._report(EngineEvent("run_failed", request.subject, words))
        _explain(request, f"no engine is in force: {words}")


def _explain(request: Request, words: str) -> None:
    if (holder := request.holder()) is not None:
        holder.explain(words)


__all__ = ["EngineSearch", "Found", "Holder", "Parts", "Request"]
