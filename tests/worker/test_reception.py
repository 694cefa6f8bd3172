"""Who reads the line: the working thread by itself, the helper while it is called, one at a time."""

import queue
import socket
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest

from sdstream.worker.channel import Channel
from sdstream.worker.messages import TO_WORKER, Ping
from sdstream.worker.reception import Reception


class Bench:
    """A reception with a server's end to send from."""

    def __init__(self) -> None:
        left, right = socket.socketpair()
        self.server = Channel(left, TO_WORKER)
        self._line = Channel(right, TO_WORKER)
        self.handled: queue.Queue[tuple[str, Any]] = queue.Queue()
        self.ended: queue.Queue[Exception | None] = queue.Queue()
        self.relieved = threading.Event()
        self.reception = Reception(self._line, self._on_message, self._on_end, self.relieved.set)

    def _on_message(self, message: Any) -> bool:
        if message == Ping(666):
            raise ValueError("a message that cannot be handled")
        self.handled.put((threading.current_thread().name, message))
        return message != Ping(0)

    def _on_end(self, error: Exception | None) -> NoReturn:
        self.ended.put(error)
        if threading.current_thread() is not threading.main_thread():
            threading.Event().wait()  # stands for the end of the process: nothing runs after it on this daemon thread
        raise SystemExit

    def close(self) -> None:
        self.server.close()
        self._line.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    bench = Bench()
    yield bench
    bench.close()


def test_the_working_thread_reads_for_itself(bench: Bench) -> None:
    bench.server.send(Ping(1))
    assert bench.reception.read_here()
    assert bench.handled.get(timeout=30) == (threading.current_thread().name, Ping(1))


def test_the_working_thread_reads_on_while_messages_leave_it_nothing_to_do(bench: Bench) -> None:
    for number in (0, 0, 1):
        bench.server.send(Ping(number))
    assert bench.reception.read_here()
    assert [bench.handled.get(timeout=30)[1].number for _ in range(3)] == [0, 0, 1]


def test_the_helper_reads_while_it_is_called_and_the_working_thread_may_not(bench: Bench) -> None:
    bench.reception.call_helper()
    assert not bench.reception.read_here()
    for number in range(3):
        bench.server.send(Ping(number))
        assert bench.handled.get(timeout=30) == ("reception", Ping(number))


def test_a_relieved_helper_gives_the_line_back_with_its_next_message(bench: Bench) -> None:
    bench.reception.call_helper()
    bench.server.send(Ping(1))
    assert bench.handled.get(timeout=30)[0] == "reception"
    bench.reception.relieve_helper()
    bench.server.send(Ping(2))
    assert bench.handled.get(timeout=30) == ("reception", Ping(2))
    assert bench.relieved.wait(30)
    bench.server.send(Ping(3))
    assert bench.reception.read_here()
    assert bench.handled.get(timeout=30) == (threading.current_thread().name, Ping(3))


def test_the_helper_can_be_called_again_and_again(bench: Bench) -> None:
    for number in range(20):
        bench.reception.call_helper()
        bench.relieved.clear()
        bench.reception.relieve_helper()
        bench.server.send(Ping(number))
        assert bench.handled.get(timeout=30) == ("reception", Ping(number))
        assert bench.relieved.wait(30)
        assert not bench.reception.helper_reads


def test_a_helper_that_is_called_again_in_time_stays(bench: Bench) -> None:
    bench.reception.call_helper()
    bench.reception.relieve_helper()
    bench.reception.call_helper()
    for number in range(3):
        bench.server.send(Ping(number))
        assert bench.handled.get(timeout=30) == ("reception", Ping(number))
    assert bench.reception.helper_reads


def test_the_end_of_the_line_is_told_by_the_helper(bench: Bench) -> None:
    bench.reception.call_helper()
    bench.server.close()
    assert bench.ended.get(timeout=30) is None


def test_a_message_that_cannot_be_handled_ends_the_process_with_its_error(bench: Bench) -> None:
    bench.reception.call_helper()
    bench.server.send(Ping(666))
    assert isinstance(bench.ended.get(timeout=30), ValueError)
