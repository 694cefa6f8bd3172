"""A real S3 protocol server (moto's server mode), and a line to it that breaks off when it is told to."""

import contextlib
import socket
import threading
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any

import pytest

from sdstream.engines.mirror import EngineMirror, MirrorAddress

BUCKET = "engines"
PART = 5 * 1024 * 1024
"""S3's smallest part."""


@dataclass
class Line:
    """A TCP relay to the server. After `budget` bytes in one direction every connection is cut; None never cuts."""

    target: tuple[str, int]
    budget_up: int | None = None
    budget_down: int | None = None
    cuts: int = 0
    _socket: socket.socket = field(default_factory=socket.socket)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def open(self) -> int:
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()
        return self._socket.getsockname()[1]

    def close(self) -> None:
        self._socket.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._socket.accept()
                server = socket.create_connection(self.target)
                for source, sink, direction in ((client, server, "budget_up"), (server, client, "budget_down")):
                    threading.Thread(target=self._pump, args=(source, sink, direction), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                with self._lock:
                    left = getattr(self, direction)
                    if left is not None:
                        allowed = min(left, len(data))
                        setattr(self, direction, left - allowed)
                        self.cuts += allowed < len(data)
                        data = data[:allowed]
                        if not data:
                            break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextlib.contextmanager
def running_server() -> Generator[tuple[str, int]]:
    """Where moto's server listens; skips the test when moto is not installed."""
    pytest.importorskip("moto", reason="moto is not installed")
    pytest.importorskip("boto3", reason="boto3 is not installed")
    import logging

    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server: Any = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    try:
        yield host, port
    finally:
        server.stop()


def make_mirror(port: int, prefix: str, **options: Any) -> EngineMirror:
    """A mirror at a port of this machine; its bucket is made when it is not there."""
    address = MirrorAddress.parse(f"s3://{BUCKET}/{prefix}", f"http://127.0.0.1:{port}", "eu-cz-1")
    return EngineMirror(address, **{"attempts": 2, "read_timeout": 10.0, "part": PART, **options})
