"""What a driver compiles of an engine when it first meets it on a card: made before streams need it, kept, shared.

A file for each kind of card lies in a folder beside the engine's own files, its hash before its bytes. TensorRT-RTX
compiles when a number of rows is first asked for, which takes seconds: done in a stream's frame, its picture would
stand still.
"""

import hashlib
import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol, runtime_checkable

from sdstream.engines.manifest import write_durably

SUFFIX = ".cache"
HEADER = 32
"""Bytes of the hash before what was compiled."""


@runtime_checkable
class CompilesLater(Protocol):
    """A loaded engine of which a driver compiles something when it is called."""

    def compile_for(self, rows: Iterable[int]) -> None:
        """Have it compiled for calls of so many rows, those that the engine does not take left out, and kept beside
        the engine. Takes seconds for each. Raises `EngineMismatch` when the engine does not run."""
        ...


def compile_now(runner: object, rows: Iterable[int]) -> None:
    """Leave nothing to be compiled in the first calls of `rows` rows. Raises `EngineMismatch` when it does not run."""
    if isinstance(runner, CompilesLater):
        runner.compile_for(rows)


def file_for(folder: Path, card: str) -> Path:
    """Where it is kept for a card of this name."""
    words = "".join(letter if letter.isalnum() else "-" for letter in card).lower()
    return folder / f"{words}{SUFFIX}"


def read_kernels(file: Path) -> bytes | None:
    """What was kept for a card; None when there is none, or it is not whole."""
    try:
        data = file.read_bytes()
    except OSError:
        return None
    blob = data[HEADER:]
    return blob if hashlib.sha256(blob).digest() == data[:HEADER] else None


def write_kernels(file: Path, blob: bytes) -> bool:
    """Keep it, whole or not at all; whether it could be written."""
    beside = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_durably(beside, hashlib.sha256(blob).digest() + blob)
        os.replace(beside, file)
    except OSError:
        return False  # a read-only volume: the next start compiles again
    return True


def share_kernels(folder: Path, other: Path, *, replace: bool) -> None:
    """Copy what is kept in `folder` and whole to `other`, in the place of what lies there only with `replace`."""
    try:
        files = sorted(folder.glob(f"*{SUFFIX}"))
    except OSError:
        return
    for file in files:
        blob, there = read_kernels(file), read_kernels(other / file.name)
        if blob is not None and blob != there and (replace or there is None):
            write_kernels(other / file.name, blob)


__all__ = [
    "CompilesLater",
    "compile_now",
    "file_for",
    "read_kernels",
    "share_kernels",
    "write_kernels",
]
