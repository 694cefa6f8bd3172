"""Where the files of a profile are: found where the server finds its own, or fetched to where it fetches them to."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from builder.processors import fetch_networks, find_networks
from builder.profiles import Profile
from sdstream.diffusion.fetching.hub import Progress
from sdstream.diffusion.fetching.lora_sources import find_lora, get_lora, only_file
from sdstream.diffusion.fetching.repositories import HubId
from sdstream.diffusion.fetching.selection import INDEX, NETWORK
from sdstream.diffusion.fetching.sources import (
    TAESD,
    fetch_chosen,
    fetch_model,
    fetches,
    find_files,
    find_repository,
    find_taesd,
    find_tokenizer,
    get_model,
    get_taesd,
    get_tokenizer,
    may_fetch,
)
from sdstream.directories import ModelPlaces, home_expanded
from sdstream.model_errors import ModelUnavailable
from sdstream.params import ModelTable

_Look = Callable[[str, Path | None], Path]
TINY = "tiny"
"""A ControlNet or an adapter of this name is made on the spot, with random weights."""

FETCH_HINT = (
    "`python -m builder fetch` with the same --profile and --model fetches them, unless SDSTREAM_OFFLINE or "
    "HF_HUB_OFFLINE forbids it; give paths of what is elsewhere."
)
OFFLINE_HINT = "SDSTREAM_OFFLINE or HF_HUB_OFFLINE forbids to fetch them; give paths of what is elsewhere."
NO_PLACE_HINT = "They have no place on the hub; give the paths at which they are."


@dataclass(frozen=True, slots=True)
class ProfileFiles:
    """What a profile is made of, on this machine. None stands for what is made on the spot, or not needed."""

    model: Path | None
    """A diffusers directory or a single file."""
    taesd: Path | None = None
    """The small VAE, where one is wanted that is not inside `model`."""
    tokenizer: Path | None = None
    """Of a model in one file."""
    loras: tuple[Path, ...] = ()
    controlnets: tuple[Path | None, ...] = ()
    adapter: Path | None = None
    networks: tuple[Path, ...] = ()
    """Folders of the networks of image processors."""


@dataclass(frozen=True, slots=True)
class ProfileSources:
    """Looks for the files of profiles. `table` says what ids mean and where files are kept; without one, ids are looked
    for in the hub's cache alone, and nothing can be fetched."""

    table: ModelTable = field(default_factory=ModelTable)

    def find(self, profile: Profile, hint: str = FETCH_HINT) -> ProfileFiles:
        """The files of a profile. Raises `ModelUnavailable`, naming all that are not on this machine."""
        places = self.places(profile)
        networks, missing = find_networks(profile, places)

        def look(what: str, found: Path | None) -> Path:
            if found is None:
                missing.append(what)
            return found or Path()

        model = None
        if profile.tiny is None and profile.components:
            model = find_repository(self._model(profile), places)
            lacks = model is not None and model.is_dir() and not (model / INDEX).is_file()
            look(
                f"the model {profile.model}" + (f" ({model} has no {INDEX})" if lacks else ""), None if lacks else model
            )
        files = ProfileFiles(
            model,
            self._find_taesd(profile, model, look),
            self._find_tokenizer(profile, model, look),
            tuple(look(f"the LoRA {lora.source}", _find_lora(lora.source, places)) for lora in profile.loras),
            tuple(
                None if net == TINY else look(f"the ControlNet {net}", find_files(self._net(net), NETWORK, places))
                for net in profile.controlnets
            ),
            None
            if profile.adapter is None or profile.adapter == TINY
            else look(f"the IP-Adapter {profile.adapter}", _find_adapter(profile.adapter, places)),
            networks,
        )
        if missing:
            raise ModelUnavailable(f"not on this machine: {', '.join(missing)}", hint=hint)
        return files

    def fetch(self, profile: Profile, progress: Progress, *, half: bool) -> ProfileFiles:
        """The same, and what is not here is fetched from the hub: no file that the profile has no use for.

        `half` prefers half precision. Raises `ModelUnavailable` of the kind that fits; `progress` may raise to give up.
        """
        places = self.places(profile)
        if not fetches(places):
            return self.find(profile, OFFLINE_HINT)
        fetch_networks(profile, places, progress)
        if profile.tiny is None and profile.components:
            model = self._fetch_model(profile, places, progress, half)
            if model is not None and model.is_file() and profile.tokenizer is None:
                get_tokenizer(places, (model.parent,), progress)
        for lora in profile.loras:
            if _find_lora(lora.source, places) is None:
                get_lora(lora.source, places, progress)
        for net in profile.controlnets:
            if net != TINY:
                _fetch(self._net(net), NETWORK, places, progress)
        if profile.adapter is not None and _find_adapter(profile.adapter, places) is None:
            repository, file = _split(profile.adapter)
            if file:
                _fetch(repository, (file,), places, progress)
        return self.find(profile, NO_PLACE_HINT)

    def _fetch_model(self, profile: Profile, places: ModelPlaces, progress: Progress, half: bool) -> Path | None:
        source = self._model(profile)
        found = find_repository(source, places)
        if found is None and not may_fetch(source, places):
            return None
        if profile.taesd is not None:
            _fetch(profile.taesd, NETWORK, places, progress)
            hub_id = HubId.parse(source)
            if found is None and hub_id is not None:
                found = fetch_model(hub_id, places, half=half, vae=False, progress=progress)
            return found
        if not profile.full_vae and not _has_taesd(found):
            get_taesd(profile.family, places, progress)  # fails, where a server would go on with the model's own VAE
        return get_model(source, profile.family, places, half=half, progress=progress).path

    def places(self, profile: Profile) -> ModelPlaces:
        """Where files are looked for, and fetched to."""
        return replace(self.table.places, full_vae=profile.full_vae)

    def _model(self, profile: Profile) -> str:
        """What `SDSTREAM_MODELS` says of the profile's model, else that itself."""
        entry = self.table.get(profile.model)
        return profile.model if entry is None else entry.source

    def _net(self, name: str) -> str:
        """The same for a ControlNet and `SDSTREAM_CONTROLNETS`."""
        facts = self.table.controlnets.get(name)
        return name if facts is None else facts.source or name

    def _find_taesd(self, profile: Profile, model: Path | None, look: _Look) -> Path | None:
        if profile.taesd is not None:
            return look(f"the small VAE {profile.taesd}", find_files(profile.taesd, NETWORK[:1], self.places(profile)))
        if profile.full_vae or model is None or _has_taesd(model):
            return None
        found = find_taesd(profile.family, self.places(profile))
        if found is None and model.is_dir() and not any((model / "vae").glob("*.safetensors")):
            return look(f"the small VAE {TAESD[profile.family]}", None)
        return found  # none: the model's own is baked, as the server uses it then

    def _find_tokenizer(self, profile: Profile, model: Path | None, look: _Look) -> Path | None:
        if profile.tokenizer is not None:
            folder = home_expanded(profile.tokenizer)
            return look(f"the tokenizer {profile.tokenizer}", folder if folder.is_dir() else None)
        if model is None or not model.is_file():
            return None
        return look("CLIP's tokenizer", find_tokenizer(self.places(profile), (model.parent,)))


