"""Room in a cache: which engines go when it is over its limit, and what dead processes left in it.

Several workers may tidy one network volume. One does at a time; an engine that somebody used a moment ago stays, and
whoever has one in force says so again and again (`EngineCache.touch`). Moments are the volume's own, as hosts' clocks
may disagree.
"""

import contextlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from sdstream.engine_errors import EngineStoreUnavailable
from sdstream.engines.entry import DRAFTS, LOCKS, QUARANTINE, TRASH, USED, Entry
from sdstream.engines.events import EngineEvent
from sdstream.engines.locks import BuildLock
from sdstream.engines.manifest import MANIFEST

if TYPE_CHECKING:
    from sdstream.engines.cache import EngineCache

DAY = 86400.0


def evict(cache: "EngineCache", keep: Entry | None = None) -> list[Entry]:
    """Remove the engines used longest ago until the rest fits the limit of `cache`, and return them.

    `keep` stays in any case, and so does what was used within the grace of the cache: it may be over its limit then.
    Nothing is removed where another process does the same at this moment. Who runs an engine has it open or in memory,
    so one in use may go. Raises `EngineStoreUnavailable` where nothing can be written.
    """
    if cache.limit is None or cache.size() <= cache.limit:
        return []
    file = cache.directory / LOCKS / "evict.lock"
    lock = BuildLock(file)
    if not lock.try_acquire():
        return []
    try:
        return _evict(cache, cache.limit, keep, file)
    finally:
        lock.release()


def _evict(cache: "EngineCache", limit: int, keep: Entry | None, lock: Path) -> list[Entry]:
    entries = sorted(cache.entries(), key=last_use)
    size, removed = sum(entry.manifest.size for entry in entries), list[Entry]()
    for entry in entries:
        if size <= limit:
            break
        if keep is not None and entry.folder == keep.folder:
            continue
        # Asked again now: somebody may have used it since the others were removed.
        if cache.grace and _moment(lock) - last_use(entry) < cache.grace:
            continue
        with contextlib.suppress(EngineStoreUnavailable):  # reported; the next may go
            cache.remove(entry)
            size -= entry.manifest.size
            removed.append(entry)
            cache.report(EngineEvent("evicted", entry.name, f"{entry.manifest.size} bytes"))
    return removed


def collect(cache: "EngineCache", older_than: float = DAY) -> list[Path]:
    """Remove what dead builders and fetches left, and quarantined entries; both only when untouched for as many
    seconds."""
    removed: list[Path] = []
    for kind in (DRAFTS, QUARANTINE, TRASH):
        parent = cache.directory / kind
        for folder in sorted(parent.iterdir()) if parent.is_dir() else []:
            if cache.clock.now().timestamp() - _newest(folder) >= older_than:
                shutil.rmtree(folder, ignore_errors=True)
                removed.append(folder)
    return removed


def last_use(entry: Entry) -> float:
    """When an engine was last used or stored, in the volume's seconds since 1970."""
    for file in (entry.folder / USED, entry.folder / MANIFEST):
        with contextlib.suppress(OSError):
            return file.stat().st_mtime
    return 0.0


def _moment(lock: Path) -> float:
    """Now, as the volume has it: a lock that is held shows it by its time, and again every few seconds."""
    try:
        return lock.stat().st_mtime
    except OSError:
        return 0.0  # nothing is old then


def _newest(folder: Path) -> float:
    newest = 0.0
    for place in (folder, *folder.rglob("*")):
        with contextlib.suppress(OSError):
            newest = max(newest, place.stat().st_mtime)
    return newest


__all__ = ["collect", "evict", "last_use"]
