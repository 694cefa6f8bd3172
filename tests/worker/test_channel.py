"""The line between server and worker: order is kept, senders never wait, an ended line says so."""

import socket
import threading
from collections.abc import Iterator

import pytest

from sdstream.worker import channel as channel_module
from sdstream.worker.channel import Channel
from sdstream.worker.messages import TO_WORKER, Ping, UpdateLane

Ends = tuple[Channel, Channel]


@pytest.fixture(params=["refusing to wait", "with a time limit"])
def ends(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ends]:
    """By either way of keeping senders from waiting."""
    if request.param == "with a time limit":
        monkeypatch.setattr(channel_module, "DO_NOT_WAIT", 0)
    left, right = socket.socketpair()
    channels = Channel(left, TO_WORKER), Channel(right, TO_WORKER)
    yield channels
    for channel in channels:
        channel.close()


def test_a_sender_does_not_wait_for_a_reader_and_nothing_is_lost_or_mixed_up(ends: Ends) -> None:
    near, far = ends
    sent = [UpdateLane(number, "x" * 40_000, number) for number in range(60)]  # far more than a socket buffers
    sender = threading.Thread(target=lambda: [near.send(message) for message in sent])
    sender.start()
    sender.join(30)
    assert not sender.is_alive(), "send waited for the reader"
    received: list[object] = []
    while len(received) < len(sent):
        received += far.read() or []
    assert received == sent


def test_an_end_that_sends_a_backlog_goes_on_reading(ends: Ends) -> None:
    near, far = ends
    sent = [UpdateLane(number, "x" * 40_000, number) for number in range(30)]
    heard: list[object] = []
    reader = threading.Thread(target=lambda: [heard.append(near.read()) for _ in range(2)])
    reader.start()
    for message in sent:
        near.send(message)
    received: list[object] = []
    while len(received) < len(sent):
        received += far.read() or []
    far.send(Ping(1))
    far.close()
    reader.join(30)
    assert heard == [[Ping(1)], None]


def test_a_reader_is_told_that_the_other_end_has_gone(ends: Ends) -> None:
    near, far = ends
    near.send(Ping(1))
    near.close()
    assert far.read() == [Ping(1)]
    assert far.read() is None


def test_closing_wakes_the_reader_of_the_same_end(ends: Ends) -> None:
    near, _ = ends
    results: list[object] = ["nothing yet"]
    reader = threading.Thread(target=lambda: results.append(near.read()))
    reader.start()
    near.close()
    reader.join(30)
    assert results[-1] is None


def test_sending_to_an_end_that_has_gone_does_nothing(ends: Ends) -> None:
    near, far = ends
    far.close()
    for number in range(3):
        near.send(Ping(number))
    assert near.read() is None
