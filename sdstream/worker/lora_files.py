"""Where the file of a LoRA is: below the data directory's `loras`, in the hub's cache, on the hub, or at a URL.

A caller of the API names LoRAs, so a name reaches no other file of this machine, URLs are public and https, and what
is fetched is bounded in size and time.
"""

import asyncio
import hashlib
import re
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from sdstream.diffusion.selection import LORA, RemoteFile, choose_lora_file
from sdstream.diffusion.sources import HubId, Progress, fetch_repository, fetches, find_cached
from sdstream.directories import ModelPlaces
from sdstream.errors import LoraUnusable, ModelDownloadFailed
from sdstream.fetching import FetchProblem, PublicFetcher
from sdstream.settings import Family

LCM_LORAS: dict[Family, str] = {
    "sd15": "latent-consistency/lcm-lora-sdv1-5",
    "sdxl-turbo": "latent-consistency/lcm-lora-sdxl",
}
"""What makes a model draw in few steps; there is none for SD 2. `lcm_lora_id` names it, and the family decides."""

MAX_BYTES = 2 * 1024**3
"""Of one LoRA."""
MAX_SECONDS = 1800.0
"""For one LoRA at a URL."""
KEPT_BYTES = 20 * 1024**3
"""Of LoRAs from URLs; the ones longest unused go first."""
FETCHED = ".fetched"
"""Below `loras`: what came from URLs, by the hash of the URL."""
HUB_FILE = re.compile(
    r"(?P<repository>[\w.-]+/[\w.-]+?)(/(?P<file>[\w./ -]+\.safetensors))?(@(?P<revision>[\w./-]+))?", re.ASCII
)


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
        found = _find_file(name, places)
        if found is not None:
            return found
        match = HUB_FILE.fullmatch(name)
        if match is None or ".." in name:
            raise LoraUnusable(f"there is no LoRA {name} below the data directory's loras")
        hub_id = HubId(match["repository"], match["revision"])
        found = _find_in_repository(hub_id, match["file"], places)
        if found is not None:
            return found
        if places.loras is None or not fetches(places):
            raise LoraUnusable(
                f"the LoRA {name} is not on this machine, and nothing is fetched here",
                hint=f"Put its file below the data directory's loras, as {hub_id.folder}/{match['file'] or LORA}.",
            )
        chosen: list[str] = []

        def choose(repository: str, files: Iterable[RemoteFile]) -> tuple[RemoteFile, ...]:
            file = choose_lora_file(repository, tuple(files), match["file"])
            if file.size > MAX_BYTES:
                raise LoraUnusable(f"the LoRA {name} has {file.size} bytes, more than {MAX_BYTES}")
            chosen.append(file.name)
            return (file,)

        return fetch_repository(hub_id, places.loras, choose, progress) / chosen[0]

    def _get_url(self, url: str, places: ModelPlaces, progress: Progress) -> Path:
        name = shown(url)
        if places.loras is None or not fetches(places):
            raise LoraUnusable(f"the LoRA {name} is at a URL, and nothing is fetched here")
        folder = places.loras / FETCHED
        target = folder / f"{hashlib.sha256(url.encode()).hexdigest()}.safetensors"
        try:
            if target.is_file():
                target.touch()  # used now
                return target
            folder.mkdir(parents=True, exist_ok=True)
            part = folder / f"{uuid.uuid4().hex}.part"
            try:
                asyncio.run(self._download(url, name, part, progress))
                _make_room(folder, part.stat().st_size)
                part.replace(target)
            finally:
                part.unlink(missing_ok=True)
        except FetchProblem as problem:
            raise ModelDownloadFailed(f"the LoRA {name} {problem}", hint="Check its URL.") from problem
        except OSError as error:
            raise ModelDownloadFailed(f"the LoRA {name} cannot be kept: {error.strerror or error}") from error
        return target

    async def _download(self, url: str, name: str, part: Path, progress: Progress) -> None:
        told = -1

        def tell(came: int, total: int | None) -> None:
            nonlocal told
            percent = 100 * came // total if total else 0
            if percent != told:  # each report goes all the way to those who watch the stream
                told = percent
                progress(f"downloading the LoRA {name}", float(percent) if total else None)

        fetcher = self.make_fetcher()
        try:
            with part.open("wb") as file:
                await fetcher.download(url, file, MAX_BYTES, tell)
        finally:
            fetcher.close()


def shown(name: str) -> str:
    """The name of a LoRA for people: a URL without its query, which may hold a key."""
    if "://" not in name:
        return name
    parts = urlsplit(name)
    return f"{parts.hostname or ''}{parts.path}"


def _find_file(name: str, places: ModelPlaces) -> Path | None:
    """A file below `loras`, by its path there, with its ending or without, or by its directory."""
    if places.loras is None:
        return None
    root = places.loras.resolve()
    for path in (root / name, root / f"{name}.safetensors"):
        try:
            path = path.resolve()
            if not path.is_relative_to(root) or path == root:
                continue
            if path.is_file():
                return path
            if path.is_dir():
                return _only_file(path, name)
        except (OSError, ValueError):  # too long a name, or a zero in it
            continue
    return None


def _find_in_repository(hub_id: HubId, file: str | None, places: ModelPlaces) -> Path | None:
    for folder in (
        None if places.loras is None else places.loras / hub_id.folder,
        find_cached(hub_id.repository, hub_id.revision),
    ):
        if folder is None or not folder.is_dir():
            continue
        if file is None:
            return _only_file(folder, hub_id.repository)
        if (folder / file).is_file():
            return folder / file
    return None


def _only_file(folder: Path, name: str) -> Path:
    files = tuple(RemoteFile(path.name, 0) for path in sorted(folder.glob("*.safetensors")))
    return folder / choose_lora_file(name, files).name


def _make_room(folder: Path, more: int) -> None:
    kept = sorted(folder.glob("*.safetensors"), key=lambda path: path.stat().st_mtime)
    size = more + sum(path.stat().st_size for path in kept)
    for path in kept:
        if size <= KEPT_BYTES:
            break
        size -= path.stat().st_size
        path.unlink(missing_ok=True)


__all__ = ["LCM_LORAS", "LoraFiles", "shown"]
