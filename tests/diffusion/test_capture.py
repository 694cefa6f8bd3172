"""Captures of a CUDA device by several threads, and such that fail, on a stand-in for `torch.cuda`.

The stand-in does as CUDA and torch 2.11 do: waiting for the device while any thread records is an error, and a capture
that fails leaves its stream the current one.
"""

import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from sdstream.diffusion.capture import CudaCapture

CPU = torch.device("cpu")


class Stream:
    def wait_stream(self, other: "Stream") -> None:
        pass


class StandInLibrary:
    """As much of `torch.cuda` as a capture uses."""

    Stream = Stream

    def __init__(self) -> None:
        self._local = threading.local()
        self._recording = 0
        self._lock = threading.Lock()
        self._home = Stream()
        self.asked = threading.Event()
        """Somebody waited for the device while it could not be waited for."""
        self.pools = 0
        self.broken: set[int] = set()

    def graph_pool_handle(self) -> int:
        self.pools += 1
        return self.pools

    def current_stream(self) -> Stream:
        return getattr(self._local, "stream", self._home)

    @contextmanager
    def device(self, device: torch.device) -> Generator[None]:
        yield

    @contextmanager
    def stream(self, stream: Stream) -> Generator[None]:
        before, self._local.stream = self.current_stream(), stream
        try:
            yield
        finally:
            self._local.stream = before

    @property
    def is_recording(self) -> bool:
        return self._recording > 0

    def synchronize(self) -> None:
        if self._recording:
            self.asked.set()
            raise RuntimeError("operation not permitted when stream is capturing")

    def CUDAGraph(self) -> object:  # noqa: N802 - torch's name
        return object()

    @contextmanager
    def graph(self, graph: Any, pool: int, capture_error_mode: str) -> Generator[None]:
        if pool in self.broken:
            raise RuntimeError("already recording to mempool_id")
        self.synchronize()
        self._local.stream = Stream()
        with self._lock:
            self._recording += 1
        try:
            yield
        except RuntimeError:
            self.broken.add(pool)
            raise
        else:
            self._local.stream = self._home
        finally:
            with self._lock:
                self._recording -= 1


def test_a_thread_that_records_waits_for_another_that_does() -> None:
    library, inside = StandInLibrary(), threading.Event()

    def first() -> int:
        if library.is_recording:  # and does not only warm up
            inside.set()
            library.asked.wait(0.5)  # what the other one, which waits for this, does not do
        return 1

    def record_other() -> int:
        assert inside.wait(30)
        return CudaCapture(CPU, library).record(lambda: 2).result

    with ThreadPoolExecutor(2) as threads:
        other = threads.submit(record_other)
        assert threads.submit(CudaCapture(CPU, library).record, first).result(60).result == 1
        assert other.result(60) == 2


def test_after_a_capture_that_failed_the_stream_is_as_before_and_others_can_be_recorded() -> None:
    library = StandInLibrary()
    capture, before = CudaCapture(CPU, library), library.current_stream()

    def fails() -> None:
        if library.is_recording:
            raise RuntimeError("operation not permitted when stream is capturing")

    with pytest.raises(RuntimeError):
        capture.record(fails)
    assert library.current_stream() is before
    assert capture.record(lambda: 3).result == 3
