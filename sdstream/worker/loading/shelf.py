"""The models in memory: each once for all streams that want the same of it, LoRAs included."""

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple
from weakref import WeakKeyDictionary, WeakSet, WeakValueDictionary

import torch

from sdstream.diffusion.fetching.selection import INDEX, LORA, RemoteFile
from sdstream.diffusion.fetching.sources import ModelFiles, get_model, get_tokenizer
from sdstream.diffusion.fusing import WeightedLoras, can_refit, check_loras, fused, networks_of, refit, refitted_prompts
from sdstream.diffusion.loading.kinds import is_turbo
from sdstream.diffusion.loading.models import Model, Progress, default_dtype, load_model
from sdstream.diffusion.loading.weighing import listed_bytes
from sdstream.diffusion.lora import Lora, read_lora
from sdstream.directories import ModelPlaces
from sdstream.model_errors import LoraUnusable, ModelUnavailable
from sdstream.params import ModelTable, StreamParams
from sdstream.params.attainable import LCM, lora_part
from sdstream.settings import Family
from sdstream.worker.blame import blaming
from sdstream.worker.devices import memory_report
from sdstream.worker.files.loras import LCM_LORAS, LoraFiles, shown
from sdstream.worker.loading.room import MemoryReport, most_room, refuse_what_cannot_fit

Key = tuple[object, ...]
WEIGHTS = "*.safetensors"


@dataclass(frozen=True, slots=True)
class WantedModel:
    """What a stream's params ask of a model: equal ones are served by one `Model`."""

    source: str
    """A directory, a file or a hub id."""
    family: Family
    loras: tuple[tuple[str, float], ...] = ()
    """Names and weights, sorted, none of them 0."""
    lcm: bool = False
    """With the LCM LoRA of its family, where the model is not one of the turbo ones."""
    places: ModelPlaces = field(default_factory=ModelPlaces)

    @classmethod
    def of(cls, params: StreamParams, models: ModelTable | None = None) -> "WantedModel":
        """What `params` ask for; `models` says where weights are, without it they are looked for under the id."""
        entry = None if models is None else models.get(params.model_id)
        return cls(
            params.model_id if entry is None else entry.source,
            params.family,
            tuple(sorted((name, weight) for name, weight in (params.lora_dict or {}).items() if weight)),
            params.use_lcm_lora and params.family in LCM_LORAS,
            ModelPlaces() if models is None else models.places,
        )

    def turned(self, params: StreamParams) -> "WantedModel":
        """The same model with the LoRAs of `params`, which name the same `model_id`."""
        own = WantedModel.of(params)
        return replace(self, loras=own.loras, lcm=own.lcm)


class ModelUse:
    """One use of a model, from when it is given out until `ModelShelf.leave`, or until nobody holds this any more."""

    __slots__ = ("__weakref__",)


@dataclass(frozen=True, slots=True)
class Refit:
    """Other LoRAs for a model, ready to be written into its storages. Nothing was changed yet."""

    preview: Model
    """What to plan with: the model as it is, with the prompts that it will have."""
    claim: Callable[[], bool]
    """Keep the model from whoever comes now; False when it has another user already. From any thread."""
    write: Callable[[], Model]
    """After `claim`, between two pictures: takes about as long as one, and gives the model to use from then on."""
    give_back: Callable[[], None]
    """After `claim`, if it is not written after all: the model is there for others again. From any thread."""


class _LoraFile(NamedTuple):
    name: str
    path: Path
    weight: float
    part: str
    """That of the params which asks for it."""


@dataclass(frozen=True, slots=True)
class _Files:
    """All files of a wanted model, on this machine."""

    model: ModelFiles
    tokenizer: Path | None
    loras: tuple[_LoraFile, ...]

    def base_key(self, device: torch.device) -> Key:
        taesd = None if self.model.taesd is None else _stamp(self.model.taesd, "config.json")
        return (_stamp(self.model.path), taesd, str(device))

    def key(self, device: torch.device) -> Key:
        return (*self.base_key(device), tuple((_stamp(lora.path), lora.weight) for lora in self.loras))


