"""Bearer keys: who may call, and as whom.

A key is 256 random bits, so one SHA-256 of it is safe to store: there is nothing to guess. `keys.json` in the data
directory holds the hashes, readable by its owner only and replaced atomically; `SDSTREAM_API_KEYS` adds keys that are
never written down.

Streams belong to the author of the key that made them. An operator's key sees and may change every stream: all keys of
`SDSTREAM_API_KEYS` are such, the first key of a data directory is, and whatever `create(..., operator=True)` makes.
"""

import asyncio
import hashlib
import hmac
import json
import os
import re
import secrets
import threading
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC
from pathlib import Path
from typing import Any, cast

import structlog

from sdstream.clock import Clock, SystemClock
from sdstream.errors import ConfigurationError
from sdstream.platform.directories import alone_in, give_to_owner_of
from sdstream.settings import Settings

FILE_NAME = "keys.json"
KEY_PREFIX = "sds_"
"""Every key starts so, which lets secret scanners find one that leaked."""
LONGEST_KEY = 4096
"""Characters; anything longer is refused before it is hashed."""
LONGEST_NAME = 200
REREAD_SECONDS = 1.0
"""How old may be what is known of a key that is accepted."""
UNKNOWN_REREAD_SECONDS = 0.1
"""The least time between two looks at the file that keys which are not known make."""
SLOW_DISK_SECONDS = 0.5
"""How long a request waits for a disk that does not answer, before it is judged by what is known."""
MOST_KEYS = 1000
"""Keys in the file; every request is compared with all of them."""
logger = structlog.get_logger(__name__)
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """What is known of one key; `digest` is the hexadecimal SHA-256 of the key, its first 12 digits are the `id`."""

    digest: str
    name: str
    author: str
    created_at: str
    operator: bool = False

    @property
    def id(self) -> str:
        """A short public name of the key, for lists, logs and `revoke`."""
        return self.digest[:12]


@dataclass(slots=True, eq=False)
class _Wish:
    """A key that is to be stored. `error` says why it was not, once it `is_answered`."""

    digest: str
    name: str
    author: str | None
    operator: bool | None
    is_answered: bool = False
    error: ConfigurationError | None = None

    def entry(self, clock: Clock, *, is_first: bool) -> KeyEntry:
        return KeyEntry(
            digest=self.digest,
            name=self.name,
            author=self.author or f"usr_{secrets.token_hex(6)}",
            created_at=clock.now().astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
            operator=is_first if self.operator is None else self.operator,
        )


