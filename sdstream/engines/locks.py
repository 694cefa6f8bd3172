"""Who builds an engine: a lock file that several machines on one network volume see, and that no crash leaves shut.

A lock saves work; it does not keep engines right. Two builders of one engine both end well, because an engine appears
by one rename. So the rare race of two that break the same stale lock costs a second build and nothing else.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType

from sdstream.engine_errors import EngineStoreUnavailable
from sdstream.platform.processes import process_exists

BEAT = 5.0
"""Seconds between signs of life of a holder."""
STALE = 60.0
"""Seconds without one after which the holder is taken for dead, by the clock of the volume."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock."""

    host: str
    process_id: int
    token: str

    @classmethod
    def present(cls) -> "Holder":
        """This process, with a token of its own."""
        return cls(socket.gethostname(), os.getpid(), secrets.token_hex(8))

    @property
    def is_dead(self) -> bool:
        """Known to be: on this machine, and not running. Of other machines only their silence tells."""
        return self.host == socket.gethostname() and not process_exists(self.process_id)


class BuildLock:
    """Held while an engine is built; `with lock:`, or `try_acquire` and `release`. For one thread."""

    def __init__(self, file: Path, *, beat: float = BEAT, stale: float = STALE) -> None:
        self._file = file
        self._beat = beat
        self._stale = stale
        self._holder = Holder.present()
        self._ended: threading.Event | None = None
        self.broke_one = False
        """Whether a dead builder's lock was in the way and was removed."""

    @property
    def is_held(self) -> bool:
        return self._ended is not None

    def holder(self) -> Holder | None:
        """Who has it now; None when nobody does, or the file is half written."""
        try:
            return Holder(**json.loads(self._file.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None

    def try_acquire(self) -> bool:
        """Take the lock if it is free or its holder is dead. Raises `EngineStoreUnavailable` when none can be made."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EngineStoreUnavailable(f"{self._file.parent} cannot be made: {error.strerror}") from error
        for _ in range(3):  # a stale one is removed, and somebody else may be faster then
            try:
                descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
            except FileExistsError:
                if not self._remove_stale():
                    return False
                continue
            except OSError as error:
                raise EngineStoreUnavailable(f"{self._file} cannot be made: {error.strerror}") from error
            try:
                os.write(descriptor, json.dumps(asdict(self._holder)).encode("utf-8"))
            except OSError as error:
                self._file.unlink(missing_ok=True)
                raise EngineStoreUnavailable(f"{self._file} cannot be written: {error.strerror}") from error
            finally:
                os.close(descriptor)
            self._start_beating()
            return True
        return False

    def release(self) -> None:
        """Let go; a lock that somebody took meanwhile, because this one seemed dead, stays theirs."""
        if self._ended is None:
            return
        self._ended.set()
        self._ended = None
        if self.holder() == self._holder:
            self._file.unlink(missing_ok=True)

    def __enter__(self) -> "BuildLock":
        if not self.try_acquire():
            raise EngineStoreUnavailable(f"{self._file} is held by {self.holder()}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def _remove_stale(self) -> bool:
        """Whether the lock was a dead builder's and is gone now."""
        holder = self.holder()
        if not (holder is not None and holder.is_dead) and self._silence() < self._stale:
            return False
        aside = self._file.with_suffix(f".{secrets.token_hex(8)}.dead")
        try:
            os.rename(self._file, aside)
        except FileNotFoundError:
            return True
        except OSError as error:
            raise EngineStoreUnavailable(f"{self._file} cannot be removed: {error.strerror}") from error
        aside.unlink(missing_ok=True)
        self.broke_one = True
        return True

    def _silence(self) -> float:
        """Seconds since the last sign of life, both moments told by the volume: hosts' clocks may disagree."""
        probe = self._file.with_suffix(f".{secrets.token_hex(8)}.probe")
        try:
            probe.touch()
            return probe.stat().st_mtime - self._file.stat().st_mtime
        except FileNotFoundError:
            return float("inf")
        except OSError:
            return 0.0  # cannot be told, so it is taken for alive
        finally:
            with contextlib.suppress(OSError):
                probe.unlink(missing_ok=True)

    def _start_beating(self) -> None:
        ended = self._ended = threading.Event()

        def beat() -> None:
            while not ended.wait(self._beat):
                try:
                    os.utime(self._file)
                except OSError:  # gone, or the volume is: whoever waits decides by the silence
                    continue

        threading.Thread(target=beat, name="engine-lock", daemon=True).start()


__all__ = ["BEAT", "STALE", "BuildLock", "Holder"]
