"""Where the file of a LoRA is: below the data directory's `loras`, in the hub's cache, on the hub, or at a URL.

A caller of the API names LoRAs, so a name reaches no other file of this machine, URLs are public and https, and what
is fetched is bounded in size and time.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from sdstream.diffusion.fetching.hub import Progress, only_one
from sdstream.diffusion.fetching.lora_sources import MAX_BYTES, get_lora
from sdstream.diffusion.fetching.sources import fetches
from sdstream.directories import ModelPlaces
from sdstream.errors import LoraUnusable, ModelDownloadFailed
from sdstream.fetching import FetchBrokenOff, FetchProblem, PublicFetcher, Transfer
from sdstream.settings import Family

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
ATTEMPTS = 5
"""How often in a row a URL is asked without a byte coming."""
PAUSE_SECONDS = 1.0
"""Between two of those."""


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
                part = _Part(folder / f"{key}.part")
                try:
                    asyncio.run(self._download(url, name, part, progress))
                except FetchBrokenOff:
                    raise  # what came stays for the next try
                except FetchProblem:
                    part.drop()
                    raise
                _make_room(folder, part.path)
                part.path.replace(target)
                part.drop()
        except FetchProblem as problem:
            raise ModelDownloadFailed(f"the LoRA {name} {problem}", hint="Check its URL.") from problem
        except OSError as error:
            raise ModelDownloadFailed(f"the LoRA {name} cannot be kept: {error.strerror or error}") from error
        return target

    async def _download(self, url: str, name: str, part: "_Part", progress: Progress) -> None:
        """Bring `part` to hold the whole file, in as many tries as bring some of it."""
        told = -1

        def tell(came: int, total: int | None) -> None:
            nonlocal told
            percent = 100 * came // total if total else 0
            if percent != told:  # each report goes all the way to those who watch the stream
                told = percent
                progress(f"downloading the LoRA {name}", float(percent) if total else None)

        fetcher, transfer = self.make_fetcher(), part.transfer()
        failures = spoilt = 0
        began = asyncio.get_running_loop().time()
        try:
            with part.path.open("ab") as file:
                while True:
                    start = file.seek(0, 2)
                    progress(f"asking for the LoRA {name}", None)
                    try:
                        await fetcher.go_on(url, file, MAX_BYTES, tell, transfer)
                        if transfer.sha256 in ("", _sha256(part.path, file)):
                            return
                        file.truncate(0)
                        transfer.validator = ""
                        spoilt += 1
                        if spoilt == 2:
                            raise FetchProblem("came twice with bytes that are not those that its server promises")
                    except FetchBrokenOff:
                        failures = failures + 1 if file.seek(0, 2) <= start else 1
                        if failures == ATTEMPTS or asyncio.get_running_loop().time() - began > MAX_SECONDS:
                            raise
                        progress(f"downloading the LoRA {name}", None)
                        await asyncio.sleep(PAUSE_SECONDS)
                    finally:
                        file.flush()
                        part.note(transfer)
        finally:
            fetcher.close()


@dataclass(frozen=True, slots=True)
class _Part:
    """A file that has not come whole yet, with what is known of it beside it."""

    path: Path

    @property
    def _notes(self) -> Path:
        return self.path.with_suffix(".part.json")

    def transfer(self) -> Transfer:
        """What is known of the bytes that are here, from an earlier time if need be."""
        try:
            known: Any = json.loads(self._notes.read_text("utf-8"))
            return Transfer(str(known["validator"]), str(known["sha256"]))
        except (OSError, ValueError, KeyError, TypeError):
            return Transfer()

    def note(self, transfer: Transfer) -> None:
        """Keep it for a later time."""
        self._notes.write_text(json.dumps({"validator": transfer.validator, "sha256": transfer.sha256}), "utf-8")

    def drop(self) -> None:
        """Keep nothing."""
        self.path.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)


def _sha256(path: Path, written: BinaryIO) -> str:
    written.flush()
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


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
            _Part(path).drop()
        path.unlink(missing_ok=True)


__all__ = ["LCM_LORAS", "LoraFiles", "shown"]
