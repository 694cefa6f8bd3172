"""Directories whose names outlive a loss of power, and whose files belong to whoever they belong to."""

import contextlib
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


def give_to_owner_of(directory: Path, handle: int) -> None:
    """Give an open file to the owner of `directory` when this process is root; where root may not, nothing.

    Root in a shell of the container must leave nothing that the server, another user, cannot read.
    """
    if not WINDOWS and os.geteuid() == 0:
        with contextlib.suppress(OSError):
            owner = directory.stat()
            os.fchown(handle, owner.st_uid, owner.st_gid)


__all__ = ["flush_directory", "give_to_owner_of"]
