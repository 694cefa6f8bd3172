"""Where a model's files are: on this machine, or on the hub, from where they are fetched when that is allowed.

A source is a directory, a single `.safetensors` file, or a hub id, `OWNER/NAME` or `OWNER/NAME@REVISION`. A path is
looked for as it stands, then below the data directory's `models`, and a hub id in the hub's cache too.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import huggingface_hub
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

from sdstream.diffusion.fetching.hub import Progress, is_offline
from sdstream.diffusion.fetching.repositories import HubId, fetch_repository, read_manifest
from sdstream.diffusion.fetching.selection import (
    INDEX,
    RemoteFile,
    choose_model_files,
    choose_named_files,
    choose_network_files,
    choose_tokenizer_files,
    find_published,
)
from sdstream.directories import ModelPlaces, home_expanded
from sdstream.model_errors import ModelUnavailable
from sdstream.settings import Family

_hub: Any = huggingface_hub

Admit = Callable[[Sequence[RemoteFile]], None]
"""Is shown what is about to be fetched of a model, and raises where that is of no use."""

TAESD: dict[Family, str] = {
    "sd-turbo": "madebyollin/taesd",
    "sd15": "madebyollin/taesd",
    "sdxl-turbo": "madebyollin/taesdxl",
}
"""The small VAE of each family, on the hub."""
TOKENIZER = "openai/clip-vit-large-patch14"
"""Where CLIP's tokenizer comes from; all families use this one."""
SAFETY_CHECKER = "CompVis/stable-diffusion-safety-checker"
NOWHERE = ModelPlaces()


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What a model is loaded from."""

    path: Path
    """A diffusers directory or a single file."""
    taesd: Path | None
    """The small VAE, when it is to be used and is not inside `path`."""


def find_model(source: str, places: ModelPlaces = NOWHERE) -> Path:
    """The directory or file of `source` on this machine. Raises `ModelUnavailable` when it is not here."""
    found = _find(source, places)
    if found is not None:
        return found
    way = ""
    if HubId.parse(source) is not None:
        freed = f" without {forbidden}" if (forbidden := _forbidding(places)) else ""
        way = f"`sdstream models pull {source}` fetches it{freed}, or "
    raise ModelUnavailable(
        f"{absence_of(source, places)}; {way}set skip_diffusion to true to run image processors only",
        hint="SDSTREAM_MODELS can name a directory or a .safetensors file for each model.",
    )


def absence_of(source: str, places: ModelPlaces) -> str:
    """That `source` is not on this machine and, where it is not fetched, why, for a person."""
    if HubId.parse(source) is None:
        return f"{source} is not on this machine: no directory and no .safetensors file has this name"
    forbidden = _forbidding(places)
    return f"{source} is not on this machine{f', and {forbidden} forbids to fetch it' if forbidden else ''}"


def find_unfetched(source: str, places: ModelPlaces) -> Path:
    """`find_model` for whoever is asked to fetch what may not be fetched. Raises `ModelUnavailable`."""
    found = _find(source, places)
    if found is None:
        raise ModelUnavailable(absence_of(source, places), hint="Without that setting this command fetches it.")
    return found


def _forbidding(places: ModelPlaces) -> str:
    """The setting that forbids to fetch anything; empty when none does."""
    return "SDSTREAM_OFFLINE" if places.offline else "HF_HUB_OFFLINE" if is_offline() else ""


def find_repository(repository: str, places: ModelPlaces = NOWHERE) -> Path | None:
    """The directory of a hub repository's files on this machine, in `models` or in the hub's cache; None if none."""
    return _find(repository, places)


def fetch_chosen(repository: str, names: Iterable[str], places: ModelPlaces, progress: Progress) -> Path:
    """Fetch these files of a repository into `models`, or what stands in for them. Raises `ModelUnavailable`, see
    `get_model`."""
    wanted = tuple(names)

    def choose(repository: str, files: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
        return choose_named_files(repository, files, wanted)

    hub_id = HubId.parse(repository) or HubId(repository)
    return fetch_repository(hub_id, _place(places), choose, progress, shipped_pins=places.shipped_pins)


def find_files(repository: str, names: Iterable[str], places: ModelPlaces = NOWHERE) -> Path | None:
    """The directory of a repository with all these files on this machine, or what stands in for them; None where one
    is missing."""
    folder = _find(repository, places)
    return folder if folder is not None and all(find_published(folder, name) for name in names) else None


def get_files(
    repository: str, names: tuple[str, ...], places: ModelPlaces, progress: Progress, what: str, pull: str
) -> Path:
    """`find_files`, fetched where that is allowed. `what` they are, and what to name to `sdstream models pull --for`,
    is for people. Raises `ModelUnavailable`, see `get_model`."""
    found = find_files(repository, names, places)
    if found is not None:
        return found
    if may_fetch(repository, places):
        return fetch_chosen(repository, names, places, progress)
    folder = _find(repository, places)
    missing = next(name for name in names if folder is None or find_published(folder, name) is None)
    where = f"{missing} of {repository}" if folder is None else str(folder / missing)
    raise ModelUnavailable(
        f"{what} needs {where}, which is not on this machine",
        hint=f"`sdstream models pull --for {pull}` fetches it.",
    )


def may_fetch(source: str, places: ModelPlaces) -> bool:
    """Whether `source` can be looked for on the hub and put into a place."""
    return HubId.parse(source) is not None and fetches(places)


def get_model(
    source: str,
    family: Family,
    places: ModelPlaces,
    *,
    half: bool,
    progress: Progress,
    admit: Admit = lambda files: None,
) -> ModelFiles:
    """The files of a model and its small VAE, fetched where they are not here. `half` prefers half precision.

    Raises `ModelUnavailable` of the kind that fits; `progress` may raise to give up, and so may `admit`.
    """
    found = find_model(source, places) if not may_fetch(source, places) else _find(source, places)
    has_taesd = found is not None and (found / "taesd/config.json").is_file()
    taesd: Path | None = None
    if not (places.full_vae or has_taesd):
        try:
            taesd = get_taesd(family, places, progress)
        except ModelUnavailable as error:
            progress(f"the small VAE cannot be had ({error.message}); the model's own is used", None)
    vae = places.full_vae or not (has_taesd or taesd is not None)
    hub_id = fetched_from(source, found, places, vae=vae)
    if hub_id is not None:
        found = fetch_model(hub_id, places, half=half, vae=vae, progress=progress, admit=admit)
    assert found is not None, "what may be fetched has a hub id"
    return ModelFiles(found, taesd)


def fetched_from(source: str, found: Path | None, places: ModelPlaces, *, vae: bool) -> HubId | None:
    """From where the model `source`, of which `found` is here, is fetched before it is loaded; None where it is not.
    `vae` says whether its own VAE is needed."""
    if not fetches(places) or (found is not None and _is_whole(found, vae)):
        return None
    return _hub_id_of(source, found)


def fetch_model(
    hub_id: HubId, places: ModelPlaces, *, half: bool, vae: bool, progress: Progress, admit: Admit = lambda files: None
) -> Path:
    """Fetch a diffusers model into `models`; a newer commit of its revision replaces an older one. See `get_model`."""

    def choose(repository: str, files: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
        chosen = choose_model_files(repository, files, half=half, vae=vae)
        admit(chosen)
        return chosen

    return fetch_repository(hub_id, _place(places), choose, progress, shipped_pins=places.shipped_pins)


def fetch_taesd(family: Family, places: ModelPlaces, progress: Progress) -> Path:
    """Fetch the small VAE of a family. See `get_model`."""
    hub_id = HubId(TAESD[family])
    return fetch_repository(hub_id, _place(places), choose_network_files, progress, shipped_pins=places.shipped_pins)


def find_taesd(family: Family, places: ModelPlaces = NOWHERE) -> Path | None:
    """The small VAE, if it is on this machine."""
    found = _find(TAESD[family], places)
    return found if found is not None and (found / "config.json").is_file() else None


def get_taesd(family: Family, places: ModelPlaces, progress: Progress) -> Path | None:
    """`find_taesd`, else the one on the hub where it may be fetched. Raises `ModelUnavailable` when that fails."""
    found = find_taesd(family, places)
    if found is None and fetches(places):
        return fetch_taesd(family, places, progress)
    return found


def find_tokenizer(places: ModelPlaces = NOWHERE, near: Iterable[Path] = ()) -> Path | None:
    """A directory with CLIP's tokenizer: in one of `near`, or in any model that is on this machine."""
    at_hand = [*near, *(path for path in (_find(TOKENIZER, places),) if path is not None)]
    if places.models is not None and places.models.is_dir():
        at_hand += sorted(path.parent for path in places.models.glob(f"*/*/{INDEX}"))
    for source in ("stabilityai/sd-turbo", "stabilityai/sdxl-turbo", "Lykon/dreamshaper-8"):
        cached = find_cached(source)
        if cached is not None:
            at_hand.append(cached)
    for path in at_hand:
        for folder in (path / "tokenizer", path):
            if (folder / "tokenizer.json").is_file() or (folder / "vocab.json").is_file():
                return folder
    return None


