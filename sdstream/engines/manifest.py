"""The manifest of a stored engine: its key, and the size and hash of each of its files."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from sdstream.engine_errors import EngineBroken
from sdstream.engines.keys import EngineKey

MANIFEST = "manifest.json"
LARGEST_MANIFEST = 1024 * 1024
"""Bytes; what is longer was not written by this program."""
BLOCK = 1024 * 1024

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What a file of an engine must be."""

    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is stored beside an engine's files. `facts` are JSON-safe: how it was made, what was measured with it."""

    key: EngineKey
    files: Mapping[str, FileRecord]
    created_at: str
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(record.size for record in self.files.values())

    def dump(self) -> bytes:
        content = {
            "digest": self.key.digest,
            "base": self.key.base,
            "readable": self.key.readable,
            "key": self.key.as_json(),
            "files": {name: asdict(record) for name, record in sorted(self.files.items())},
            "created_at": self.created_at,
            "facts": dict(self.facts),
        }
        return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode("utf-8")

    @classmethod
    def parse(cls, data: bytes, where: str) -> "Manifest":
        """Raises `EngineBroken`, naming `where`, when these are not the bytes that `dump` wrote.

        The digest that it states is that of its own key, so one that was changed anywhere in its key is refused.
        """
        try:
            content: Any = json.loads(data)
            key = EngineKey.from_json(content["key"])
            stated = content["digest"]
            files = {
                str(name): FileRecord(int(record["size"]), str(record["sha256"]))
                for name, record in content["files"].items()
            }
            manifest = cls(key, files, str(content["created_at"]), dict(content["facts"]))
            # Here, since a key may hold what no hash and no name can be made of.
            digest, _, _ = key.digest, key.base, key.readable
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
            raise EngineBroken(f"{where} is not an engine's manifest: {error}") from error
        if stated != digest:
            raise EngineBroken(f"{where} says it is {stated}, and its key is {digest}")
        if not files or any(not is_file_name(name) or record.size < 0 for name, record in files.items()):
            raise EngineBroken(f"{where} names no files, or such as no engine has")
        return manifest


def is_file_name(name: str) -> bool:
    """Whether an engine may have a file of this name: one that leads nowhere else."""
    return _NAME.fullmatch(name) is not None and name != MANIFEST


def read_manifest(folder: Path) -> Manifest:
    """Raises `EngineBroken` when there is none that can be read, `FileNotFoundError` when the folder has none."""
    file = folder / MANIFEST
    try:
        with file.open("rb") as source:
            data = source.read(LARGEST_MANIFEST + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise EngineBroken(f"{file} cannot be read: {error.strerror}") from error
    if len(data) > LARGEST_MANIFEST:
        raise EngineBroken(f"{file} is longer than a manifest can be")
    return Manifest.parse(data, str(file))


def record_of(file: Path, tell: Callable[[int], None] = lambda count: None) -> FileRecord:
    """The size and hash of a file; `tell` is given the number of bytes of each block read."""
    content, size = hashlib.sha256(), 0
    with file.open("rb") as source:
        while block := source.read(BLOCK):
            content.update(block)
            size += len(block)
            tell(len(block))
    return FileRecord(size, content.hexdigest())


def check_files(folder: Path, manifest: Manifest) -> None:
    """Compare every file with the manifest.

    Raises `EngineBroken`, naming the first that differs, and `FileNotFoundError` when one is gone.
    """
    for name, wanted in sorted(manifest.files.items()):
        file = folder / name
        try:
            size = file.stat().st_size
            found = record_of(file) if size == wanted.size else FileRecord(size, "")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise EngineBroken(f"{file} cannot be read: {error.strerror}") from error
        if found.size != wanted.size:
            raise EngineBroken(f"{file} has {found.size} bytes and not {wanted.size}")
        if found != wanted:
            raise EngineBroken(f"{file} has the hash {found.sha256[:12]}... and not {wanted.sha256[:12]}...")


def write_durably(file: Path, data: bytes) -> None:
    """Write a small file so that it is whole after a loss of power. Raises `OSError`."""
    with file.open("wb") as target:
        target.write(data)
        target.flush()
        os.fsync(target.fileno())


__all__ = [
    "BLOCK",
    "LARGEST_MANIFEST",
    "MANIFEST",
    "FileRecord",
    "Manifest",
    "check_files",
    "is_file_name",
    "read_manifest",
    "record_of",
    "write_durably",
]
