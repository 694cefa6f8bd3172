"""The worker's engines, set up from the settings: where they are kept, who looks for them, what happened to them."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from sdstream.directories import choose_data_directory, local_engines
from sdstream.engines.cache import EngineCache
from sdstream.engines.events import EngineEvent, EventCounts
from sdstream.engines.mirror import EngineMirror, MirrorAddress
from sdstream.engines.supply import EngineSupply
from sdstream.settings import Settings
from sdstream.worker.annotators.shelf import LookFor
from sdstream.worker.engines.builder_process import BuilderProcess

if TYPE_CHECKING:  # it knows diffusers, which a worker without a model never imports
    from sdstream.worker.engines.finder import EngineFinder

ENGINES = "engines"
GRACE = 1800.0
"""Seconds in which an engine of the volume is not removed after it was used; several times `KEEP_SECONDS`."""


class WorkerEngines:
    """A finder over the local disk, the data directory and the bucket of the settings; counts what happens."""

    def __init__(self, settings: Settings, device: torch.device, say: Callable[[str], None] = print) -> None:
        """`say` is given a line for each fault; the server logs what the worker prints."""
        from sdstream.worker.engines.builds import EngineBuilds
        from sdstream.worker.engines.finder import EngineFinder
        from sdstream.worker.engines.network_finder import NetworkFinder

        self._say = say
        self._counts = EventCounts(self._tell)
        data = choose_data_directory(settings).absolute_path
        volume = data / ENGINES
        local = local_engines(settings)
        limit = int(settings.engine_limit_gigabytes * 1e9)
        most = settings.engine_volume_limit_gigabytes
        shared = None if most is None else int(most * 1e9)
        self.supply = EngineSupply(
            EngineCache(local, limit=limit, report=self._counts),
            EngineCache(volume, limit=shared, grace=GRACE, report=self._counts),
            self._mirror_of(settings),
            self._counts,
        )
        # One for both finders: two builds at once would not fit every machine. It finds the weights that the worker
        # found.
        builder = BuilderProcess({"SDSTREAM_DATA_DIR": str(data)})
        both: dict[str, Any] = {
            "builds": EngineBuilds(settings.engine_builds, volume, device, self._counts, builder),
            # On a CPU two streams take twice as long as one, and an engine for one stream is half again as fast for it
            # as an engine for a range: it is called once for each.
            "streams": 1 if device.type == "cpu" else settings.batch_size,
            "report": self._counts,
        }
        self.finder = EngineFinder(self.supply, device, graphs=settings.cuda_graphs, **both)
        self.networks = NetworkFinder(self.supply, device, **both)

    def close(self) -> None:
        """Look for nothing more, and end what is being built."""
        self.finder.close()
        self.networks.close()

    @property
    def counts(self) -> dict[str, int]:
        """Events since the process began, by kind."""
        return self._counts.counts

    def _mirror_of(self, settings: Settings) -> Callable[[], EngineMirror] | None:
        url = settings.engine_mirror
        if url is None:
            return None

        def make() -> EngineMirror:
            address = MirrorAddress.parse(url, settings.engine_mirror_endpoint, settings.engine_mirror_region)
            return EngineMirror(address, report=self._counts)

        return make

    def _tell(self, event: EngineEvent) -> None:
        if event.kind not in ("hit", "miss"):
            self._say(f"engine {event.kind}: {event.name}: {event.detail}")


_make: Callable[[], WorkerEngines] | None = None
_made: WorkerEngines | None = None
_making = threading.Lock()


def install(make: Callable[[], WorkerEngines] | None) -> None:
    """Have this process's engines set up by `make` when the first stream asks for one; nobody has any without it."""
    global _make, _made
    if _made is not None:
        _made.close()
    _make, _made = make, None


def installed_finder() -> "EngineFinder | None":
    """Who looks for engines in this process; None where nobody does."""
    made = _installed()
    return None if made is None else made.finder


def who_looks_for_networks() -> LookFor | None:
    """Who looks for engines of image processors' networks in this process; None where nobody does."""
    made = _installed()
    return None if made is None else made.networks.look_for


def _installed() -> WorkerEngines | None:
    global _made
    if _made is None and _make is not None:
        with _making:
            _made = _made or _make()
    return _made


def event_counts() -> dict[str, int]:
    """What happened to engines in this process so far, by kind of event."""
    return {} if _made is None else _made.counts


__all__ = ["WorkerEngines", "event_counts", "install", "installed_finder", "who_looks_for_networks"]