class ModelShelf:
    """Loaded models, each once for all streams. The last one stays when no stream has it, until another is loaded.

    Streams whose params ask for the same files, LoRAs and weights get the same `Model` object, and others another one
    that shares what no LoRA changes. Threads may call at any time: what is loaded is given out while others fetch or
    load, and one loads at a time.
    """

    def __init__(
        self, lora_files: LoraFiles | None = None, memory: Callable[[torch.device], MemoryReport] = memory_report
    ) -> None:
        self._lora_files = lora_files or LoraFiles()
        self._memory = memory
        self._look = threading.Lock()
        self._load = threading.Lock()
        self._models: WeakValueDictionary[Key, Model] = WeakValueDictionary()
        self._keys: WeakKeyDictionary[Model, Key] = WeakKeyDictionary()
        self._users: WeakKeyDictionary[Model, WeakSet[ModelUse]] = WeakKeyDictionary()
        self._wanted: WeakKeyDictionary[Model, tuple[WantedModel, str]] = WeakKeyDictionary()
        """What a model was given out as last, and the device that it is on."""
        self._claims: WeakKeyDictionary[Model, set[object]] = WeakKeyDictionary()
        """Who may write into a model: it is nobody else's until all have given that back."""
        self._last: Model | None = None

    def get(self, wanted: WantedModel, device: torch.device, progress: Progress, use: ModelUse | None = None) -> Model:
        """The model, fetched and loaded where it is not here yet. `progress` may raise to give up.

        Who gives no `use` must not let streams with one have the model: it may be changed under them.

        What streams have in use is given out even when its files have vanished or cannot be had again: nothing is read
        of them then. Raises `ModelUnavailable` of the kind that fits, naming what is missing, and before any weights
        are fetched or read `OutOfMemory` where they cannot fit the device; what was loaded before stays then.
        """
        try:
            files = self._find_files(wanted, device, progress)
            key = files.key(device)
        except ModelUnavailable:
            used = self._used(wanted, device, use)
            if used is None:
                raise
            return used
        model = self._get(files, key, wanted, device, progress, use)
        with self._look:
            self._wanted[model] = (wanted, str(device))
        return model

    def _get(
        self,
        files: _Files,
        key: Key,
        wanted: WantedModel,
        device: torch.device,
        progress: Progress,
        use: ModelUse | None,
    ) -> Model:
        known = self._known(key, use)
        if known is not None and known.family == wanted.family:
            return known
        with self._load:
            base = self._base(files, wanted, device, progress, None if files.loras else use)
            if not files.loras:
                return base
            model = self._known(key, use)
            if model is None:
                loras = _read_loras(base, files, progress)
                progress("fusing the LoRAs", None)
                model = fused(base, loras)
            return self._keep(key, model, use)

    @property
    def count(self) -> int:
        """How many models are in memory, each that differs from its base by LoRAs beside it."""
        with self._look:
            return len(self._models)

    def leave(self, use: ModelUse) -> None:
        """The use of a model is over."""
        with self._look:
            for users in self._users.values():
                users.discard(use)

    def prepare_refit(
        self, model: Model, wanted: WantedModel, device: torch.device, progress: Progress, use: ModelUse
    ) -> Refit | None:
        """How to turn `model`, which `use` alone uses, into the wanted one in the same storages; None: impossible.

        All that can fail happens here: raises `ModelUnavailable`, and `model` is as it was.
        """
        with self._look:
            if not self._is_alone(model, use):
                return None
        files = self._find_files(wanted, device, progress)
        before = self._keys.get(model)
        if model.base is None or not files.loras or before is None or self._known(files.key(device)) is not None:
            return None
        if self._keys.get(model.base) != files.base_key(device):
            return None
        loras = _read_loras(model.base, files, progress)
        if not can_refit(model, loras):
            return None
        progress("fusing the LoRAs", None)
        check_loras(model.base, loras)
        prompts = refitted_prompts(model, loras)
        mark, key = object(), files.key(device)

        def claim() -> bool:
            with self._look:
                if not self._is_alone(model, use):
                    return False
                self._models.pop(before, None)
                self._claims.setdefault(model, set()).add(mark)
                return True

        def give_back() -> None:
            with self._look:
                claims = self._claims.get(model, set())
                claims.discard(mark)
                if not claims and self._keys.get(model) == before:
                    self._models.setdefault(before, model)

        def write() -> Model:
            with self._look:  # from here on it is not what its key says
                self._keys.pop(model, None)
            after = self._keep(key, refit(model, loras, prompts), use)
            with self._look:
                self._wanted[after] = (wanted, str(device))
            return after

        return Refit(replace(model, prompts=prompts), claim, write, give_back)

    def _is_alone(self, model: Model, use: ModelUse) -> bool:
        users = self._users.get(model)
        return users is not None and set(users) == {use}

    def _find_files(self, wanted: WantedModel, device: torch.device, progress: Progress) -> _Files:
        half = default_dtype(device) == torch.float16

        def admit(listed: Sequence[RemoteFile]) -> None:
            self._admit(wanted, listed_bytes(listed, half=half), device)

        files = get_model(wanted.source, wanted.family, wanted.places, half=half, progress=progress, admit=admit)
        tokenizer: Path | None = None
        if files.path.is_file():
            tokenizer = get_tokenizer(wanted.places, (files.path.parent,), progress)
        loras: list[_LoraFile] = []
        if wanted.lcm and not is_turbo(files.path):
            with _blaming_lora(LCM):
                loras.append(self._find_lcm(wanted, files.path, progress))
        for name, weight in wanted.loras:
            part = lora_part(name)
            with _blaming_lora(part):
                loras.append(_LoraFile(name, self._lora_files.get(name, wanted.places, progress), weight, part))
        return _Files(files, tokenizer, tuple(loras))

    def _find_lcm(self, wanted: WantedModel, model: Path, progress: Progress) -> _LoraFile:
        name = LCM_LORAS[wanted.family]
        own = model / "lcm_lora" / LORA
        path = own if own.is_file() else self._lora_files.get(name, wanted.places, progress)
        return _LoraFile(name, path, 1.0, LCM)

    def _base(
        self, files: _Files, wanted: WantedModel, device: torch.device, progress: Progress, use: ModelUse | None
    ) -> Model:
        key = files.base_key(device)
        model = self._known(key, use)
        if model is None or model.family != wanted.family:

            def admit(need: int) -> None:
                self._admit(wanted, need, device)
                with self._look:
                    self._last = None  # make room first

            model = load_model(
                files.model.path,
                wanted.family,
                device,
                taesd=not wanted.places.full_vae,
                taesd_elsewhere=files.model.taesd,
                tokenizer_elsewhere=files.tokenizer,
                progress=progress,
                admit=admit,
            )
        return self._keep(key, model, use)

    def _admit(self, wanted: WantedModel, need: int, device: torch.device) -> None:
        refuse_what_cannot_fit(wanted.source, need, most_room(self._memory(device)))

    def _known(self, key: Key, use: ModelUse | None = None) -> Model | None:
        with self._look:
            model = self._models.get(key)
            return None if model is None else self._give(model, use)

    def _used(self, wanted: WantedModel, device: torch.device, use: ModelUse | None) -> Model | None:
        """The model that some stream uses and that was given out for `wanted`."""
        with self._look:
            for model in self._models.values():
                if self._users.get(model) and self._wanted.get(model) == (wanted, str(device)):
                    return self._give(model, use)
            return None

    def _keep(self, key: Key, model: Model, use: ModelUse | None) -> Model:
        with self._look:
            self._models[key] = model
            self._keys[model] = key
            return self._give(model, use)

    def _give(self, model: Model, use: ModelUse | None) -> Model:
        """Under the lock, so that a model is never claimed by one and given to another."""
        self._last = model
        if use is not None:
            self._users.setdefault(model, WeakSet()).add(use)
        return model


