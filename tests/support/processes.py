"""Whether processes are still there, asked while they end."""

import contextlib

import psutil


def is_gone(process: psutil.Process) -> bool:
    """Whether it has ended; one that nobody has waited for yet counts. It may vanish while it is being looked at."""
    with contextlib.suppress(psutil.NoSuchProcess):
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    return True


__all__ = ["is_gone"]
