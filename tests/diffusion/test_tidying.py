"""The heap of the worker is tidied after something large was let go: once for many, on another thread."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from sdstream.worker.tidying import HeapTidier
from tests.diffusion.fleet import Fleet, params_of


def test_many_requests_are_one_trim_on_another_thread_and_the_next_is_another() -> None:
    threads: list[int] = []
    done = threading.Semaphore(0)

    def trim() -> None:
        threads.append(threading.get_ident())
        done.release()

    tidier = HeapTidier(trim, seconds=0.5)  # in which all ten come, whatever else this machine does
    for _ in range(10):
        tidier.request()
    assert done.acquire(timeout=30)
    tidier.request()
    assert done.acquire(timeout=30)
    assert len(threads) == 2
    assert threading.get_ident() not in threads


def test_a_stream_that_went_and_a_load_are_reasons_and_a_prompt_is_none(
    tiny_directory: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    requests: list[None] = []
    monkeypatch.setattr(HeapTidier, "request", lambda tidier: requests.append(None))
    with Fleet(tiny_directory("sd-turbo")) as fleet:
        stream = fleet.open(params_of())
        requests.clear()
        fleet.update(stream, params_of(prompt="a dog"))
        assert requests == []
        fleet.update(stream, params_of(t_index_list=[30]))
        assert len(requests) == 1
        fleet.close(stream)
        assert len(requests) == 2