def _fetch(repository: str, names: tuple[str, ...], places: ModelPlaces, progress: Progress) -> None:
    """Fetch what is not here; what has no place on the hub is told as missing later."""
    if find_files(repository, names, places) is None and may_fetch(repository, places):
        fetch_chosen(repository, names, places, progress)


def _find_lora(source: str, places: ModelPlaces) -> Path | None:
    path = home_expanded(source)
    if path.is_file():
        return path
    if path.is_dir():
        return only_file(path, source)
    if path.is_absolute() or "://" in source:
        return None
    return find_lora(source, places)


def _find_adapter(source: str, places: ModelPlaces) -> Path | None:
    path = home_expanded(source)
    if path.is_file():
        return path
    repository, file = _split(source)
    folder = find_files(repository, (file,), places) if file else None
    return None if folder is None else folder / file


def _split(source: str) -> tuple[str, str]:
    """The repository and the file of OWNER/NAME/FILE; no file where it is none."""
    owner, _, rest = source.partition("/")
    name, _, file = rest.partition("/")
    repository = f"{owner}/{name}"
    return (repository, file) if HubId.parse(repository) is not None and ".." not in source else ("", "")


def _has_taesd(model: Path | None) -> bool:
    return model is not None and (model / "taesd/config.json").is_file()


__all__ = ["TINY", "ProfileFiles", "ProfileSources"]
