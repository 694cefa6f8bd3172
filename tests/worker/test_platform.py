"""The calls that differ between systems, each way that this one can try."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sdstream.platform import LINUX
from sdstream.platform.cores import processor_name
from sdstream.platform.processes import start_child
from sdstream.platform.shared_memory import (
    create_shared_memory,
    open_shared_memory,
    shared_memory_directory,
    shared_memory_names,
    unlink_shared_memory,
)
from sdstream.worker.ring import memory_prefix

PREFIX = f"{memory_prefix()}platform-"


def test_memory_is_shared_by_name_and_names_are_unique() -> None:
    ours = create_shared_memory(f"{PREFIX}a", 8192)
    try:
        with pytest.raises(FileExistsError):
            create_shared_memory(f"{PREFIX}a", 8192)
        theirs = open_shared_memory(f"{PREFIX}a", 8192)
        ours[8191] = 77
        assert theirs[8191] == 77
    finally:
        unlink_shared_memory(f"{PREFIX}a")
    with pytest.raises(FileNotFoundError):
        open_shared_memory(f"{PREFIX}a", 8192)


def test_memory_can_be_made_where_pages_cannot_be_reserved(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "posix_fallocate", raising=False)  # as on macOS
    memory = create_shared_memory(f"{PREFIX}b", 4096)
    unlink_shared_memory(f"{PREFIX}b")
    memory[4095] = 1
    assert memory[4095] == 1


def test_without_a_memory_file_system_the_temporary_directory_is_taken(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sdstream.platform.shared_memory.LINUX", False)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    create_shared_memory(f"{PREFIX}c", 4096)
    assert [path.name for path in tmp_path.iterdir()] == [f"{PREFIX}c"]
    assert shared_memory_names(PREFIX) == [f"{PREFIX}c"]


@pytest.mark.skipif(sys.platform == "win32", reason="no file stands for the memory there")
def test_memory_is_for_its_owner_only() -> None:
    name = f"{PREFIX}d"
    create_shared_memory(name, 4096)
    mode = (shared_memory_directory() / name).stat().st_mode
    unlink_shared_memory(name)
    assert mode & 0o777 == 0o600


def test_a_child_gets_its_socket_and_no_other_file_of_ours() -> None:
    program = (
        "import os, sys\n"
        "files = len(os.listdir('/proc/self/fd')) - 1 if os.path.isdir('/proc/self/fd') else 4\n"
        "from sdstream.platform.processes import received_socket\n"
        "line = received_socket(sys.stdin.readline().strip())\n"
        "line.sendall(line.recv(100).upper())\n"
        "print(files, file=sys.stderr)\n"
    )
    ours, theirs = socket.socketpair()
    with ours, theirs, open(os.devnull) as other:
        os.set_inheritable(other.fileno(), False)
        process, gift = start_child([sys.executable, "-c", program], dict(os.environ), theirs)
        theirs.close()
        ours.sendall(b"hello")
        output, _ = process.communicate(f"{gift}\n".encode(), timeout=60)
        assert ours.recv(100) == b"HELLO"
    assert process.returncode == 0
    assert output.strip() == b"4", "standard input, output, error and the socket"


def test_a_process_whose_parent_has_gone_already_ends_at_once() -> None:
    if not LINUX:
        pytest.skip("only Linux ends children with their parents by itself")
    program = (
        f"from sdstream.platform.processes import die_with_parent; die_with_parent({2**22 - 1}); print('still here')"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    assert (result.returncode, result.stdout) == (1, b"")


def test_the_processor_has_a_name() -> None:
    assert processor_name()