@contextmanager
def _blaming_lora(part: str) -> Generator[None]:
    """As `blaming`; of an LCM LoRA, which no `lora_dict` names, it is told what asks for it."""
    with blaming(part):
        try:
            yield
        except LoraUnusable as error:
            if part != LCM:
                raise
            raise LoraUnusable(
                f"{error.message}; {LCM} asks for it", hint=f"Set {LCM} to false to go without it."
            ) from error


def _read_loras(base: Model, files: _Files, progress: Progress) -> WeightedLoras:
    networks = networks_of(base)
    loras: list[tuple[Lora, float]] = []
    for name, path, weight, part in files.loras:
        progress(f"loading the LoRA {shown(name)}", None)
        with _blaming_lora(part):
            loras.append((read_lora(path, shown(name), base.family, networks), weight))
    return loras


def _stamp(path: Path, index: str = INDEX) -> Key:
    """A file, or a directory with its `index` and its weights, as it is now: others in its place have another stamp."""
    file = path
    stamps: list[Key] = []
    try:
        path = path.resolve()
        weights = sorted([*path.glob(WEIGHTS), *path.glob(f"*/{WEIGHTS}")]) if path.is_dir() else ()
        for file in (path / index if path.is_dir() else path, *weights):
            seen = file.stat()
            stamps.append((str(file), seen.st_mtime_ns, seen.st_size, seen.st_ino))
    except FileNotFoundError:
        raise ModelUnavailable(f"{file} is missing") from None
    except OSError as error:
        raise ModelUnavailable(f"{file} cannot be read: {error.strerror or error}") from None
    return (str(path), *stamps)


__all__ = ["ModelShelf", "ModelUse", "Refit", "WantedModel"]
