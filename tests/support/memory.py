"""How much memory this process holds, without what its heaps only keep, and how often to look for a leak."""

import gc
import os

import psutil

from sdstream.platform.memory import release_free_memory


def held_bytes() -> int:
    """Resident memory, after what nothing uses was given back: what earlier tests of this process left behind may go
    back to the system, or be taken again, at any moment."""
    gc.collect()
    release_free_memory()
    return int(psutil.Process().memory_info().rss)


def cycles(usual: int) -> int:
    """How often a test that looks for a leak does what may leak: `usual`, or what `TEST_CYCLES` says.

    Such a test allows so many bytes a cycle that `usual` cycles tell a leak from the allocator's own ups and downs.
    """
    return int(os.environ.get("TEST_CYCLES") or usual)


__all__ = ["cycles", "held_bytes"]
