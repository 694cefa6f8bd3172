"""The server's handle of one worker process: its start, its line of messages, what it prints, its end."""

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import structlog

from sdstream.directories import choose_data_directory
from sdstream.errors import SdstreamError
from sdstream.platform.cores import usable_cores
from sdstream.platform.processes import start_child
from sdstream.settings import Settings
from sdstream.worker.channel import Channel
from sdstream.worker.messages import TO_SERVER, AtWork, Ending, Message
from sdstream.worker.server_end.card import VISIBLE, choose_card
from sdstream.worker.server_end.wording import Wording, roots_of

LOG_LINES = 50
LONGEST_LINE = 2000
END_SECONDS = 1.0
"""How long a killed process that could not be listened to is waited for."""
LAST_WORDS_SECONDS = 0.5
"""How long the last lines of an ended process are waited for: a process that it started may hold its output open."""

logger = structlog.get_logger(__name__)


class WorkerChild:
    """One process. `on_message` is called on its reader thread, `on_end` once, on the event loop, when it is reaped."""

    def __init__(
        self, on_message: Callable[["WorkerChild", Any], None], on_end: Callable[["WorkerChild"], None]
    ) -> None:
        self._on_message = on_message
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._process: subprocess.Popen[bytes] | None = None
        self._channel: Channel | None = None
        self._lines: deque[str] = deque(maxlen=LOG_LINES)
        self._wording = Wording(())
        self._line_reader = threading.Thread(target=self._read_lines, name="worker-log", daemon=True)
        self.ended = asyncio.Event()
        self.at_work: tuple[AtWork, ...] = ()
        """What it does for the first time just now, as far as it said. Written by the reader thread."""
        self.ending: Ending | None = None
        """Why it said that it ends."""

    def start(self, settings: Settings) -> None:
        """Start the process. Raises `OSError`. To be called on a thread that lasts (see `die_with_parent`)."""
        self._wording = Wording(roots_of(settings))
        card = choose_card(settings.worker_device, os.environ.get(VISIBLE))
        environment = child_environment(settings) | ({} if card.visible is None else {VISIBLE: card.visible})
        ours, theirs = socket.socketpair()
        try:
            self._process, gift = start_child([sys.executable, "-m", "sdstream.worker.main"], environment, theirs)
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._channel = Channel(ours, TO_SERVER)
        assert self._process.stdin is not None
        greeting = {"socket": gift, "parent": os.getpid(), "threads": thread_count(settings), "device": card.device}
        with contextlib.suppress(BrokenPipeError):  # it ended already; the reader thread says so
            self._process.stdin.write(json.dumps(greeting).encode() + b"\n")
            self._process.stdin.close()
        try:
            self._line_reader.start()
            threading.Thread(target=self._read_messages, name="worker-reader", daemon=True).start()
        except RuntimeError as error:  # a process that nobody listens to must not stay
            self._process.kill()
            self._channel.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(END_SECONDS)
            raise OSError(str(error)) from error

    @property
    def channel(self) -> Channel:
        assert self._channel is not None, "the child was not started"
        return self._channel

    @property
    def process_id(self) -> int | None:
        return None if self._process is None else self._process.pid

    @property
    def exit_reason(self) -> str:
        """How the process ended, for people."""
        code = None if self._process is None else self._process.returncode
        if self.ending is not None:
            return f"the worker ended itself: {self.ending.message}"
        if code is None:
            return "the worker runs"
        return f"the worker was ended by signal {-code}" if code < 0 else f"the worker ended with status {code}"

    @property
    def lines(self) -> tuple[str, ...]:
        """The last lines it printed, oldest first, without the directories of this machine."""
        return self._wording.of_lines(self._lines)

    def add_line(self, line: str) -> None:
        """Put a remark of the server among the lines."""
        self._lines.append(line)

    def send(self, message: Message) -> None:
        self.channel.send(message)

    def kill(self) -> None:
        """End it at once; `on_end` follows."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    def _read_lines(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        with self._process.stdout as output:
            while line := output.readline(LONGEST_LINE):
                text = line.decode("utf-8", "replace").rstrip()
                if text:
                    self._lines.append(text)
                    logger.info("worker_says", line=text, process_id=self.process_id)

    def _read_messages(self) -> None:
        assert self._process is not None
        assert self._channel is not None
        try:
            while (messages := self._channel.read()) is not None:
                for message in messages:
                    try:
                        self._on_message(self, self._wording.of_message(message))
                    except Exception:  # supervises the listeners: one stream's defect must not end the others
                        logger.exception("worker_message_failed", message=type(message).__name__)
        except SdstreamError as error:
            self.add_line(f"sdstream: {error}")
        finally:
            self._channel.close()
            # It may only have closed its line, or stand still: without the line it is of no use to anybody.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(0.2)
            self._process.kill()
            self._process.wait()
            self._line_reader.join(LAST_WORDS_SECONDS)  # why it ended is often the last line
            with contextlib.suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._finish)

    def _finish(self) -> None:
        self.ended.set()
        self._on_end(self)


def thread_count(settings: Settings) -> int:
    """Threads for torch on the CPU: the setting, or half of the cores this process may use."""
    if settings.worker_threads is not None:
        return settings.worker_threads
    return max(1, usable_cores() // 2)


KEEP_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(256 * 1024 * 1024), "MALLOC_TRIM_THRESHOLD_": str(1024 * 1024 * 1024)}
"""glibc's allocator gives blocks of this size back when they are freed, and torch asks for the same again with the next
picture: on a CPU the kernel then spends more on clearing pages than the batch saves. The widest layer of a small VAE is
17 MB a stream at 256x256. Others do not read these. What is not needed again is given back by `tidying`."""


def child_environment(settings: Settings) -> dict[str, str]:
    """The variables of the worker. OpenMP reads its own when torch is loaded; idle threads that spin would take the
    cores from the decoders and encoders. The C library reads its own too: see `KEEP_MEMORY`. Triton keeps what it
    compiled with the rest of the data: a container's home is gone with it, and each start would compile for long."""
    environment = KEEP_MEMORY | dict(os.environ)
    data = choose_data_directory(settings).absolute_path
    environment.setdefault("TRITON_CACHE_DIR", str(data / "kernels"))
    environment.setdefault("OMP_NUM_THREADS", str(thread_count(settings)))
    environment.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    environment.setdefault("PYTHONUNBUFFERED", "1")
    return environment


__all__ = ["KEEP_MEMORY", "WorkerChild", "child_environment", "thread_count"]
