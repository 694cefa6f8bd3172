"""Where a worker gets its engines: from the local disk, the volume, the bucket. Nothing here stops a stream."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from sdstream.engine_errors import EngineStoreUnavailable
from sdstream.engines.cache import EngineCache
from sdstream.engines.entry import Accepts, Entry
from sdstream.engines.events import EngineEvent, Report, say_nothing
from sdstream.engines.kernels import share_kernels
from sdstream.engines.keys import EngineKey
from sdstream.engines.mirror import EngineMirror, RemoteEngine
from sdstream.engines.targets import bake_command, capability_text, takes_capability
from sdstream.engines.tidying import collect, evict
from sdstream.errors import SdstreamError

Found = TypeVar("Found")


@dataclass(frozen=True, slots=True)
class Need:
    """An engine that somebody needs: `key` with any target and range, of which `capability` and `rows` say what counts.

    `capability` is None where the key's own target counts, as on a CPU. `key.target` is of no other account.
    """

    key: EngineKey
    capability: int | None
    rows: int
    """Of one stream: an engine that takes fewer serves nobody."""
    most: int = 0
    """Of as many streams as may ride in one call: an engine that takes them is better than one that does not."""

    def accepts(self, key: EngineKey) -> bool:
        """Whether an engine of the same base serves."""
        fits = (
            key.target == self.key.target if self.capability is None else takes_capability(key.target, self.capability)
        )
        return fits and key.takes_rows(self.rows)

    def suits(self, key: EngineKey) -> bool:
        """Whether it serves in one call however many streams ride together."""
        return self.accepts(key) and key.most_rows >= self.most

    @property
    def choices(self) -> tuple[Accepts, ...]:
        """What to look for, the best first."""
        return (self.suits, self.accepts)


class EngineSupply:
    """Three places, each asked only when those before had nothing. Threads may share one.

    Whatever is wrong with a place is reported and means that it has nothing.
    """

    def __init__(
        self,
        local: EngineCache,
        volume: EngineCache | None = None,
        mirror: Callable[[], EngineMirror] | None = None,
        report: Report = say_nothing,
    ) -> None:
        """`mirror` is made when it is first needed, since boto3 takes a while to import."""
        self._local = local
        self._volume = volume
        self._make_mirror = mirror
        self._mirror: EngineMirror | None = None
        self._report = report

    @property
    def has_mirror(self) -> bool:
        return self._make_mirror is not None

    def find(self, need: Need) -> Entry | None:
        """An engine on this machine, looked into, on the local disk where there is room for it."""
        found = next(filter(None, (self._find(need.key.base, accepts) for accepts in need.choices)), None)
        if found is not None:
            self._share_kernels(found, bring=True)
        kind = "hit" if found is not None else "miss"
        self._report(EngineEvent(kind, need.key.readable))
        return found

    def fetch(self, need: Need) -> Entry | None:
        """An engine from the bucket, kept on the volume for other workers and on the local disk for this one."""
        return self._try(lambda: self._fetch(need))

    def keep(self, keys: Iterable[EngineKey]) -> None:
        """Note that engines are in use, so that nobody who makes room takes them."""
        for key in keys:
            for cache in self.caches:
                cache.touch(key)

    def share_kernels(self, entry: Entry) -> None:
        """Keep what the driver compiled of an engine on the volume, where the next worker with such a card finds it."""
        self._share_kernels(entry, bring=False)

    def tidy(self) -> None:
        """Have the volume within its limit, and without what dead processes left in it."""
        if self._volume is not None:
            volume = self._volume
            self._try(lambda: evict(volume))
            self._try(lambda: collect(volume))

    @property
    def caches(self) -> list[EngineCache]:
        """Those of the local disk and of the volume, if there is one."""
        return [self._local] if self._volume is None else [self._local, self._volume]

    def explain(self, need: Need, profile: str | None = None) -> str:
        """Why there is none: one for another card or version is named, with the command that bakes the right one."""
        command = bake_command(profile, need.key.backend, need.capability)
        for cache in self.caches:
            for entry in self._try(cache.entries) or []:
                words = difference(entry.key, need)
                if words:
                    self._report(EngineEvent("mismatch", entry.name, words))
                    return f"{entry.name} {words}; `{command}`"
        return f"no engine of {need.key.name} {need.key.component} for {need.key.backend} is here; `{command}`"

    def _find(self, base: str, accepts: Accepts) -> Entry | None:
        found = self._try(lambda: self._local.take(base, accepts))
        return self._from_volume(base, accepts) if found is None and self._volume is not None else found

    def _share_kernels(self, entry: Entry, *, bring: bool) -> None:
        volume, key = self._volume, entry.key
        if volume is None or entry.folder.is_relative_to(volume.directory):
            return
        there = self._try(lambda: volume.peek(key.base, lambda other: other.digest == key.digest))
        if there is None:
            return
        if bring:
            share_kernels(there.runtime_folder, entry.runtime_folder, replace=False)
        else:
            share_kernels(entry.runtime_folder, there.runtime_folder, replace=True)

    def _from_volume(self, base: str, accepts: Accepts) -> Entry | None:
        volume = self._volume
        assert volume is not None
        seen = self._try(lambda: volume.peek(base, accepts))
        if seen is None:
            return None
        try:
            return self._local.copy_from(volume, seen)
        except EngineStoreUnavailable:  # reported already; a full local disk is no reason to go without
            return self._try(lambda: volume.take(base, accepts))

    def _fetch(self, need: Need) -> Entry | None:
        if self._make_mirror is None:
            return None
        if self._mirror is None:
            self._mirror = self._make_mirror()
        for accepts in need.choices:
            engine = self._mirror.find(need.key.base, accepts)
            if engine is not None:
                return self._pull(engine, self._mirror, accepts)
        return None

    def _pull(self, engine: RemoteEngine, mirror: EngineMirror, accepts: Accepts) -> Entry | None:
        if self._volume is not None:
            try:
                mirror.pull(engine, self._volume)
            except EngineStoreUnavailable:
                return mirror.pull(engine, self._local)
            return self._from_volume(engine.base, accepts)
        return mirror.pull(engine, self._local)

    def _try(self, ask: Callable[[], Found | None]) -> Found | None:
        try:
            return ask()
        except SdstreamError as error:  # boto3 that is not installed is no error of an engine
            self._report(EngineEvent("store_unavailable", "", error.message))
        except OSError as error:
            self._report(EngineEvent("store_unavailable", "", str(error)))
        return None


def difference(key: EngineKey, need: Need) -> str:
    """Why an engine of the same network does not serve, in words; empty when it is of another network, or serves."""
    wanted = need.key
    same = (key.weights, key.component, key.backend, key.dtype) == (
        wanted.weights,
        wanted.component,
        wanted.backend,
        wanted.dtype,
    )
    if not same or (key.base == wanted.base and need.accepts(key)):
        return ""
    if key.backend_version != wanted.backend_version:
        return f"is of {key.backend} {key.backend_version}, and here is {wanted.backend_version}"
    if need.capability is not None and not takes_capability(key.target, need.capability):
        return f"is for {key.target}, and this card is SM {capability_text(need.capability)}"
    if need.capability is None and key.target != wanted.target:
        return f"is for {key.target}, and this machine is {wanted.target}"
    shapes = [entry.best[1:] for entry in key.inputs], [entry.best[1:] for entry in wanted.inputs]
    if shapes[0] != shapes[1]:
        return "is for another size"
    if not key.takes_rows(need.rows):
        return f"takes up to {key.inputs[0].most[0]} rows, and {need.rows} are needed"
    return "was made otherwise"


__all__ = ["EngineSupply", "Need", "difference"]
