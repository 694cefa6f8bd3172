"""Shared libraries: those that are loaded ahead of others, those that are loaded, and the CUDA driver's."""

import contextlib
import ctypes
from collections.abc import Sequence
from pathlib import Path


def preload_library(file: Path) -> None:
    """Load a shared library so that those loaded later find it by its own name, wherever it lies.

    Raises `OSError` when it cannot be loaded.
    """
    ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)


def mapped_files() -> str:
    """The kernel's list of what is mapped into this process, libraries among it; empty where there is no such list."""
    try:
        return Path("/proc/self/maps").read_text("utf-8", errors="replace")
    except OSError:
        return ""


def cuda_driver_version(names: Sequence[str] = ("libcuda.so.1", "nvcuda.dll")) -> int:
    """The newest CUDA that the driver knows, such as 13000; 0 without one. Torch tells it in some versions only."""
    for name in names:
        with contextlib.suppress(OSError):
            ctypes.CDLL(name).cuDriverGetVersion(ctypes.byref(found := ctypes.c_int(0)))
            return found.value
    return 0


__all__ = ["cuda_driver_version", "mapped_files", "preload_library"]
