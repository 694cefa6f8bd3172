"""Ports for what a test starts, or starts again, in a process of its own."""

import secrets
import socket

FIRST, COUNT = 20_000, 12_000
"""Below those that systems give to whoever asks for any: what is free stays free until it is listened on, whatever
connections this machine opens meanwhile, and stays so while a server that is started again is down."""


def free_port(host: str = "127.0.0.1") -> int:
    """A port that nobody listens on, by TCP or UDP; another one each time."""
    return free_ports(1, host)[0]


def free_ports(count: int, host: str = "127.0.0.1") -> tuple[int, int]:
    """The first and last of `count` such ports in a row."""
    while True:
        first = FIRST + secrets.randbelow(COUNT - count)  # `random` is seeded alike in all processes of a run
        last = first + count - 1
        if all(_is_free(host, port) for port in range(first, last + 1)):
            return first, last


def _is_free(host: str, port: int) -> bool:
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(type=kind) as probe:
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


__all__ = ["free_port", "free_ports"]
