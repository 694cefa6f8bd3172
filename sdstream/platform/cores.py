"""The cores of this machine: what they are called, what they can do, how many this process may use."""

import contextlib
import os
import platform
from pathlib import Path

from sdstream.platform import LINUX


def processor_name() -> str:
    """What the CPU is called."""
    if LINUX:
        with contextlib.suppress(OSError):
            for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
                name, _, value = line.partition(":")
                if name.strip() == "model name":
                    return value.strip()
    return platform.processor() or platform.machine()


def processor_features() -> list[str]:
    """The instruction sets of this CPU, sorted; its name alone where the system does not list them."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            name, _, value = line.partition(":")
            if name.strip().lower() in ("flags", "features"):
                return sorted(value.split())
    return [processor_name()]


def usable_cores() -> int:
    """The processor cores that this process may run on, at least one."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else (os.cpu_count() or 1)


__all__ = ["processor_features", "processor_name", "usable_cores"]
