"""Pins: the commit and the SHA-256 of files of repositories, so that what is fetched later is the same.

Those of the operator lie in `pins.json` below the data directory's `models`, which `sdstream models pin` writes of what
is there. Below them count those that sdstream ships, `published_pins.json` beside this file: facts that stand in public
sources, see `docs/models.md`. Fetching asks for the pinned commit and takes no other bytes. No torch here.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, cast

from sdstream.diffusion.fetching.selection import WEIGHTS, RemoteFile
from sdstream.model_errors import ModelNotAsPinned, ModelUnavailable

PINS = "pins.json"
MANIFEST = ".sdstream.json"
"""In a directory that was fetched: from where, and which commit."""
SHIPPED = Path(__file__).with_name("published_pins.json")
BLOCK = 4 * 1024 * 1024
SHOWN = 12
"""Digits of a hash that people are shown."""


@dataclass(frozen=True, slots=True)
class Pin:
    """What a directory below `models` is to hold: the commit, and the SHA-256 of files by their names.

    Of what sdstream ships the commit may be empty, for any, and not every file need have its hash.
    """

    commit: str
    files: Mapping[str, str]
    shipped: bool = False
    """Whether it came with sdstream."""

    @property
    def author(self) -> str:
        """Who says so, for people."""
        return "this version of sdstream" if self.shipped else PINS

    @property
    def way_out(self) -> str:
        """How to go on without it, for people."""
        if self.shipped:
            return (
                "SDSTREAM_SHIPPED_PINS=false takes the hub's newest instead, and `sdstream models pin` pins that; or "
                f"models/{PINS} in the data directory says which commit and hashes you trust."
            )
        return f"Change or remove what models/{PINS} in the data directory says of it, if you trust what is there now."

    def refusal(self, what: str, cause: str = "") -> ModelNotAsPinned:
        """The error that says `what` is not as pinned. Streams show its message alone, so the switch stands in it."""
        switch = "; SDSTREAM_SHIPPED_PINS=false goes without" if self.shipped else ""
        return ModelNotAsPinned(what + switch, hint=f"{cause} {self.way_out}".strip())

    def hold(self, repository: str, files: Sequence[RemoteFile]) -> tuple[RemoteFile, ...]:
        """The files with the pinned hashes in the place of the hub's; unchanged where none is pinned.

        Raises `ModelNotAsPinned` where the hub itself gives another hash: nothing needs to be fetched to know.
        """
        held: list[RemoteFile] = []
        for file in files:
            pinned = self.files.get(file.name)
            if pinned is not None and file.sha256 not in (None, pinned):
                raise self.refusal(
                    f"{repository}: the hub offers {file.name} with the hash {str(file.sha256)[:SHOWN]}..., and "
                    f"{self.author} pins {pinned[:SHOWN]}...",
                    "A mirror (HF_ENDPOINT) or the repository's owner changed it.",
                )
            held.append(file if pinned is None else replace(file, sha256=pinned, pinned=True))
        return tuple(held)

    def knows(self, files: Sequence[RemoteFile]) -> bool:
        """Whether these are the very weights that are pinned, whatever the commit: each has its hash, and no other."""
        weights = [file for file in files if file.name.endswith(WEIGHTS)]
        return bool(weights) and all(file.sha256 and self.files.get(file.name) == file.sha256 for file in weights)


def find_pin(name: str, root: Path, *, shipped: bool) -> Pin | None:
    """The pin of the directory `name` below `root`: the operator's, else the one that sdstream ships when `shipped`."""
    own = read_pins(root).get(name)
    return shipped_pins().get(name) if own is None and shipped else own


def read_pins(root: Path) -> dict[str, Pin]:
    """The operator's pins of the directory `root`, by directory below it. Raises `ModelUnavailable` when they cannot be
    read."""
    file = root / PINS
    try:
        return _read(file)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise ModelUnavailable(f"{file} cannot be read: {error}", hint="`sdstream models pin` writes it.") from None
    except (KeyError, TypeError, ValueError):
        raise ModelUnavailable(f"{file} holds no pins", hint="`sdstream models pin` writes it.") from None