class KeyRing:
    """All keys that are accepted. Reads `keys.json` again when another process has changed it. Safe between threads."""

    def __init__(self, file: Path, fixed: Iterable[KeyEntry] = (), clock: Clock | None = None) -> None:
        self._file = file
        self._fixed = tuple(fixed)
        self._lent: dict[str, KeyEntry] = {}
        self._clock = clock or SystemClock()
        self._stamp: tuple[int, int, int] | None = None
        self._stored: tuple[KeyEntry, ...] = ()
        self._read_at = float("-inf")
        self._writing = threading.Lock()
        self._wishes: deque[_Wish] = deque()
        self._reading = threading.Lock()
        self._reread: asyncio.Task[None] | None = None
        self._next_reread: asyncio.Task[None] | None = None
        self._read_again()

    @classmethod
    def open(cls, data_dir: Path, settings: Settings, clock: Clock | None = None) -> "KeyRing":
        """The keys of `data_dir` and of `settings.api_keys`; makes none.

        Raises `ConfigurationError` when keys.json cannot be read.
        """
        fixed = [
            KeyEntry(
                digest=_digest(key.get_secret_value()),
                name="SDSTREAM_API_KEYS",
                author=f"usr_{_digest(key.get_secret_value())[:12]}",
                created_at="",
                operator=True,
            )
            for key in settings.api_keys
        ]
        return cls(data_dir / FILE_NAME, fixed, clock)

    def is_empty(self) -> bool:
        """Whether no key at all is accepted."""
        self._read_again()
        return not self._stored and not self._fixed

    def check(self, key: str) -> str | None:
        """The author of `key`, None when it is not one of ours."""
        entry = self.find(key)
        return entry.author if entry else None

    def find(self, key: str) -> KeyEntry | None:
        """The entry of `key`, None when it is not one of ours. Takes the same time for every wrong key.

        A key made by another process is known at once, one revoked there is forgotten within a second.
        """
        if not key or len(key) > LONGEST_KEY:
            return None
        digest = _digest(key)
        fresh = self._clock.monotonic() - self._read_at < REREAD_SECONDS
        found = self._compare(digest) if fresh else None
        if found is not None:
            return found
        self._refresh()
        return self._compare(digest)

    def _refresh(self) -> None:
        try:
            self._read_again()
        except ConfigurationError as error:  # a spoilt file must not lock out those who work
            logger.error("keys.json was not read again", problem=error.message)

    async def find_soon(self, key: str) -> KeyEntry | None:
        """As `find`, for an event loop: the file is looked at in a thread, and a disk that hangs holds nobody up long.

        A key that is not known waits for a look that begins after the call, so one that another process has just made
        is never refused; there are ten such looks a second at most, however many wrong keys are tried.
        """
        if not key or len(key) > LONGEST_KEY:
            return None
        digest = _digest(key)
        found = self._compare(digest)
        if found is not None and self._clock.monotonic() - self._read_at < REREAD_SECONDS:
            return found
        reread = self._coming_reread() if found is None else self._running_reread() or self._coming_reread()
        await asyncio.wait((reread,), timeout=SLOW_DISK_SECONDS)
        return self._compare(digest)

    def _running_reread(self) -> asyncio.Task[None] | None:
        return None if self._reread is None or self._reread.done() else self._reread

    def _coming_reread(self) -> asyncio.Task[None]:
        """The look at the file that all who ask now share: it has not begun, so it sees what is there now."""
        if self._next_reread is None or self._next_reread.done():
            self._next_reread = asyncio.create_task(self._reread_in_turn(self._running_reread()))
        return self._next_reread

    async def _reread_in_turn(self, running: asyncio.Task[None] | None) -> None:
        if running is not None:
            await asyncio.wait((running,))
        await asyncio.sleep(self._read_at + UNKNOWN_REREAD_SECONDS - self._clock.monotonic())
        self._reread, self._next_reread = self._next_reread, None
        await asyncio.to_thread(self._refresh)

    def _compare(self, digest: str) -> KeyEntry | None:
        found: KeyEntry | None = None
        for entry in (*self._fixed, *self._lent.values(), *self._stored):  # all of them, so that the time tells nothing
            if hmac.compare_digest(entry.digest, digest):
                found = entry
        return found

    def create(self, name: str, *, author: str | None = None, operator: bool | None = None) -> str:
        """Make a key, store its hash and return the key, which cannot be had again.

        `author` defaults to a new one, `operator` to whether this is the first key of all. Raises `ConfigurationError`
        when keys.json cannot be written.
        """
        key = KEY_PREFIX + secrets.token_urlsafe(32)
        wish = _Wish(_digest(key), name.strip()[:LONGEST_NAME] or "unnamed", author, operator)
        self._wishes.append(wish)
        with self._writing:
            # Whoever comes first writes for all who wait: one wait for the disk, however many keys are made at once.
            if not wish.is_answered:
                self._answer_wishes()
        if wish.error is not None:
            raise wish.error
        return key

    def lend(self, name: str, author: str) -> str:
        """A key of `author` that is kept in memory only, until `take_back` or the end of the process."""
        key = KEY_PREFIX + secrets.token_urlsafe(32)
        self._lent[key] = KeyEntry(digest=_digest(key), name=name, author=author, created_at="")
        return key

    def take_back(self, key: str) -> None:
        """Forget a lent key. Idempotent."""
        self._lent.pop(key, None)

    def _answer_wishes(self) -> None:
        wishes = [self._wishes.popleft() for _ in range(len(self._wishes))]
        try:
            with alone_in(self._file.parent):  # or a key that another process makes now would be lost
                self._add(wishes)
        except ConfigurationError as error:
            for wish in wishes:  # one for each: several threads raise them
                wish.error = ConfigurationError(error.message, hint=error.hint)
        for wish in wishes:
            wish.is_answered = True

    def _add(self, wishes: list[_Wish]) -> None:
        self._read_again()
        entries = list(self._stored)
        for wish in wishes:
            if len(entries) >= MOST_KEYS:
                wish.error = ConfigurationError(
                    f"there are {len(entries)} keys already", hint="`sdstream key` shows and revokes keys."
                )
            else:
                entries.append(wish.entry(self._clock, is_first=not entries and not self._fixed))
        if len(entries) > len(self._stored):
            self._write(tuple(entries))

    def entries(self) -> tuple[KeyEntry, ...]:
        """Every key, those of the settings first."""
        self._read_again()
        return (*self._fixed, *self._stored)

    def revoke(self, key_id: str) -> bool:
        """Forget the stored key with this `id`; False when there is none. Keys of the settings cannot be revoked."""
        with self._writing, alone_in(self._file.parent):
            self._read_again()
            left = tuple(entry for entry in self._stored if entry.id != key_id)
            if len(left) == len(self._stored):
                return False
            self._write(left)
            return True

    def _read_again(self) -> None:
        """Raises `ConfigurationError` when the file is there and cannot be read or understood."""
        with self._reading:
            self._read_file()

    def _read_file(self) -> None:
        self._read_at = self._clock.monotonic()
        try:
            status = self._file.stat()
        except (FileNotFoundError, NotADirectoryError):
            # Of a data directory that is a file more is said when it is prepared.
            self._stamp, self._stored = None, ()
            return
        except OSError as error:
            raise ConfigurationError(f"cannot read the keys in {self._file}: {error.strerror}") from None
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp != self._stamp:
            self._stamp = stamp  # first, so that a bad file is complained of once and the keys in memory go on
            self._stored = _load(self._file)

    def _write(self, entries: tuple[KeyEntry, ...]) -> None:
        content = json.dumps({"keys": [asdict(entry) for entry in entries]}, indent=2).encode()
        temporary = self._file.with_name(f"{FILE_NAME}.{secrets.token_hex(4)}.tmp")
        try:
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                with os.fdopen(handle, "wb") as target:
                    give_to_owner_of(self._file.parent, handle)
                    target.write(content)
                    target.flush()
                    os.fsync(target.fileno())
                os.replace(temporary, self._file)
            except OSError:
                with suppress(OSError):
                    os.unlink(temporary)
                raise
        except OSError as error:
            raise ConfigurationError(f"cannot write the keys to {self._file}: {error.strerror}") from None
        self._stamp = None
        self._read_again()


