"""Plans and bakes a profile: what the cache lacks is made, what is there stays, what broke off is gone on with."""

import gc
import shutil
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import torch

from builder.estimates import Estimate, bake_facts, estimate
from builder.models import LoadedProfile, load_profile
from builder.parking import park
from builder.profiles import Profile
from sdstream.clock import Clock, SystemClock
from sdstream.engine_errors import EngineBackendUnavailable, EngineBuildFailed, EngineError, EngineStoreUnavailable
from sdstream.engines.backend import Backend, Progress
from sdstream.engines.cache import EngineCache
from sdstream.engines.compiled import CompiledBackend
from sdstream.engines.component import Component
from sdstream.engines.entry import Entry
from sdstream.engines.events import EngineEvent, Report, say_nothing
from sdstream.engines.keys import BackendName, EngineKey, capabilities_of, target_of
from sdstream.engines.registry import has_usable_card, make_backend
from sdstream.engines.tidying import collect
from sdstream.platform.memory import peak_memory

LOOK_AGAIN = 2.0
"""Seconds between looks at what another builder is making."""
WAIT_FOR_OTHERS = 3600.0


class BakeStatus(StrEnum):
    """What became of one engine."""

    PRESENT = "present"
    BUILT = "built"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class BakeProgress:
    """Where baking stands. `fraction` of the present engine is 0 to 1, None where it is not known."""

    engine: str
    index: int
    count: int
    detail: str
    fraction: float | None
    seconds: float


Tell = Callable[[BakeProgress], None]


def tell_nobody(progress: BakeProgress) -> None:
    """A `Tell` for callers that show none."""


@dataclass(frozen=True, slots=True)
class BakedEngine:
    """One engine of a profile after baking. `error` has the code and words of why it failed."""

    key: EngineKey
    status: BakeStatus
    seconds: float = 0.0
    size: int = 0
    error: EngineError | None = None
    entry: Entry | None = None
    """Where it is; None for one that failed."""

    @property
    def name(self) -> str:
        return self.key.readable


Keep = Callable[[BakedEngine, Progress], None]
"""Given each engine that is in the cache as soon as it is, and whom to tell what is done with it."""


def keep_here(engine: BakedEngine, progress: Progress) -> None:
    """A `Keep` for callers that leave engines in the cache."""


@dataclass(frozen=True, slots=True)
class BakeOutcome:
    """What a bake did. `engines` are in the order of the profile."""

    profile: str
    engines: tuple[BakedEngine, ...]
    seconds: float

    @property
    def is_complete(self) -> bool:
        """Whether every engine of the profile is in the cache now."""
        return all(engine.status is not BakeStatus.FAILED for engine in self.engines)

    @property
    def failures(self) -> tuple[BakedEngine, ...]:
        return tuple(engine for engine in self.engines if engine.status is BakeStatus.FAILED)

    def as_json(self) -> dict[str, Any]:
        """For jobs and reports."""
        return {
            "profile": self.profile,
            "complete": self.is_complete,
            "seconds": round(self.seconds, 1),
            "engines": [
                {
                    "name": engine.name,
                    "digest": engine.key.digest,
                    "status": str(engine.status),
                    "seconds": round(engine.seconds, 1),
                    "size": engine.size,
                    "error": None if engine.error is None else f"{engine.error.code}: {engine.error.message}",
                }
                for engine in self.engines
            ],
        }


@dataclass(frozen=True, slots=True)
class Wanted:
    """One engine that a profile asks for."""

    component: Component
    key: EngineKey
    entry: Entry | None
    """Where it is, if it is there; its files were not looked into."""
    near: Entry | None = None
    """One that serves instead where only some of the cards matter: of the same network and rows, for more cards."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a profile asks for, and what that takes."""

    profile: Profile
    backend: BackendName
    version: str
    wanted: tuple[Wanted, ...]
    estimate: Estimate

    @property
    def missing(self) -> tuple[Wanted, ...]:
        return tuple(item for item in self.wanted if item.entry is None)


