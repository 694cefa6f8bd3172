"""Standard output and error of a program that may find them closed, or on a disk that is full."""

import contextlib
import io
import os
import sys
from typing import TextIO, cast

from sdstream.errors import CommandFailed


class OutputFile(io.FileIO):
    """Standard output: whoever writes gets `CommandFailed` where that cannot be done, and `BrokenPipeError` where the
    reader of a pipe has left. What is written after that goes nowhere."""

    def write(self, data: "bytes | bytearray | memoryview", /) -> int | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        if not data:
            return 0
        try:
            return super().write(data)
        except BlockingIOError:
            raise
        except OSError as error:
            self.drop()
            if isinstance(error, BrokenPipeError):
                raise
            raise CommandFailed(f"standard output cannot be written: {error.strerror or error}", hint="") from error

    def drop(self) -> None:
        """Else the interpreter's end would complain of what nobody took."""
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), self.fileno())


class ErrorFile(io.FileIO):
    """Standard error: what cannot be written is lost, and no work with it."""

    def write(self, data: "bytes | bytearray | memoryview", /) -> int | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        try:
            return super().write(data)
        except BlockingIOError:
            raise
        except OSError:
            return len(memoryview(data).cast("B"))


def guard_output() -> None:
    """Once, at the start of a program: put `OutputFile` and `ErrorFile` in the place of what Python has opened, and the
    null device in the place of what is closed, as it is for programs that some services start."""
    _open_closed()
    sys.stdout, sys.stderr = _guarded(sys.stdout, OutputFile), _guarded(sys.stderr, ErrorFile)


def _open_closed() -> None:
    """A file or a socket that is opened later would get the number, and whoever prints would write into it."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened == number:
                os.set_inheritable(number, True)
            else:
                os.dup2(opened, number)
                os.close(opened)
    # None is what Python has for those that are closed.
    sys.stdin = sys.stdin or open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 -- for as long as the program lasts
    sys.stdout = sys.stdout or _opened(1)
    sys.stderr = sys.stderr or _opened(2)


def _opened(number: int) -> TextIO:
    return open(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False)


def _guarded(stream: TextIO, kind: type[io.FileIO]) -> TextIO:
    """`stream` as it is where it is none of Python's own making, or a console of Windows, which is no plain file."""
    buffer = getattr(stream, "buffer", None)
    raw = getattr(buffer, "raw", buffer)
    if type(stream) is not io.TextIOWrapper or type(raw) is not io.FileIO:
        return stream
    with contextlib.suppress(OSError):
        stream.flush()
    file = kind(raw.fileno(), "wb", closefd=False)
    is_buffered = raw is not buffer
    return io.TextIOWrapper(
        cast("io.BufferedWriter", io.BufferedWriter(file) if is_buffered else file),
        stream.encoding,
        stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


__all__ = ["ErrorFile", "OutputFile", "guard_output"]
