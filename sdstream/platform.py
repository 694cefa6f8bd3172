"""Every call that only some systems have: parents and children, memory, sockets to children, durable directories.

Nothing else in the package may import `fcntl`, `ctypes`, `signal` constants of one system, or test `sys.platform`.
"""

import asyncio
import base64
import contextlib
import ctypes
import errno
import mmap
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

WINDOWS = sys.platform == "win32"
LINUX = sys.platform.startswith("linux")
UDP_GRO = 104
"""Of `<linux/udp.h>`: give datagrams that came together as one, and say by what size to cut it."""
UDP_SEGMENT = 103
"""Of `<linux/udp.h>`: cut what is sent into datagrams of this many bytes."""
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


def process_memory() -> int | None:
    """Bytes of memory that this process holds now; None where the system does not tell without help."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except (OSError, ValueError, IndexError):
        return None
    return pages * mmap.PAGESIZE


def forget_pages(mapping: mmap.mmap) -> None:
    """Let go of the memory of a mapped file whose pages were only read; nothing where the system has no such call."""
    advice = getattr(mmap, "MADV_DONTNEED", None)
    if advice is not None:
        mapping.madvise(advice)


def memory_limit() -> int | None:
    """Bytes of memory that the processes of this machine, or of this container, may hold together; None if unknown."""
    limits: list[int] = []
    with contextlib.suppress(OSError, ValueError, AttributeError):
        limits.append(os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE)
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        with contextlib.suppress(OSError, ValueError):  # "max" is no number and no limit
            limits.append(int(Path(file).read_text("ascii")))
    return min(limits, default=None)


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


def can_send_segments() -> bool:
    """Whether `send_segments` can be tried here."""
    return LINUX


def send_segments(connection: socket.socket, datagrams: Sequence[bytes], address: Any) -> None:
    """Send datagrams of one size, the last of which may be smaller, by one call to the kernel, without waiting.

    Raises `BlockingIOError` when the socket is full, `OSError` when the kernel or the device cannot do it: nothing was
    sent then.
    """
    if len(datagrams) == 1:
        connection.sendto(datagrams[0], socket.MSG_DONTWAIT, address)
        return
    size = len(datagrams[0]).to_bytes(2, sys.byteorder)
    options = ((socket.IPPROTO_UDP, UDP_SEGMENT, size),)
    connection.sendmsg(datagrams, options, socket.MSG_DONTWAIT, address)


def can_join_datagrams() -> bool:
    """Whether `join_datagrams` can do something here."""
    return LINUX


def join_datagrams(connection: socket.socket) -> None:
    """Have the kernel join datagrams of one sender that come together; where it cannot, nothing."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)


def receive_joined(connection: socket.socket, space: memoryview) -> tuple[int, int, Any]:
    """Read into `space` what has come: its bytes, the size of each datagram but the last in it, and who sent it.

    Raises `BlockingIOError` when nothing has, `OSError` as the socket does.
    """
    length, ancillary, _, address = connection.recvmsg_into((space,), _JOINED_SPACE)
    for level, kind, data in ancillary:
        if kind == UDP_GRO and level == socket.IPPROTO_UDP:
            return length, int.from_bytes(data, sys.byteorder), address
    return length, length, address


_JOINED_SPACE = socket.CMSG_SPACE(4) if LINUX else 0


def shared_memory_directory() -> Path:
    """Where files that live in memory are kept: the kernel's own place on Linux, the temporary directory elsewhere."""
    memory = Path("/dev/shm")
    return memory if LINUX and os.access(memory, os.W_OK) else Path(tempfile.gettempdir())


def create_shared_memory(name: str, size: int) -> mmap.mmap:
    """Make `size` bytes of memory that another process can open by `name`.

    Raises `FileExistsError` when the name is taken and `MemoryError` when there is no room: the pages are reserved
    here, because a full `/dev/shm` would otherwise kill the first process that writes to them (SIGBUS).
    """
    if WINDOWS:
        return _named_memory(name, size)
    path = shared_memory_directory() / name
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
    try:
        _reserve(descriptor, size)
        return mmap.mmap(descriptor, size)
    except OSError as error:
        path.unlink(missing_ok=True)
        if error.errno == errno.ENOSPC:
            raise MemoryError(f"no room for {size} bytes in {path.parent}") from error
        raise
    finally:
        os.close(descriptor)