@cache
def shipped_pins() -> Mapping[str, Pin]:
    """The pins that sdstream ships, by repository."""
    return {name: replace(pin, shipped=True) for name, pin in _read(SHIPPED).items()}


def write_pins(root: Path) -> dict[str, Pin]:
    """Pin everything that was fetched below `root`; earlier pins of directories that are gone stay. Reads all bytes."""
    pins = read_pins(root) | {name: _pin_of(folder) for name, folder in fetched_folders(root)}
    content = {name: {"commit": pin.commit, "files": dict(pin.files)} for name, pin in sorted(pins.items())}
    part = root / f"{PINS}.part"
    part.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    part.replace(root / PINS)
    return pins


def find_differences(root: Path, *, shipped: bool = False) -> list[str]:
    """What of the pinned directories that are here is not as it was pinned. Reads all bytes.

    With `shipped` a directory without a pin of the operator's is compared with what sdstream ships.
    """
    found = list[str]()
    for name, folder in fetched_folders(root):
        pin = find_pin(name, root, shipped=shipped)
        if pin is None:
            found.append(f"{name} is not pinned")
            continue
        here = _pin_of(folder)
        if here.commit != pin.commit and (pin.commit or not pin.shipped):
            found.append(f"{name} is at commit {here.commit[:10]}, and {pin.commit[:10]} is pinned")
        for file in sorted(pin.files.keys() | here.files.keys()):
            if file not in here.files:
                found += [] if pin.shipped else [f"{name}/{file} is pinned and not here"]
            elif file not in pin.files:
                found += [] if pin.shipped else [f"{name}/{file} is not pinned"]
            elif here.files[file] != pin.files[file]:
                found.append(f"{name}/{file} is not what was pinned")
    return found


def pinned_hash(folder: Path, name: str) -> str | None:
    """The SHA-256 that the file `name` of `folder`, a directory below `models`, is to have by the operator's pins; None
    where not pinned."""
    if len(folder.parents) < 2 or not (folder.parents[1] / PINS).is_file():
        return None
    pin = read_pins(folder.parents[1]).get(f"{folder.parent.name}/{folder.name}")
    return None if pin is None else pin.files.get(name)


def shipped_hash(folder: Path, name: str) -> str | None:
    """The SHA-256 by the pins that sdstream ships, for a directory below `models` that was fetched at their commit;
    None for any other, which may hold what it likes."""
    pin = shipped_pins().get(f"{folder.parent.name}/{folder.name}")
    if pin is None or not (folder / MANIFEST).is_file() or pin.commit not in ("", _commit_of(folder)):
        return None
    return pin.files.get(name)


def fetched_folders(root: Path) -> Iterator[tuple[str, Path]]:
    """The directories below `root` that were fetched, by the name that they have there."""
    for manifest in sorted(root.glob(f"*/*/{MANIFEST}")):
        folder = manifest.parent
        if not folder.parent.name.startswith("."):
            yield f"{folder.parent.name}/{folder.name}", folder


def _read(file: Path) -> dict[str, Pin]:
    content: Any = json.loads(file.read_text("utf-8"))
    return {str(name): Pin(str(pin["commit"]), dict(pin["files"])) for name, pin in dict(content).items()}


def _pin_of(folder: Path) -> Pin:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return Pin(_commit_of(folder), {path.relative_to(folder).as_posix(): _sha256(path) for path in files})


def _commit_of(folder: Path) -> str:
    try:
        content: Any = json.loads((folder / MANIFEST).read_text("utf-8"))
    except (OSError, ValueError):
        return ""
    return str(cast("dict[str, Any]", content).get("commit", "")) if isinstance(content, dict) else ""


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


__all__ = [
    "MANIFEST",
    "PINS",
    "SHOWN",
    "Pin",
    "fetched_folders",
    "find_differences",
    "find_pin",
    "pinned_hash",
    "read_pins",
    "shipped_hash",
    "shipped_pins",
    "write_pins",
]
