"""One honest line of progress: which engine of how many, what is being done, how much of it where that is known."""

import os
import sys
import threading
from dataclasses import replace
from typing import TextIO

from builder.baking import BakeProgress
from sdstream.clock import Clock, SystemClock

TERMINAL_SECONDS, LOG_SECONDS = 1.0, 60.0
"""How often the line is written again while nothing else happens: exporting a large network takes minutes."""
WIDTH = 80
"""Columns of a terminal that does not tell."""


class ProgressLine:
    """On a terminal one line that is written over, its seconds running; elsewhere a line whenever the work changes, and
    every minute while it does not."""

    def __init__(self, stream: TextIO | None = None, clock: Clock | None = None, every: float | None = None) -> None:
        """`every` stands in for the seconds between two writings of the same work."""
        self._stream = stream or sys.stderr
        self._clock: Clock = clock or SystemClock()
        self._is_terminal = self._stream.isatty()
        self._every = every or (TERMINAL_SECONDS if self._is_terminal else LOG_SECONDS)
        self._last: BakeProgress | None = None
        self._told_at = 0.0
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def __call__(self, progress: BakeProgress) -> None:
        with self._lock:
            last = self._last
            is_new = last is None or (last.engine, last.detail) != (progress.engine, progress.detail)
            self._last, self._told_at = progress, self._clock.monotonic()
            if self._is_terminal or is_new:
                self._write(progress)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="progress", daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Leave the line; what is written next begins below it."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
            if self._is_terminal:
                self._stream.write("\r\x1b[K")
                self._stream.flush()

    def _run(self) -> None:
        while not self._ended.wait(self._every):
            with self._lock:
                if self._last is not None:
                    elapsed = self._clock.monotonic() - self._told_at
                    self._write(replace(self._last, seconds=self._last.seconds + elapsed))

    def _write(self, progress: BakeProgress) -> None:
        text = text_of(progress)
        # A line that is longer than the terminal could not be written over.
        self._stream.write(f"\r\x1b[K{text[: self._columns() - 1]}" if self._is_terminal else f"{text}\n")
        self._stream.flush()

    def _columns(self) -> int:
        try:
            return os.get_terminal_size(self._stream.fileno()).columns or WIDTH
        except (OSError, ValueError):
            return WIDTH


def text_of(progress: BakeProgress) -> str:
    """`[2/3] sd-turbo--unet--...: building the engine, 40 %, 31 s`; no percentage where none is known."""
    share = "" if progress.fraction is None else f", {progress.fraction * 100:.0f} %"
    name = "--".join(progress.engine.split("--")[:3])
    return f"[{progress.index + 1}/{progress.count}] {name}: {progress.detail}{share}, {progress.seconds:.0f} s"


__all__ = ["ProgressLine", "text_of"]
