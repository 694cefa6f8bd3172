"""One engine in a cache, and what lies beside its own files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sdstream.engines.keys import EngineKey
from sdstream.engines.manifest import Manifest

DRAFTS, LOCKS, QUARANTINE, TRASH = ".drafts", ".locks", ".quarantine", ".trash"
"""Folders of a cache beside its engines."""
USED = "last-used"
"""A file beside an engine's own; its time is that of the engine's last use."""
RUNTIME = "runtime"
"""A folder beside an engine's own files for what a GPU's driver makes of it; not part of the engine."""


Accepts = Callable[[EngineKey], bool]
"""Whether an engine of a base can be used."""


def anything(key: EngineKey) -> bool:
    """Accepts every engine of a base."""
    return True


@dataclass(frozen=True, slots=True)
class Entry:
    """An engine in a cache: looked into when `EngineCache.take` gave it, not yet when `entries` did."""

    folder: Path
    manifest: Manifest

    @property
    def key(self) -> EngineKey:
        return self.manifest.key

    @property
    def name(self) -> str:
        """For people."""
        return self.key.readable

    def file(self, name: str) -> Path:
        return self.folder / name

    @property
    def runtime_folder(self) -> Path:
        """Where what a driver makes of the engine is kept; it may not be there."""
        return self.folder / RUNTIME


__all__ = ["DRAFTS", "LOCKS", "QUARANTINE", "RUNTIME", "TRASH", "USED", "Accepts", "Entry", "anything"]