def open_shared_memory(name: str, size: int) -> mmap.mmap:
    """Map what `create_shared_memory` made. Raises `FileNotFoundError` when the name is gone."""
    if WINDOWS:
        return _named_memory(name, size)
    descriptor = os.open(shared_memory_directory() / name, os.O_RDWR | getattr(os, "O_CLOEXEC", 0))
    try:
        return mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)


def unlink_shared_memory(name: str) -> None:
    """Take the name away; the memory goes when the last process lets go of it. Nothing happens if it is gone."""
    if not WINDOWS:
        (shared_memory_directory() / name).unlink(missing_ok=True)


def shared_memory_names(prefix: str) -> list[str]:
    """The names of shared memory that begin with `prefix`; none on Windows, where names end with their processes."""
    if WINDOWS:
        return []
    return sorted(entry.name for entry in os.scandir(shared_memory_directory()) if entry.name.startswith(prefix))


def shared_memory_modified_at(name: str) -> float | None:
    """When the memory was made, in seconds since 1970; None when it is gone."""
    try:
        return (shared_memory_directory() / name).stat().st_mtime
    except FileNotFoundError:
        return None


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


def preload_library(file: Path) -> None:
    """Load a shared library so that those loaded later find it by its own name, wherever it lies.

    Raises `OSError` when it cannot be loaded.
    """
    ctypes.CDLL(str(file), mode=ctypes.RTLD_GLOBAL)


def cuda_driver_version(names: Sequence[str] = ("libcuda.so.1", "nvcuda.dll")) -> int:
    """The newest CUDA that the driver knows, such as 13000; 0 without one. Torch tells it in some versions only."""
    for name in names:
        with contextlib.suppress(OSError):
            ctypes.CDLL(name).cuDriverGetVersion(ctypes.byref(found := ctypes.c_int(0)))
            return found.value
    return 0


def usable_cores() -> int:
    """The processor cores that this process may run on, at least one."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity is not None else (os.cpu_count() or 1)


def peak_memory() -> int | None:
    """The most memory this process has held so far, in bytes; None where that is not known."""
    try:
        import resource
    except ImportError:
        return None
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def free_memory() -> int | None:
    """Bytes of memory that programs can still be given, this container's limit respected; None where not known."""
    if not LINUX:
        return None
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text("utf-8").splitlines()
        found += [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with contextlib.suppress(OSError, ValueError):
        limit = Path("/sys/fs/cgroup/memory.max").read_text("utf-8").strip()
        if limit != "max":
            found.append(max(0, int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text("utf-8"))))
    return min(found) if found else None


def release_free_memory() -> bool:
    """Give the system back the memory that the C library holds and nothing uses; whether it can here (glibc).

    Takes some milliseconds, in which other threads may wait for memory; the interpreter's lock is not held.
    """
    if not LINUX:
        return False
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl has none
    return trim is not None and bool(trim(0))


def lower_priority() -> None:
    """Let other processes go first, where the system knows of that."""
    if hasattr(os, "nice"):
        os.nice(10)


def _named_memory(name: str, size: int) -> mmap.mmap:
    anonymous: Any = mmap.mmap
    return anonymous(-1, size, tagname=name)


def _reserve(descriptor: int, size: int) -> None:
    reserve = getattr(os, "posix_fallocate", None)
    if reserve is None:  # macOS
        os.ftruncate(descriptor, size)
    else:
        reserve(descriptor, 0, size)


__all__ = [
    "can_join_datagrams",
    "can_send_segments",
    "create_shared_memory",
    "cuda_driver_version",
    "die_with_parent",
    "die_with_parent_command",
    "flush_directory",
    "free_memory",
    "ignore_interrupts",
    "join_datagrams",
    "lower_priority",
    "memory_limit",
    "on_termination",
    "open_shared_memory",
    "peak_memory",
    "preload_library",
    "process_exists",
    "process_memory",
    "processor_features",
    "processor_name",
    "receive_joined",
    "received_socket",
    "release_free_memory",
    "send_segments",
    "shared_memory_directory",
    "shared_memory_modified_at",
    "shared_memory_names",
    "start_child",
    "unlink_shared_memory",
    "usable_cores",
]
