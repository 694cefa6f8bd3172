"""The threads that load, as `book.py` decides."""

import itertools
import queue
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

import torch

from sdstream.worker.loading.book import LOADERS, LoadBook

Job = Callable[[int], None]
"""Loads; is given the number of its load, and must not raise."""


class Loaders:
    """Runs one load that counts for each lane. Threads may call at any time."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._book = LoadBook()
        self._numbers = itertools.count(1)
        self._jobs: dict[int, Job] = {}
        """What waits, by the number of its load."""
        # Unbounded, but it holds what starts at once: there is a thread for each load that runs.
        self._started: queue.SimpleQueue[tuple[int, Job]] = queue.SimpleQueue()
        self._threads = 0

    def ask(self, lane: int, job: Job) -> None:
        """Have `job` load for the lane as soon as may be, in the place of what is loaded for it."""
        with self._lock:
            number = next(self._numbers)
            self._jobs[number] = job
            self._turn_to(self._book.asked(lane, number))

    def supersede(self, lane: int) -> None:
        """Nothing that is loaded for the lane counts any more. On return none of it is within `telling`."""
        with self._lock:
            self._turn_to(self._book.superseded(lane))

    @contextmanager
    def telling(self, number: int) -> Generator[bool]:
        """Whether this load counts, which does not change within: for what must not be said by one given up."""
        with self._lock:
            yield self._book.counts(number)

    def _turn_to(self, book: LoadBook) -> None:
        self._book, started = book.begun()
        for load in started:
            self._started.put((load.number, self._jobs.pop(load.number)))
        waiting = {load.number for load in self._book.loads}
        self._jobs = {number: job for number, job in self._jobs.items() if number in waiting}
        while self._threads < max(LOADERS, self._book.running):
            self._threads += 1
            threading.Thread(target=self._run, name="preparation", daemon=True).start()

    def _run(self) -> None:
        torch.set_grad_enabled(False)  # it is a setting of each thread
        while True:
            number, job = self._started.get()
            job(number)
            del job  # with what it holds
            with self._lock:
                self._turn_to(self._book.ended(number))


__all__ = ["Job", "Loaders"]
