"""A directory of engines that several workers and builders share, on a local disk or a network volume.

    engines/BASE/PLACE/manifest.json ...      an engine, there whole or not at all
    engines/.drafts/                          engines being written; a rename makes one of them an entry
    engines/.locks/                           who builds what
    engines/.quarantine/                      entries that were not what their manifests say, with the reason

Nothing here trusts a file: `take` gives an engine only after every byte was compared with the manifest's hashes.
"""

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sdstream.clock import Clock, SystemClock
from sdstream.engine_errors import EngineBroken, EngineStoreUnavailable
from sdstream.engines.entry import DRAFTS, LOCKS, QUARANTINE, TRASH, USED, Accepts, Entry, anything
from sdstream.engines.events import EngineEvent, EngineEventKind, Report, say_nothing
from sdstream.engines.keys import EngineKey, is_digest, target_of_place
from sdstream.engines.locks import BuildLock
from sdstream.engines.manifest import (
    MANIFEST,
    Manifest,
    check_files,
    is_file_name,
    read_manifest,
    record_of,
    write_durably,
)
from sdstream.engines.tidying import evict
from sdstream.platform.directories import flush_directory

MARGIN = 64 * 1024 * 1024
"""Bytes that stay free on a disk that engines are written to."""
TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.EISDIR, errno.EACCES)
"""What a rename onto a directory that has files in it says, by system."""


