"""One honest line of progress: which engine of how many, what is being done, how much of it where that is known."""

import sys
from typing import TextIO

from builder.baking import BakeProgress


class ProgressLine:
    """On a terminal one line that is written over; elsewhere a line whenever the work changes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._last: tuple[str, str] | None = None

    def __call__(self, progress: BakeProgress) -> None:
        if self._is_terminal:
            self._stream.write(f"\r\x1b[K{text_of(progress)}")
        elif self._last != (progress.engine, progress.detail):
            self._stream.write(f"{text_of(progress)}\n")
        self._last = (progress.engine, progress.detail)
        self._stream.flush()

    def end(self) -> None:
        """Leave the line; what is written next begins below it."""
        if self._is_terminal and self._last is not None:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def text_of(progress: BakeProgress) -> str:
    """`[2/3] sd-turbo--unet--...: building the engine, 40 %, 31 s`; no percentage where none is known."""
    share = "" if progress.fraction is None else f", {progress.fraction * 100:.0f} %"
    name = "--".join(progress.engine.split("--")[:3])
    return f"[{progress.index + 1}/{progress.count}] {name}: {progress.detail}{share}, {progress.seconds:.0f} s"


__all__ = ["ProgressLine", "text_of"]
