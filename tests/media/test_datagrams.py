"""Datagrams read in bursts: what a socket gives, one transport's way and the other's."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from sdstream.media.embedded import datagrams as datagrams_module
from sdstream.media.embedded.addresses import bind
from sdstream.media.embedded.datagrams import BurstTransport, as_burst_protocol, open_bursts
from sdstream.platform.datagrams import can_join_datagrams, send_segments
from tests.support.waiting import eventually

pytestmark = pytest.mark.skipif(not can_join_datagrams(), reason="this system joins no datagrams")


@dataclass
class Taker:
    """Takes bursts and cuts them."""

    received: list[bytes] = field(default_factory=list[bytes])
    bursts: list[int] = field(default_factory=list[int])
    lost: list[Exception | None] = field(default_factory=list["Exception | None"])
    errors: list[Exception] = field(default_factory=list[Exception])

    def connection_made(self, transport: asyncio.BaseTransport) -> None: ...

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.append(exc)

    def error_received(self, exc: Exception) -> None:
        self.errors.append(exc)

    def burst_received(self, data: memoryview, size: int, address: tuple[Any, ...]) -> None:
        parts = [bytes(data[start : start + size]) for start in range(0, len(data), size)]
        self.bursts.append(len(parts))
        self.received += parts


@pytest.fixture
async def taker() -> AsyncIterator[tuple[BurstTransport, Taker, Callable[[list[bytes]], None]]]:
    """A transport, who takes its datagrams, and how some are sent to it at once."""
    taker = Taker()
    transport = open_bursts("127.0.0.1", 0, taker)
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        address = transport.get_extra_info("sockname")
        yield transport, taker, lambda datagrams: send_segments(sender, datagrams, address)
    transport.close()
    await eventually(lambda: taker.lost == [None])


async def test_datagrams_come_whole_and_in_order_joined_or_alone(
    taker: tuple[BurstTransport, Taker, Callable[[list[bytes]], None]],
) -> None:
    _, took, send = taker
    sent: list[bytes] = []
    for number in range(30):
        burst = [bytes((number,)) * 900] * (number % 5) + [bytes((number,)) * (1 + number * 20)]
        send(burst)
        sent += burst
        send([b""])
        send([bytes(1400)])
        sent.append(bytes(1400))
    await eventually(lambda: len(took.received) >= len(sent))
    assert took.received == sent
    assert max(took.bursts) > 1, "this kernel joins none of one sender"


async def test_a_socket_that_cannot_join_is_read_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdstream.media.embedded.datagrams.join_datagrams", lambda connection: None)
    taker = Taker()
    transport = open_bursts("127.0.0.1", 0, taker)
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
        for number in range(40):
            sender.sendto(bytes((number,)), transport.get_extra_info("sockname"))
    await eventually(lambda: taker.received == [bytes((number,)) for number in range(40)])
    transport.close()
    await eventually(lambda: taker.lost == [None])


class Full:
    """A socket that takes `room` datagrams and is full then."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self.room = 0

    def sendto(self, data: bytes, address: Any) -> int:
        if self.room == 0:
            raise BlockingIOError
        self.room -= 1
        return self._connection.sendto(data, address)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


async def test_what_a_full_socket_refuses_is_kept_in_order_up_to_a_limit_and_sent_before_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(datagrams_module, "MOST_WAITING", 3000)
    sender, receiver = Taker(), Taker()
    transport, other = open_bursts("127.0.0.1", 0, sender), open_bursts("127.0.0.1", 0, receiver)
    full = Full(transport._socket)
    monkeypatch.setattr(transport, "_socket", full)
    for number in range(5):
        transport.sendto(bytes((number,)) * 1000, other.get_extra_info("sockname"))
    assert transport.get_write_buffer_size() == 3000
    transport.close()
    assert transport.is_closing()
    assert not sender.lost
    full.room = 100
    await eventually(lambda: sender.lost == [None])
    await eventually(lambda: len(receiver.received) == 3)
    assert [datagram[0] for datagram in receiver.received] == [0, 1, 2]
    transport.sendto(b"too late", other.get_extra_info("sockname"))
    other.abort()
    await eventually(lambda: receiver.lost == [None])
    assert len(receiver.received) == 3


async def test_a_refused_datagram_is_told_and_nothing_else_happens() -> None:
    taker = Taker()
    transport = open_bursts("127.0.0.1", 0, taker)
    transport.sendto(bytes(70_000), transport.get_extra_info("sockname"))
    assert len(taker.errors) == 1
    assert transport.get_write_buffer_size() == 0
    transport.sendto(b"well", transport.get_extra_info("sockname"))
    await eventually(lambda: taker.received == [b"well"])
    transport.abort()
    await eventually(lambda: taker.lost == [None])


async def test_whoever_takes_no_bursts_is_given_the_loops_own_transport() -> None:
    opened = await bind("127.0.0.1", None, asyncio.DatagramProtocol)
    assert opened is not None
    transport, protocol = opened
    assert as_burst_protocol(protocol) is None
    assert not isinstance(transport, BurstTransport)
    transport.close()


async def test_a_loop_that_watches_no_sockets_opens_its_own_transport(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain(Taker, asyncio.DatagramProtocol):
        pass

    def refuse(*_: object) -> None:
        raise NotImplementedError

    with monkeypatch.context() as without:
        without.setattr(datagrams_module.BurstTransport, "__init__", refuse)
        opened = await bind("127.0.0.1", None, lambda: Plain())
    assert opened is not None
    assert not isinstance(opened[0], BurstTransport)
    opened[0].close()
