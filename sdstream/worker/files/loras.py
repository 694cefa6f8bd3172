"""Where the file of a LoRA is: below the data directory's `loras`, in the hub's cache, on the hub, or at a URL.

A caller of the API names LoRAs, so a name reaches no other file of this machine, URLs are public and https, and what
is fetched is bounded in size and time.
"""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from sdstream.diffusion.fetching.hub import only_one
from sdstream.diffusion.fetching.lora_sources import MAX_BYTES, get_lora
from sdstream.diffusion.fetching.sources import fetches
from sdstream.directories import ModelPlaces
from sdstream.fetching import FetchProblem, PublicFetcher
from sdstream.model_errors import LoraUnusable, ModelDownloadFailed
from sdstream.pace import Progress
from sdstream.settings import Family
from sdstream.transfers import Part, bring_whole

LCM_LORAS: dict[Family, str] = {
    "sd15": "latent-consistency/lcm-lora-sdv1-5",
    "sdxl-turbo": "latent-consistency/lcm-lora-sdxl",
}
"""What makes a model draw in few steps; there is none for SD 2. `lcm_lora_id` names it, and the family decides."""

MAX_SECONDS = 1800.0
"""For one LoRA at a URL."""
KEPT_BYTES = 20 * 1024**3
"""Of LoRAs from URLs; the ones longest unused go first."""
FETCHED = ".fetched"
"""Below `loras`: what came from URLs, by the hash of the URL."""
LOCKS = "locks"
"""Below that: who fetches what, so that nobody else does."""


def _public_fetcher() -> PublicFetcher:
    return PublicFetcher(seconds=MAX_SECONDS, schemes=("https",))


@dataclass(frozen=True, slots=True)
class LoraFiles:
    """Finds and fetches the files of LoRAs."""

    make_fetcher: Callable[[], PublicFetcher] = field(default=_public_fetcher)

    def get(self, name: str, places: ModelPlaces, progress: Progress) -> Path:
        """The file of the LoRA `name`, fetched where it is not here. `progress` may raise to give up.

        Raises `LoraUnusable` when there is none, or another `ModelUnavailable` when it cannot be fetched.
        """
        if "://" in name:
            return self._get_url(name, places, progress)
        return get_lora(name, places, progress)

    def _get_url(self, url: str, places: ModelPlaces, progress: Progress) -> Path:
        name = shown(url)
        folder = None if places.loras is None else places.loras / FETCHED
        key = hashlib.sha256(url.encode()).hexdigest()
        if folder is None or not (fetches(places) or (folder / f"{key}.safetensors").is_file()):
            raise LoraUnusable(f"the LoRA {name} is at a URL, and nothing is fetched here")
        target = folder / f"{key}.safetensors"
        try:
            with only_one(folder / LOCKS / key, f"the LoRA {name}", progress):
                if target.is_file():
                    target.touch()  # used now
                    return target
                part = Part(folder / f"{key}.part")
                asyncio.run(
                    bring_whole(
                        self.make_fetcher(),
                        url,
                        part,
                        f"the LoRA {name}",
                        progress,
                        max_bytes=MAX_BYTES,
                        max_seconds=MAX_SECONDS,
                    )
                )
                _make_room(folder, part.path)
                part.path.replace(target)
                part.drop()
        except FetchProblem as problem:
            raise ModelDownloadFailed(f"the LoRA {name} {problem}", hint="Check its URL.") from problem
        except OSError as error:
            raise ModelDownloadFailed(f"the LoRA {name} cannot be kept: {error.strerror or error}") from error
        return target


def shown(name: str) -> str:
    """The name of a LoRA for people: a URL without its query, which may hold a key."""
    if "://" not in name:
        return name
    parts = urlsplit(name)
    return f"{parts.hostname or ''}{parts.path}"


def _make_room(folder: Path, newest: Path) -> None:
    """Let the files longest unused go, so that `newest` can stay with the others."""
    found = (path for pattern in ("*.safetensors", "*.part") for path in folder.glob(pattern))
    kept = sorted((path for path in found if path != newest), key=lambda path: path.stat().st_mtime)
    size = newest.stat().st_size + sum(path.stat().st_size for path in kept)
    for path in kept:
        if size <= KEPT_BYTES:
            break
        size -= path.stat().st_size
        if path.suffix == ".part":
            Part(path).drop()
        path.unlink(missing_ok=True)


__all__ = ["LCM_LORAS", "LoraFiles", "shown"]