class EngineCache:
    """The engines of one directory. Threads and processes may share the directory; each makes its own object."""

    def __init__(
        self,
        directory: Path,
        *,
        limit: int | None = None,
        grace: float = 0.0,
        report: Report = say_nothing,
        clock: Clock | None = None,
    ) -> None:
        """`limit` is the size in bytes above which the engines used longest ago are removed, but for those used within
        `grace` seconds."""
        self.directory = directory
        self.limit = limit
        self.grace = grace
        self.report = report
        self.clock: Clock = SystemClock() if clock is None else clock
        self._refused: set[Path] = set()
        """Broken entries that could not be put aside, because the volume is read-only."""

    # -- reading

    def entries(self) -> list[Entry]:
        """Every engine, by name; their files are not looked into. One whose manifest cannot be read is put aside."""
        found = [entry for base in self._bases() for entry in self._entries_of(base)]
        return sorted(found, key=lambda entry: entry.name)

    def peek(self, base: str, accepts: Accepts = anything) -> Entry | None:
        """The first engine of `base` that `accepts`, its files not looked into; None when there is none."""
        return next((entry for entry in self._entries_of(base) if accepts(entry.key)), None)

    def take(self, base: str, accepts: Accepts = anything) -> Entry | None:
        """An engine of `base` that `accepts`, every byte compared with its manifest; None when there is none.

        A broken one is put aside, reported, and is not there.
        """
        for entry in self._entries_of(base):
            if accepts(entry.key) and self.verify(entry):
                self.touch(entry.key)
                return entry
        return None

    def verify(self, entry: Entry) -> bool:
        """Whether every byte of an entry is right; when not, it is put aside and reported."""
        try:
            check_files(entry.folder, entry.manifest)
        except FileNotFoundError as error:
            if entry.folder.is_dir() and not Path(error.filename).exists():
                self.set_aside(entry.folder, f"{error.filename} is missing", entry.name)
            return False  # else somebody removed it at this moment, or has put another there since
        except EngineBroken as error:
            self.set_aside(entry.folder, error.message, entry.name)
            return False
        return True

    def touch(self, key: EngineKey) -> None:
        """Note that an engine is used now, if it is here; on a read-only volume nothing is noted."""
        with contextlib.suppress(OSError):
            (self._folder(key) / USED).touch()

    def size(self) -> int:
        """Bytes of all engines, by their manifests."""
        return sum(entry.manifest.size for entry in self.entries())

    # -- writing

    def lock(self, key: EngineKey) -> BuildLock:
        """The lock of whoever builds `key`, not yet taken."""
        return BuildLock(self.directory / LOCKS / f"{key.digest}.lock")

    @contextmanager
    def draft(self, name: str | None = None) -> Generator[Path]:
        """A directory to write an engine's files into; what is left in it at the end is removed.

        One with a `name` stays instead, to be gone on with by who asks for the same name next.
        Raises `EngineStoreUnavailable` when it cannot be made.
        """
        folder = self.directory / DRAFTS / (name or f"{os.getpid()}-{secrets.token_hex(8)}")
        try:
            folder.mkdir(parents=True, exist_ok=name is not None)
        except OSError as error:
            raise self._unavailable(folder, error, "") from error
        try:
            yield folder
        finally:
            if name is None:
                shutil.rmtree(folder, ignore_errors=True)

    def store(self, draft: Path, key: EngineKey, facts: Mapping[str, Any] | None = None) -> Entry:
        """Make the files in `draft` the engine of `key`; they are on the disk for good when this returns.

        Where a whole engine of this key is there already, that one stays and is returned. Raises
        `EngineStoreUnavailable` when the disk is full or read-only; the cache is as before then.
        """
        try:
            files = {file.name: record_of(file) for file in sorted(draft.iterdir())}
        except OSError as error:
            raise self._unavailable(draft, error, key.readable) from error
        bad = [name for name in files if not is_file_name(name)]
        if bad or not files:
            raise ValueError(f"a draft holds the files of one engine, and not {bad}")
        return self.adopt(draft, Manifest(key, files, self.clock.now().isoformat(), dict(facts or {})))

    def adopt(self, draft: Path, manifest: Manifest) -> Entry:
        """Like `store`, for files whose manifest is there already and was compared with them."""
        target = self._folder(manifest.key)
        try:
            self._settle(draft, manifest)
            target.parent.mkdir(parents=True, exist_ok=True)
            self._move(draft, target, manifest.key)
            flush_directory(target.parent)
        except OSError as error:
            raise self._unavailable(target, error, manifest.key.readable) from error
        entry = Entry(target, read_manifest(target))
        self._refused.discard(target)
        self.touch(entry.key)
        self._tell("stored", entry.name, str(target))
        evict(self, keep=entry)
        return entry

    def annotate(self, entry: Entry, facts: Mapping[str, Any]) -> Entry:
        """Add `facts` to an entry's manifest. Raises `EngineStoreUnavailable` when it cannot be written."""
        manifest = Manifest(
            entry.key, entry.manifest.files, entry.manifest.created_at, {**entry.manifest.facts, **facts}
        )
        beside = entry.folder / f".{MANIFEST}.{secrets.token_hex(8)}"
        try:
            write_durably(beside, manifest.dump())
            os.replace(beside, entry.folder / MANIFEST)
        except OSError as error:
            with contextlib.suppress(OSError):
                beside.unlink(missing_ok=True)
            raise self._unavailable(entry.folder, error, entry.name) from error
        return Entry(entry.folder, manifest)

    def copy_from(self, other: "EngineCache", entry: Entry) -> Entry | None:
        """Copy an engine of `other`, such as a network volume, into this cache, such as a local disk.

        What was read is what is compared with the manifest, so a volume that changes meanwhile does no harm. None when
        the engine turned out broken; it is put aside in `other`. Raises `EngineStoreUnavailable` when it cannot be
        written here.
        """
        self.require_room(entry.manifest.size)
        other.touch(entry.key)  # before it is read, so that nobody removes it meanwhile
        with self.draft() as draft:
            try:
                for name in entry.manifest.files:
                    shutil.copyfile(entry.file(name), draft / name)
                check_files(draft, entry.manifest)
            except (EngineBroken, OSError) as error:
                if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
                    raise self._unavailable(draft, error, entry.name) from error
                # Broken, or removed or exchanged for another at this moment: what is there now tells.
                there = other.peek(entry.key.base, lambda key: key.digest == entry.key.digest)
                if there is not None:
                    other.verify(there)
                return None
            copied = self.adopt(draft, entry.manifest)
        other.touch(entry.key)
        self._tell("fetched", entry.name, f"from {other.directory}")
        return copied

    def require_room(self, size: int) -> None:
        """Raises `EngineStoreUnavailable` when `size` bytes do not fit on the disk."""
        free = self.free_bytes()
        if free is not None and free < size + MARGIN:
            text = f"{self.directory} has {free // 2**20} MiB free, and {(size + MARGIN) // 2**20} MiB are needed"
            self._tell("store_unavailable", "", text)
            raise EngineStoreUnavailable(text)

    def free_bytes(self) -> int | None:
        """Room on the disk of the cache, None where that cannot be told."""
        place = self.directory
        while not place.exists() and place != place.parent:
            place = place.parent
        try:
            return shutil.disk_usage(place).free
        except OSError:
            return None

    # -- tidying

    def set_aside(self, folder: Path, reason: str, name: str = "") -> None:
        """Put a broken entry where nobody loads it from, with the reason; it is never given out again."""
        self._refused.add(folder)
        aside = self.directory / QUARANTINE / f"{folder.parent.name[:12]}-{folder.name}-{secrets.token_hex(4)}"
        where = ""
        try:
            aside.parent.mkdir(parents=True, exist_ok=True)
            os.rename(folder, aside)
            (aside / "reason.txt").write_text(reason + "\n", "utf-8")
            self._refused.discard(folder)
            where = f"; it is in {aside}"
        except FileNotFoundError:
            return  # somebody was faster
        except OSError as error:
            where = f"; it cannot be put aside ({error.strerror}) and is left out from now on"
        self._tell("broken", name or folder.name, reason + where)

    def remove(self, entry: Entry) -> None:
        """Remove an entry: renamed first, so nobody finds half of it."""
        aside = self.directory / TRASH / secrets.token_hex(8)
        try:
            aside.parent.mkdir(parents=True, exist_ok=True)
            os.rename(entry.folder, aside)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._unavailable(entry.folder, error, entry.name) from error
        shutil.rmtree(aside, ignore_errors=True)
        with contextlib.suppress(OSError):
            entry.folder.parent.rmdir()

    # -- inside

    def _bases(self) -> list[str]:
        try:
            return sorted(name for name in os.listdir(self.directory) if is_digest(name))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise self._unavailable(self.directory, error, "") from error

    def _entries_of(self, base: str) -> list[Entry]:
        parent = self.directory / base
        try:
            places = sorted(name for name in os.listdir(parent) if target_of_place(name))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise self._unavailable(parent, error, "") from error
        found: list[Entry] = []
        for place in places:
            folder = parent / place
            if folder in self._refused:
                continue
            try:
                manifest = read_manifest(folder)
            except FileNotFoundError:
                if folder.is_dir():
                    self.set_aside(folder, f"{MANIFEST} is missing")
                continue
            except EngineBroken as error:
                self.set_aside(folder, error.message)
                continue
            if (manifest.key.base, manifest.key.place) != (base, place):
                self.set_aside(folder, f"the engine of {manifest.key.readable} lies in another's place")
                continue
            found.append(Entry(folder, manifest))
        return found

    def _folder(self, key: EngineKey) -> Path:
        return self.directory / key.base / key.place

    def _settle(self, draft: Path, manifest: Manifest) -> None:
        for name in manifest.files:
            descriptor = os.open(draft / name, os.O_RDWR)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        write_durably(draft / MANIFEST, manifest.dump())
        flush_directory(draft)

    def _move(self, draft: Path, target: Path, key: EngineKey) -> None:
        """Rename the draft to its place; where a whole engine is, that one stays."""
        for _ in range(3):
            try:
                os.rename(draft, target)
            except OSError as error:
                if error.errno not in TAKEN or not target.exists():
                    raise
            else:
                return
            there = self.peek(key.base, lambda other: other.digest == key.digest)
            if there is not None and self.verify(there):
                return
        raise OSError(errno.EEXIST, "somebody keeps putting broken files there", str(target))

    def _unavailable(self, place: Path, error: OSError, name: str) -> EngineStoreUnavailable:
        words = {
            errno.ENOSPC: "the disk is full",
            errno.EDQUOT: "the quota is used up",
            errno.EROFS: "the volume is read-only",
        }.get(error.errno or 0, error.strerror or str(error))
        self._tell("store_unavailable", name, f"{place}: {words}")
        return EngineStoreUnavailable(f"{place}: {words}")

    def _tell(self, kind: EngineEventKind, name: str, detail: str) -> None:
        self.report(EngineEvent(kind, name, detail))


__all__ = ["EngineCache"]
