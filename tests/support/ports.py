"""Ports for what a test starts, or starts again, in a process of its own."""

import secrets
import socket

FIRST, COUNT = 20_000, 12_000
"""Below those that systems give to whoever asks for any: what is free stays free until it is listened on, whatever
connections this machine opens meanwhile, and stays so while a server that is started again is down."""


def free_port(host: str = "127.0.0.1") -> int:
    """A TCP port that nobody listens on, another one each time."""
    while True:
        port = FIRST + secrets.randbelow(COUNT)  # `random` is seeded alike in all processes of a run
        with socket.socket() as probe:
            try:
                probe.bind((host, port))
            except OSError:
                continue
            return port


__all__ = ["free_port"]
