"""A real `sdstream serve` in a process of its own, on a free port, with a data directory of its own."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tests.support.cores import CoreWaits
from tests.support.plain_http import NO_TLS
from tests.support.ports import free_port
from tests.support.processes import is_gone
from tests.support.waiting import eventually_sync

LISTENING = re.compile(r"^sdstream is listening on (http://\S+)$")
FIRST_KEY = re.compile(r"^Open (http://\S+)/#key=(\S+)$")
KEY = "acceptance-key"
"""The key that every live server accepts, unless it was started with others."""
SECOND_KEY = "second-acceptance-key"
"""Another one, of another author."""


class LiveServer:
    """One server process: `url` is where it answers, `key` a bearer key it accepts.

    `settings` become `SDSTREAM_*` variables; `prefix` comes before the command, `environment` is added. A restart
    keeps port, data directory and settings, so URLs stay.
    """

    def __init__(
        self,
        folder: Path,
        *,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        **settings: object,
    ) -> None:
        self.prefix = prefix
        self.environment = dict(environment or {})
        self.folder = folder
        self.data_dir = folder / "data"
        self.log_file = folder / "server.log"
        # How many streams are taken must not depend on how fast the machine is just now. A spare worker, which costs
        # every server the import of torch once more, is for the tests that kill the first.
        common = {"api_keys": f"{KEY},{SECOND_KEY}", "log_format": "json", "stream_frame_rate": 0}
        # Nor is a worker killed for being mute while others have its core.
        common |= {"worker_spare": False, "worker_ping_timeout": 20}
        self.settings: dict[str, object] = common | settings
        self.key: str = KEY
        self.url = ""
        self.port = free_port()
        self.first_key: str | None = None
        self.lines: list[str] = []
        self.process: subprocess.Popen[str] | None = None
        self._family: dict[int, psutil.Process] = {}

    def start(self, *, ready: bool = True, seconds: float = 150.0) -> "LiveServer":
        """Start and wait until REST answers; with `ready` also until `/ready` says that the worker runs."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SDSTREAM_")}
        environment |= {"SDSTREAM_DATA_DIR": str(self.data_dir), "PYTHONUNBUFFERED": "1"}
        environment |= {
            f"SDSTREAM_{name.upper()}": str(value) for name, value in self.settings.items() if value is not None
        }
        environment |= self.environment
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, sys.executable, "-m", "sdstream", "serve", "--port", str(self.port)],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
            )
        self.lines = []
        threading.Thread(target=self._read_lines, args=(self.process,), daemon=True).start()
        try:
            eventually_sync(
                lambda: any(LISTENING.match(line) for line in self.lines) or self.process_ended,
                seconds=seconds,
                what="the line that says where sdstream is listening",
            )
            if self.process_ended:
                raise AssertionError(f"sdstream ended with {self.process.returncode} at start:\n{self.log_tail()}")
            self._understand_lines()
            if ready:
                eventually_sync(self.is_ready, seconds=seconds, what="/ready answering 200")
        except BaseException:
            self.kill()
            raise
        return self

    @property
    def process_ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def is_ready(self) -> bool:
        """Whether `/ready` answers 200."""
        with contextlib.suppress(httpx.TransportError):
            return httpx.get(f"{self.url}/ready", timeout=30, verify=NO_TLS).status_code == 200
        return False

    def _read_lines(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout as stream:
            for line in stream:
                self.lines.append(line.rstrip("\n"))

    def _understand_lines(self) -> None:
        found = next(match for line in self.lines if (match := LISTENING.match(line)))
        self.url = found[1].rstrip("/")
        self.port = httpx.URL(self.url).port or 0
        if self.settings.get("api_keys") is None:
            eventually_sync(
                lambda: any(FIRST_KEY.match(line) for line in self.lines), what="the line with the first key"
            )
            self.first_key = next(match[2] for line in self.lines if (match := FIRST_KEY.match(line)))
            self.key = self.first_key or ""

    def family(self) -> list[psutil.Process]:
        """Every process that this server has been seen to own and that still lives."""
        if self.process is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                for child in psutil.Process(self.process.pid).children(recursive=True):
                    self._family[child.pid] = child
        return [member for member in self._family.values() if not is_gone(member)]

    def worker(self) -> psutil.Process:
        """The worker process at work; a warm spare that looks just like it may stand beside it."""
        return psutil.Process(self.worker_pid())

    def worker_pid(self) -> int:
        """The process id that the log names last; the process may have ended since."""
        started: list[int] = []
        for line in self.log_tail(limit=10_000_000).splitlines():
            with contextlib.suppress(json.JSONDecodeError):
                entry = json.loads(line)
                if entry.get("event") == "worker_started":
                    started.append(entry["process_id"])
        assert started, "the log names no worker process"
        return started[-1]

    def has_settled(self) -> bool:
        """Whether a spare process stands beside the worker, with torch imported and nothing more to do."""
        worker = self.worker_pid()
        spares = [member for member in self.family() if member.pid != worker and _memory(member) > 100_000_000]
        before = [(_cpu_seconds(member), CoreWaits.of(member.pid)) for member in spares]
        time.sleep(0.3)
        return bool(spares) and all(
            _cpu_seconds(member) == seconds and CoreWaits.of(member.pid).since(waits) == 0.0
            for member, (seconds, waits) in zip(spares, before, strict=True)
        )

    def footprint(self) -> "Footprint":
        """What the server process holds at this moment (POSIX)."""
        assert self.process is not None
        process = psutil.Process(self.process.pid)
        with process.oneshot():
            return Footprint(process.num_fds(), process.num_threads(), process.memory_info().rss)

    def stop(self, seconds: float = 30.0) -> int:
        """End it as an operator does, and insist that it and its children are gone. Returns the exit status."""
        assert self.process is not None
        self.family()
        if not self.process_ended:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"sdstream did not end within {seconds} s of SIGTERM:\n{self.log_tail()}") from None
        self._insist_on_no_children()
        return status

    def kill(self) -> None:
        """`kill -9` the server; its worker must notice and go by itself."""
        if self.process is None:
            return
        self.family()
        self.process.kill()
        self.process.wait(30)
        self._insist_on_no_children()

    def _insist_on_no_children(self) -> None:
        deadline = time.monotonic() + 30
        while (left := self.family()) and time.monotonic() < deadline:
            time.sleep(0.05)
        for member in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                member.kill()
        assert not left, f"processes outlived the server: {[(member.pid, _command(member)) for member in left]}"

    def log_size(self) -> int:
        """Bytes logged so far; a place to read on from."""
        return self.log_file.stat().st_size if self.log_file.exists() else 0

    def log_tail(self, start: int = 0, limit: int = 12_000) -> str:
        """The log since byte `start`, at most its last `limit` bytes."""
        if not self.log_file.exists():
            return ""
        content = self.log_file.read_bytes()[start:]
        return content[-limit:].decode("utf-8", "replace")


@dataclass(frozen=True)
class Footprint:
    """Open file descriptors, threads, and bytes of resident memory."""

    files: int
    threads: int
    memory: int


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return process.cmdline()
    return []


def _memory(process: psutil.Process) -> int:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.memory_info().rss
    return 0


def _cpu_seconds(process: psutil.Process) -> float:
    with contextlib.suppress(psutil.NoSuchProcess):
        times = process.cpu_times()
        return times.user + times.system
    return 0.0
