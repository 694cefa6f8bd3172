"""Directories whose names outlive a loss of power, and whose files belong to whoever they belong to."""

import contextlib
import errno
import os
from collections.abc import Generator
from pathlib import Path

from sdstream.clock import pause
from sdstream.platform import WINDOWS

LOCK_SECONDS = 5.0
"""How long another process is waited for that has a directory; what is done meanwhile takes milliseconds."""
LOCK_PAUSE = 0.01


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


@contextlib.contextmanager
def alone_in(directory: Path) -> Generator[None]:
    """Have processes, and threads, that ask for the same directory go one after another.

    No promise: one that does not let go within `LOCK_SECONDS` is passed, and where directories cannot be locked, as on
    Windows and some network volumes, nobody waits.
    """
    with contextlib.ExitStack() as stack:
        if not WINDOWS:
            with contextlib.suppress(OSError):
                descriptor = os.open(directory, os.O_RDONLY)
                stack.callback(os.close, descriptor)  # which lets go of it
                _lock(descriptor)
        yield


def _lock(descriptor: int) -> None:
    import fcntl  # not on Windows

    for _ in range(round(LOCK_SECONDS / LOCK_PAUSE)):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pause(LOCK_PAUSE)
        else:
            return


__all__ = ["alone_in", "flush_directory", "give_to_owner_of"]
