"""Files that networks need and that are not on the hub: fetched from the addresses of `published.ADDRESSES`.

They come over https into the data directory's `models`, where a hub's repository would lie, each under its own name
when it is whole. Nobody gives a hash for them but the pins: those of the operator, else those that sdstream ships.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from sdstream.diffusion.fetching.hub import Progress, only_one
from sdstream.diffusion.fetching.pins import MANIFEST, SHOWN, Pin, find_pin
from sdstream.diffusion.fetching.repositories import PARTIAL
from sdstream.directories import ModelPlaces
from sdstream.fetching import FetchProblem, PublicFetcher
from sdstream.model_errors import ModelDownloadFailed
from sdstream.worker.files.published import ADDRESSES

MAX_BYTES = 256 * 1024**2
"""Of one file."""
MAX_SECONDS = 600.0


def _public_fetcher() -> PublicFetcher:
    return PublicFetcher(seconds=MAX_SECONDS, schemes=("https",))


def fetch_addresses(
    repository: str,
    names: Iterable[str],
    places: ModelPlaces,
    progress: Progress,
    make_fetcher: Callable[[], PublicFetcher] = _public_fetcher,
) -> Path:
    """The folder with these files of `repository`, those that are missing fetched.

    Raises `ModelUnavailable`: they cannot be fetched whole, or are not those that were pinned.
    """
    assert places.models is not None, "nothing is fetched without a place"
    folder, work = places.models / repository, places.models / PARTIAL
    wanted = tuple(names)
    pin = find_pin(repository, places.models, shipped=places.shipped_pins)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with only_one(work / f"{repository.replace('/', '--')}.lock", repository, progress):
            for name in wanted:
                if not (folder / name).is_file():
                    part = work / f"{name}.part"
                    asyncio.run(_fetch(ADDRESSES[repository][name], part, name, progress, make_fetcher()))
                    _compare(part, f"{repository}: {name}", name, pin)
                    part.replace(folder / name)
            # By it what was fetched is known from what somebody put there, which is not pinned.
            manifest = {"repository": repository, "revision": None, "commit": ""}
            (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", "utf-8")
    except FetchProblem as problem:
        raise ModelDownloadFailed(
            f"what {repository} needs {problem}", hint=f"Or put the files into {folder} by hand: {', '.join(wanted)}."
        ) from problem
    except OSError as error:
        raise ModelDownloadFailed(f"{folder} cannot be written: {error.strerror or error}") from error
    return folder


async def _fetch(url: str, part: Path, name: str, progress: Progress, fetcher: PublicFetcher) -> None:
    def tell(came: int, total: int | None) -> None:
        progress(f"downloading {name}", 100.0 * came / total if total else None)

    try:
        with part.open("wb") as file:
            await fetcher.download(url, file, MAX_BYTES, tell)
    finally:
        fetcher.close()


def _compare(part: Path, what: str, name: str, pin: Pin | None) -> None:
    pinned = None if pin is None else pin.files.get(name)
    if pin is None or pinned is None:
        return
    with part.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != pinned:
        raise pin.refusal(
            f"{what} came as bytes that are not those pinned: with the hash {found[:SHOWN]}..., and {pin.author} pins "
            f"{pinned[:SHOWN]}..."
        )


__all__ = ["fetch_addresses"]