def _digest(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _load(file: Path) -> tuple[KeyEntry, ...]:
    try:
        content = json.loads(file.read_bytes())
        members = [field.name for field in fields(KeyEntry)]
        raw = cast("list[dict[str, Any]]", content["keys"])
        entries = tuple(KeyEntry(**{name: item[name] for name in members if name in item}) for item in raw)
        if not all(_DIGEST.fullmatch(entry.digest) for entry in entries):
            raise ValueError("a digest is not 64 hexadecimal digits")
    except OSError as error:
        raise ConfigurationError(f"cannot read the keys in {file}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            f"the keys in {file} cannot be understood: {error}",
            hint="Restore the file, or remove it: the next start makes a new key.",
        ) from None
    return entries


def parse_bearer(header: str | None) -> str | None:
    """The key in an `Authorization` header, None when there is none; `Bearer Bearer KEY` counts as `Bearer KEY`."""
    if header is None:
        return None
    scheme, _, rest = header.strip().partition(" ")
    if scheme.lower() != "bearer":
        return None
    rest = rest.strip()
    while rest[:7].lower() == "bearer ":
        rest = rest[7:].strip()
    return rest or None


__all__ = ["FILE_NAME", "KEY_PREFIX", "KeyEntry", "KeyRing", "parse_bearer"]
