"""A real Redis for tests."""

import socket
import subprocess
from pathlib import Path

from tests.support.ports import free_port
from tests.support.waiting import eventually_sync


class RedisServer:
    """Debian's redis-server on a port that stays its own through restarts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> "RedisServer":
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--dir"]
        self._process = subprocess.Popen(
            [*command, str(self._folder)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        eventually_sync(self._answers, seconds=30, what="redis-server answering")
        return self

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1):
                return True
        except OSError:
            return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(10)
            self._process = None
