"""What params ask for and this machine cannot give them, known without a worker: files that are not here and are not
fetched, or that no load would take. What weights hold is found out when they are loaded. No torch here.
"""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from sdstream.diffusion.fetching.lora_sources import find_lora
from sdstream.diffusion.fetching.selection import LORA, NETWORK
from sdstream.diffusion.fetching.sources import fetches, find_model, get_files, may_fetch
from sdstream.diffusion.loading.kinds import is_turbo
from sdstream.model_errors import ModelUnavailable
from sdstream.params import ModelTable, StreamParams
from sdstream.params.attainable import ADAPTER, STYLE, active_controlnets
from sdstream.worker.files.loras import LCM_LORAS, LoraFiles
from sdstream.worker.files.presence import model_flaws
from sdstream.worker.files.published import ADAPTERS
from sdstream.worker.ports import MissingPart


def absent_parts(params: StreamParams, table: ModelTable) -> tuple[MissingPart, ...]:
    """The parts of `params` that would be missing, each as a lane would tell it; none that may be fetched. Waits for
    the disk, never for the network."""
    if params.skip_diffusion:
        return ()
    return _Search(params, table).found()


class _Search:
    def __init__(self, params: StreamParams, table: ModelTable) -> None:
        self._params = params
        self._table = table
        self._places = table.places
        self._found: list[MissingPart] = []

    def found(self) -> tuple[MissingPart, ...]:
        self._look_for_model()
        self._look_for_loras()
        self._look_for_controlnets()
        self._look_for_adapter()
        return tuple(self._found)

    def _look_for_model(self) -> None:
        params, places = self._params, self._places
        entry = self._table.find(params.model_id)
        source = getattr(entry, "source", params.model_id)
        if may_fetch(source, places):
            return
        with self._noting("model_id", params.model_id):
            path = find_model(source, places)
            for flaw in model_flaws(path, params.family, places):
                raise flaw.error
            own = path / "lcm_lora" / LORA
            if params.use_lcm_lora and params.family in LCM_LORAS and not is_turbo(path) and not own.is_file():
                with self._noting("use_lcm_lora", LCM_LORAS[params.family]):
                    self._look_for_lora(LCM_LORAS[params.family])

    def _look_for_loras(self) -> None:
        for name, weight in (self._params.lora_dict or {}).items():
            if weight:
                with self._noting("lora_dict", ""):
                    self._look_for_lora(name)

    def _look_for_lora(self, name: str) -> None:
        """Raises `ModelUnavailable` when it is not here and is not fetched, or is no name of one."""
        if self._places.loras is None or not fetches(self._places):
            LoraFiles().get(name, self._places, _tell_nobody)
        elif "://" not in name:
            find_lora(name, self._places)

    def _look_for_controlnets(self) -> None:
        active = active_controlnets(self._params)
        for index, net in enumerate(self._params.controlnets):
            if net in active and not may_fetch(net.source, self._places):
                with self._noting(f"controlnets[{index}]", net.model_id):
                    what = f"the ControlNet {net.source}"
                    get_files(net.source, NETWORK, self._places, _tell_nobody, what, net.source)

    def _look_for_adapter(self) -> None:
        params: Any = self._params
        adapter: Any = getattr(params, ADAPTER, None)
        if adapter is None or not adapter.enabled or adapter.scale <= 0 or getattr(params, STYLE, None) is None:
            return
        files = ADAPTERS.get((params.family, adapter.type))
        for repository, names in () if files is None else files.sources:
            if not may_fetch(repository, self._places):
                with self._noting(ADAPTER, ""):
                    what = f"the IP-Adapter of type {adapter.type}"
                    get_files(repository, names, self._places, _tell_nobody, what, ADAPTER)
                    continue
                return

    @contextmanager
    def _noting(self, place: str, name: str) -> Generator[None]:
        try:
            yield
        except ModelUnavailable as error:
            self._found.append(MissingPart(place, name, error.code, error.message, tries=0))


def _tell_nobody(words: str, percent: float | None) -> None:
    """Nothing is fetched here, so there is no progress."""


__all__ = ["absent_parts"]
