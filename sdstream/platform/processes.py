"""Processes: parents and children, signals, and who goes first."""

import asyncio
import base64
import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

from sdstream.platform import LINUX, WINDOWS

SET_PARENT_DEATH_SIGNAL = 1
"""`PR_SET_PDEATHSIG` of `<linux/prctl.h>`."""


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when the thread that started it ends; Linux only, elsewhere nothing.

    `parent` is the process id of the starter: when it has ended before this call, this process exits at once.
    Trap: the signal comes at the end of the starting *thread*, so children must be started from one that lasts.
    """
    if not LINUX:
        return
    library = ctypes.CDLL(None, use_errno=True)
    if library.prctl(SET_PARENT_DEATH_SIGNAL, int(signal.SIGKILL), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        os._exit(1)


DIE_WITH_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, int(signal.SIGKILL), 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def die_with_parent_command(command: Sequence[str]) -> list[str]:
    """A command that runs `command`, a program that is not ours, so that the kernel kills it when this process ends.

    Elsewhere than on Linux it is `command` itself. The trap of `die_with_parent` is here too. A program with a set-user
    bit or file capabilities loses the mark when it starts.
    """
    if not LINUX:
        return list(command)
    return [sys.executable, "-I", "-S", "-c", DIE_WITH_PARENT, str(os.getpid()), *command]


def ignore_interrupts() -> None:
    """Leave Ctrl-C to the parent, which ends its children in good order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def on_termination(callback: Callable[[], object]) -> None:
    """Have the running event loop call `callback` at SIGTERM. Where there are no signals (Windows) the process just
    ends."""
    with contextlib.suppress(NotImplementedError):
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, callback)


def process_exists(process_id: int) -> bool:
    """Whether a process with this id runs on this machine (in this container)."""
    if WINDOWS:
        return True  # names of shared memory end with their processes there, so nobody needs to know
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def lower_priority() -> None:
    """Let other processes go first, where the system knows of that."""
    if hasattr(os, "nice"):
        os.nice(10)


def start_child(
    command: Sequence[str], environment: dict[str, str], child_socket: socket.socket
) -> tuple["subprocess.Popen[bytes]", str]:
    """Start `command` with a pipe as standard input, another for all it prints, and give it `child_socket`.

    Returns the process and the text from which `received_socket` makes the socket in the child; the caller closes its
    own copy of the socket. Raises `OSError` when the program cannot be started.
    """
    process = subprocess.Popen(
        list(command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        pass_fds=() if WINDOWS else (child_socket.fileno(),),
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
    )
    if WINDOWS:
        share: Any = getattr(child_socket, "share")  # noqa: B009 - the attribute exists on one system only
        return process, base64.b64encode(share(process.pid)).decode("ascii")
    return process, str(child_socket.fileno())


def received_socket(text: str) -> socket.socket:
    """The socket that the parent gave with `start_child`."""
    if WINDOWS:
        from_share: Any = getattr(socket, "fromshare")  # noqa: B009 - the attribute exists on one system only
        return from_share(base64.b64decode(text))
    return socket.socket(fileno=int(text))


__all__ = [
    "die_with_parent",
    "die_with_parent_command",
    "ignore_interrupts",
    "lower_priority",
    "on_termination",
    "process_exists",
    "received_socket",
    "start_child",
]
