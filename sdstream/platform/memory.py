"""How much memory there is, how much this process holds, and how it is given back."""

import contextlib
import ctypes
import mmap
import os
import sys
from pathlib import Path

from sdstream.platform import LINUX

CONTAINER = Path("/sys/fs/cgroup")
"""Where the kernel tells of this container's memory."""


def process_memory() -> int | None:
    """Bytes of memory that this process holds now; None where the system does not tell without help."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * mmap.PAGESIZE


def peak_memory() -> int | None:
    """The most memory this process has held so far, in bytes; None where that is not known."""
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def memory_limit() -> int | None:
    """Bytes of memory that the processes of this machine, or of this container, may hold together; None if unknown."""
    limits: list[int] = []
    with contextlib.suppress(OSError, ValueError, AttributeError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE)
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max" is no number and no limit
            limits.append(int(Path(file).read_text("ascii")))
    return min(limits, default=None)


def free_memory() -> int | None:
    """Bytes of memory that programs can still be given, this container's limit respected; None where not known."""
    if not LINUX:
        return None
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):
        limit = (CONTAINER / "memory.max").read_text("utf-8").strip()
        if limit != "max":
            held = int((CONTAINER / "memory.current").read_text("utf-8")) - _cached_files()
            found.append(max(0, int(limit) - held))
    return min(found) if found else None


def _cached_files() -> int:
    """Bytes of files that this container's memory holds, and gives up when somebody needs it; 0 where not known."""
    with contextlib.suppress(OSError, ValueError):
        lines = (CONTAINER / "memory.stat").read_text("utf-8").splitlines()
        counts = dict(line.split() for line in lines)
        return int(counts.get("active_file", 0)) + int(counts.get("inactive_file", 0))
    return 0


def forget_pages(mapping: mmap.mmap) -> None:
    """Let go of the memory of a mapped file whose pages were only read; nothing where the system has no such call."""
    advice = getattr(mmap, "MADV_DONTNEED", None)
    if advice is not None:
        mapping.madvise(advice)


def release_free_memory() -> bool:
    """Give the system back the memory that the C library holds and nothing uses; whether it can here (glibc).

    Takes some milliseconds, in which other threads may wait for memory; the interpreter's lock is not held.
    """
    if not LINUX:
        return False
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    return trim is not None and bool(trim(0))


__all__ = ["forget_pages", "free_memory", "memory_limit", "peak_memory", "process_memory", "release_free_memory"]
