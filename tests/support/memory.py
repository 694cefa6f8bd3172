"""How much memory this process holds, without what its heaps only keep."""

import gc

import psutil

from sdstream.platform import release_free_memory


def held_bytes() -> int:
    """Resident memory, after what nothing uses was given back: what earlier tests of this process left behind may go
    back to the system, or be taken again, at any moment."""
    gc.collect()
    release_free_memory()
    return int(psutil.Process().memory_info().rss)


__all__ = ["held_bytes"]
