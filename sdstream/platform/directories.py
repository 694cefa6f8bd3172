"""Directories whose names outlive a loss of power."""

import errno
import os
from pathlib import Path

from sdstream.platform import WINDOWS


def flush_directory(directory: Path) -> None:
    """Make the names in `directory` outlive a loss of power; where directories cannot be flushed, nothing."""
    if WINDOWS:
        return
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF):  # some network volumes cannot, and say so
            raise
    finally:
        os.close(descriptor)


__all__ = ["flush_directory"]
