"""Memory that another process can open by its name."""

import errno
import mmap
import os
import tempfile
from pathlib import Path
from typing import Any

from sdstream.platform import LINUX, WINDOWS


def shared_memory_directory() -> Path:
    """Where files that live in memory are kept: the kernel's own place on Linux, the temporary directory elsewhere."""
    memory = Path("/dev/shm")
    return memory if LINUX and os.access(memory, os.W_OK) else Path(tempfile.gettempdir())


def create_shared_memory(name: str, size: int) -> mmap.mmap:
    """Make `size` bytes of memory that another process can open by `name`.

    Raises `FileExistsError` when the name is taken and `MemoryError` when there is no room: the pages are reserved
    here, because a full `/dev/shm` would otherwise kill the first process that writes to them (SIGBUS).
    """
    if WINDOWS:
        return _named_memory(name, size)
    path = shared_memory_directory() / name
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        _reserve(descriptor, size)
        return mmap.mmap(descriptor, size)
    except OSError as error:
        path.unlink(missing_ok=True)
        if error.errno == errno.ENOSPC:
            raise MemoryError(f"no room for {size} bytes in {path.parent}") from error
        raise
    finally:
        os.close(descriptor)


def open_shared_memory(name: str, size: int) -> mmap.mmap:
    """Map what `create_shared_memory` made. Raises `FileNotFoundError` when the name is gone."""
    if WINDOWS:
        return _named_memory(name, size)
    descriptor = os.open(shared_memory_directory() / name, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
    try:
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)


def unlink_shared_memory(name: str) -> None:
    """Take the name away; the memory goes when the last process lets go of it. Nothing happens if it is gone."""
    if not WINDOWS:
        (shared_memory_directory() / name).unlink(missing_ok=True)


def shared_memory_names(prefix: str) -> list[str]:
    """The names of shared memory that begin with `prefix`; none on Windows, where names end with their processes."""
    if WINDOWS:
        return []
    return sorted(entry.name for entry in os.scandir(shared_memory_directory()) if entry.name.startswith(prefix))


def shared_memory_modified_at(name: str) -> float | None:
    """When the memory was made, in seconds since 1970; None when it is gone."""
    try:
        return (shared_memory_directory() / name).stat().st_mtime
    except FileNotFoundError:
        return None


def _named_memory(name: str, size: int) -> mmap.mmap:
    anonymous: Any = mmap.mmap
    return anonymous(-1, size, tagname=name)


def _reserve(descriptor: int, size: int) -> None:
    reserve = getattr(os, "posix_fallocate", None)
    if reserve is None:  # macOS
        os.ftruncate(descriptor, size)
    else:
        reserve(descriptor, 0, size)


__all__ = [
    "create_shared_memory",
    "open_shared_memory",
    "shared_memory_directory",
    "shared_memory_modified_at",
    "shared_memory_names",
    "unlink_shared_memory",
]
