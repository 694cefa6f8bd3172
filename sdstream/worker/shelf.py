"""The models in memory: each once for all streams that want the same of it."""

import threading
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

import torch

from sdstream.diffusion.models import Model, Progress, load_model
from sdstream.diffusion.sources import find_model, find_taesd
from sdstream.params import ModelTable, StreamParams
from sdstream.settings import Family


@dataclass(frozen=True, slots=True)
class WantedModel:
    """What a stream's params ask of a model: equal ones are served by one `Model`."""

    source: str
    """A directory, a file or a hub id."""
    family: Family

    @classmethod
    def of(cls, params: StreamParams, models: ModelTable | None = None) -> "WantedModel":
        """What `params` ask for; `models` says where weights are, without it they are looked for under the id."""
        entry = None if models is None else models.get(params.model_id)
        return cls(params.model_id if entry is None else entry.source, params.family)


class ModelShelf:
    """Loaded models, each once for all streams. The last one stays when no stream has it, until another is loaded.

    Streams whose params give equal `WantedModel`s get the same `Model` object, and others another one. Threads may
    call at any time; one loads while the others wait.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: WeakValueDictionary[tuple[Path, str], Model] = WeakValueDictionary()
        self._last: Model | None = None

    def get(self, wanted: WantedModel, device: torch.device, progress: Progress) -> Model:
        """The model, loaded where it is not here yet. `progress` may raise to give up.

        Raises `ModelUnavailable`, naming what is missing; what was loaded before stays then.
        """
        directory = find_model(wanted.source)
        key = (directory.resolve(), str(device))
        with self._lock:
            model = self._models.get(key)
            if model is None or model.family != wanted.family:
                self._last = None  # make room first
                taesd = find_taesd(wanted.family)
                model = load_model(directory, wanted.family, device, taesd_elsewhere=taesd, progress=progress)
                self._models[key] = model
            self._last = model
            return model


__all__ = ["ModelShelf", "WantedModel"]