def get_tokenizer(places: ModelPlaces, near: Iterable[Path], progress: Progress) -> Path | None:
    """`find_tokenizer`, else the one on the hub where it may be fetched. Raises `ModelUnavailable` when that fails."""
    found = find_tokenizer(places, near)
    if found is None and fetches(places):
        found = fetch_repository(
            HubId(TOKENIZER), _place(places), choose_tokenizer_files, progress, shipped_pins=places.shipped_pins
        )
    return found


def find_cached(repository: str, revision: str | None = None) -> Path | None:
    """The snapshot of a hub repository in the hub's cache, None when there is none."""
    try:
        return Path(_hub.snapshot_download(repository, revision=revision, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def _find(source: str, places: ModelPlaces) -> Path | None:
    candidates = [home_expanded(source)] if source else []
    if source and places.models is not None and not Path(source).is_absolute() and ".." not in Path(source).parts:
        hub_id = HubId.parse(source)
        candidates.append(places.models / (source if hub_id is None else hub_id.folder))
    for path in candidates:
        if _is(path.is_dir) or (path.suffix == ".safetensors" and _is(path.is_file)):
            return path
    hub_id = HubId.parse(source)
    return None if hub_id is None else find_cached(hub_id.repository, hub_id.revision)


def _is(question: Callable[[], bool]) -> bool:
    try:
        return question()
    except OSError:  # a name longer than names can be is nothing
        return False


def _is_whole(path: Path, vae: bool) -> bool:
    """Whether what a diffusers model must have is there; files put there by hand are the person's own affair."""
    if path.is_file():
        return True
    if not (path / INDEX).is_file():
        return False
    parts = ("unet", "text_encoder", *(("vae",) if vae else ()))
    return all(any((path / part).glob("*.safetensors")) for part in parts)


def _hub_id_of(source: str, found: Path | None) -> HubId | None:
    """The repository from which what is lacking can be fetched: not into directories that people made."""
    if found is None or found.parent.name == "snapshots" or read_manifest(found):
        return HubId.parse(source)
    return None


def fetches(places: ModelPlaces) -> bool:
    return places.models is not None and not places.offline and not is_offline()


def _place(places: ModelPlaces) -> Path:
    assert places.models is not None, "nothing is fetched without a place"
    return places.models


__all__ = [
    "NOWHERE",
    "SAFETY_CHECKER",
    "TAESD",
    "ModelFiles",
    "fetch_chosen",
    "fetch_model",
    "fetch_taesd",
    "fetched_from",
    "fetches",
    "find_cached",
    "find_files",
    "find_model",
    "find_repository",
    "find_taesd",
    "find_tokenizer",
    "get_files",
    "get_model",
    "get_taesd",
    "get_tokenizer",
    "may_fetch",
]
