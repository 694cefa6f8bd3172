"""Pins: the commit and the SHA-256 of each file of repositories that were fetched, so that later ones are the same.

They lie in `pins.json` below the data directory's `models`, which `sdstream models pin` writes of what is there;
fetching asks for the pinned commit and takes no other bytes. No torch here.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from sdstream.diffusion.selection import RemoteFile
from sdstream.errors import ModelUnavailable

PINS = "pins.json"
MANIFEST = ".sdstream.json"
"""In a directory that was fetched: from where, and which commit."""
BLOCK = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Pin:
    """What a directory below `models` is to hold: the commit, and the SHA-256 of files by their names."""

    commit: str
    files: Mapping[str, str]

    def demand(self, file: RemoteFile) -> RemoteFile:
        """The file with the pinned hash in the place of the hub's; unchanged where none is pinned."""
        pinned = self.files.get(file.name)
        return file if pinned is None else replace(file, sha256=pinned)


def read_pins(root: Path) -> dict[str, Pin]:
    """The pins of the directory `root`, by directory below it. Raises `ModelUnavailable` when they cannot be read."""
    file = root / PINS
    try:
        content: Any = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelUnavailable(f"{file} cannot be read: {error}", hint="`sdstream models pin` writes it.") from None
    try:
        return {str(name): Pin(str(pin["commit"]), dict(pin["files"])) for name, pin in dict(content).items()}
    except (KeyError, TypeError, ValueError):
        raise ModelUnavailable(f"{file} holds no pins", hint="`sdstream models pin` writes it.") from None


def write_pins(root: Path) -> dict[str, Pin]:
    """Pin everything that was fetched below `root`; earlier pins of directories that are gone stay. Reads all bytes."""
    pins = read_pins(root) | {name: _pin_of(folder) for name, folder in fetched_folders(root)}
    content = {name: {"commit": pin.commit, "files": dict(pin.files)} for name, pin in sorted(pins.items())}
    part = root / f"{PINS}.part"
    part.write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    part.replace(root / PINS)
    return pins


def find_differences(root: Path) -> list[str]:
    """What of the pinned directories that are here is not as it was pinned. Reads all bytes."""
    pins, found = read_pins(root), list[str]()
    for name, folder in fetched_folders(root):
        pin = pins.get(name)
        if pin is None:
            found.append(f"{name} is not pinned")
            continue
        here = _pin_of(folder)
        if here.commit != pin.commit:
            found.append(f"{name} is at commit {here.commit[:10]}, and {pin.commit[:10]} is pinned")
        for file in sorted(pin.files.keys() | here.files.keys()):
            if file not in here.files:
                found.append(f"{name}/{file} is pinned and not here")
            elif file not in pin.files:
                found.append(f"{name}/{file} is not pinned")
            elif here.files[file] != pin.files[file]:
                found.append(f"{name}/{file} is not what was pinned")
    return found


def pinned_hash(folder: Path, name: str) -> str | None:
    """The SHA-256 that the file `name` of `folder`, a directory below `models`, is to have; None where not pinned."""
    if len(folder.parents) < 2 or not (folder.parents[1] / PINS).is_file():
        return None
    pin = read_pins(folder.parents[1]).get(f"{folder.parent.name}/{folder.name}")
    return None if pin is None else pin.files.get(name)


def fetched_folders(root: Path) -> Iterator[tuple[str, Path]]:
    """The directories below `root` that were fetched, by the name that they have there."""
    for manifest in sorted(root.glob(f"*/*/{MANIFEST}")):
        folder = manifest.parent
        if not folder.parent.name.startswith("."):
            yield f"{folder.parent.name}/{folder.name}", folder


def _pin_of(folder: Path) -> Pin:
    try:
        content: Any = json.loads((folder / MANIFEST).read_text("utf-8"))
        commit = str(cast("dict[str, Any]", content).get("commit", "")) if isinstance(content, dict) else ""
    except (OSError, ValueError):
        commit = ""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != MANIFEST)
    return Pin(commit, {path.relative_to(folder).as_posix(): _sha256(path) for path in files})


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


__all__ = ["MANIFEST", "PINS", "Pin", "find_differences", "pinned_hash", "read_pins", "write_pins"]