@dataclass(frozen=True, slots=True)
class Bakery:
    """Bakes into one cache. `device` is where TensorRT and CUDA packages are built; TensorRT-RTX needs none."""

    cache: EngineCache
    device: torch.device = field(default_factory=lambda: torch.device("cuda" if has_usable_card() else "cpu"))
    clock: Clock = field(default_factory=SystemClock)
    report: Report = say_nothing
    load: Callable[[Profile, BackendName, torch.device], LoadedProfile] = load_profile
    make: Callable[[BackendName, torch.device], Backend] = make_backend

    def plan(self, profile: Profile, backend: BackendName | None = None) -> list[Plan]:
        """What each back end of the profile needs: keys, what is missing, time, memory, disk. Loads the model.

        Raises `ModelUnavailable`, and `EngineBackendUnavailable` when a back end is not on this machine.
        """
        names: list[BackendName] = [backend] if backend is not None else list(profile.targets)
        plans: list[Plan] = []
        for name in names:
            made = self.make(name, self.device)
            loaded = self.load(profile, name, self.device)
            wanted = tuple(self._want(component, made, profile) for component in loaded.components)
            missing = [(item.component, item.key) for item in wanted if item.entry is None]
            plans.append(Plan(profile, name, made.version, wanted, estimate(missing, name, self.cache)))
        return plans

    def bake(
        self,
        profile: Profile,
        backend: BackendName | None = None,
        *,
        tell: Tell = tell_nobody,
        keep: Keep = keep_here,
        force: bool = False,
    ) -> BakeOutcome:
        """Make what the cache lacks. Raises what `plan` raises, and `EngineStoreUnavailable` when there is too little
        memory or disk, unless `force`. One engine that fails does not keep the others from being made, and from being
        given to `keep`."""
        started = self.clock.monotonic()
        collect(self.cache)
        done: list[BakedEngine] = []
        names: list[BackendName] = [backend] if backend is not None else list(profile.targets)
        made_all = [self.make(name, self.device) for name in names]  # what is not here is said before anything is made
        for made in made_all:
            (plan,) = self.plan(profile, made.name)  # one after the other: each loads the model
            if plan.missing and plan.estimate.problems and not force:
                raise EngineStoreUnavailable(
                    "; ".join(plan.estimate.problems), hint="`plan` says what is needed; --force tries all the same."
                )
            with self._parked(plan) as wanted:
                for engine in self._bake_all(wanted, made, profile, tell, keep, started):
                    done.append(engine)
                    if isinstance(engine.error, EngineStoreUnavailable):
                        return BakeOutcome(profile.name, tuple(done), self.clock.monotonic() - started)
        return BakeOutcome(profile.name, tuple(done), self.clock.monotonic() - started)

    @contextmanager
    def _parked(self, plan: Plan) -> Generator[list[Wanted]]:
        """What a plan wants, the weights in a file where a builder needs the memory: TensorRT's takes several times
        the size of a network, and reads it from the graph's file."""
        wanted = list(plan.wanted)
        if plan.backend == "compiled" or not plan.missing:
            yield wanted
            return
        with self.cache.draft() as folder:
            try:
                weights = park([item.component.module for item in plan.missing], folder / "weights")
            except OSError as error:
                raise EngineStoreUnavailable(f"{folder}: {error.strerror or error}") from error
            gc.collect()
            yield [replace(item, component=replace(item.component, release=weights.forget)) for item in wanted]

    def _bake_all(
        self, wanted: list[Wanted], backend: Backend, profile: Profile, tell: Tell, keep: Keep, started: float
    ) -> Generator[BakedEngine]:
        count = len(wanted)
        for index, item in enumerate(wanted):
            began = self.clock.monotonic()

            def say(detail: str, fraction: float | None, item: Wanted = item, index: int = index) -> None:
                seconds = self.clock.monotonic() - started
                tell(BakeProgress(item.key.readable, index, count, detail, fraction, seconds))

            try:
                engine = self._one(item, backend, profile, say)
            except EngineError as error:
                self.report(EngineEvent("build_failed", item.key.readable, error.message))
                engine = BakedEngine(item.key, BakeStatus.FAILED, self.clock.monotonic() - began, error=error)
            else:
                keep(engine, say)
            yield engine
            gc.collect()

    def _want(self, component: Component, backend: Backend, profile: Profile) -> Wanted:
        if isinstance(backend, CompiledBackend):
            target = backend.target()
        else:
            target = target_of(profile.targets.get(backend.name, ()))
        key = component.key(backend.name, backend.version, target, backend.cuda, backend.options)
        entry = self.cache.peek(key.base, lambda other: other.digest == key.digest)
        cards = capabilities_of(key.target)
        near = self.cache.peek(
            key.base, lambda other: other.inputs == key.inputs and cards < capabilities_of(other.target)
        )
        return Wanted(component, key, entry, near if cards else None)

    def _one(
        self, item: Wanted, backend: Backend, profile: Profile, say: Callable[[str, float | None], None]
    ) -> BakedEngine:
        key, started = item.key, self.clock.monotonic()
        say("looking", None)
        waiting = threading.Event()
        while True:
            there = self.cache.take(key.base, lambda other: other.digest == key.digest)
            if there is not None:
                return BakedEngine(key, BakeStatus.PRESENT, size=there.manifest.size, entry=there)
            lock = self.cache.lock(key)
            if lock.try_acquire():
                break
            if self.clock.monotonic() - started > WAIT_FOR_OTHERS:
                raise EngineStoreUnavailable(f"{key.readable} is being made by {lock.holder()} for too long")
            say(f"{lock.holder()} makes it", None)
            waiting.wait(LOOK_AGAIN)
        try:
            if lock.broke_one:
                self.report(EngineEvent("lock_broken", key.readable, "its builder had died"))
            began, peak_before = self.clock.monotonic(), peak_memory()
            with self._work(key) as work, self.cache.draft() as draft:
                facts = dict(backend.build(item.component, key.target, draft, work, say))
                seconds, peak = self.clock.monotonic() - began, peak_memory()
                own_peak = None if peak == peak_before else peak  # else of what came before
                say("storing", None)
                told = {"profile": profile.name, **facts, **bake_facts(item.component, seconds, own_peak)}
                entry = self.cache.store(draft, key, told)
        except OSError as error:
            raise EngineStoreUnavailable(f"{self.cache.directory}: {error.strerror or error}") from error
        finally:
            lock.release()
        self.report(EngineEvent("built", entry.name, f"{seconds:.0f} s"))
        return BakedEngine(key, BakeStatus.BUILT, seconds, entry.manifest.size, entry=entry)

    @contextmanager
    def _work(self, key: EngineKey) -> Generator[Path]:
        """A directory of one engine, removed when that is built or cannot be; who crashes leaves it."""
        with self.cache.draft(f"work-{key.digest[:32]}") as work:
            try:
                yield work
            except (EngineError, OSError):
                shutil.rmtree(work, ignore_errors=True)
                raise
            shutil.rmtree(work, ignore_errors=True)


__all__ = [
    "BakeOutcome",
    "BakeProgress",
    "BakeStatus",
    "BakedEngine",
    "Bakery",
    "EngineBackendUnavailable",
    "EngineBuildFailed",
    "Keep",
    "Plan",
    "Tell",
    "Wanted",
    "keep_here",
    "tell_nobody",
]
