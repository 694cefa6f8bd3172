"""The servers that are measured, each a process of its own: sdstream and the stock aiortc echo."""

import contextlib
import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import httpx
import psutil

from bench.support.clip import SIZE
from sdstream.frames import PictureSize

ROOT = Path(__file__).parent.parent.parent
KEY = "sds_bench_key_for_this_run_only"
START_SECONDS = 120.0
_LISTENING = re.compile(r"listening on (http://\S+)")


class Target(Protocol):
    """A server that publishers and viewers can reach."""

    name: str
    process: "subprocess.Popen[str]"

    async def new_stream(self, http: httpx.AsyncClient, size: PictureSize = SIZE) -> str:
        """The WHIP URL of a new stream."""
        ...

    def whep_url(self, whip_url: str, headers: httpx.Headers) -> str:
        """Where the stream is watched, once its WHIP answer had `headers`."""
        ...


class Sdstream:
    """`sdstream serve` with streams that run the whole way through the worker and change nothing."""

    name = "sdstream"

    def __init__(self, process: "subprocess.Popen[str]", url: str) -> None:
        self.process = process
        self.url = url
        self.params: dict[str, Any] = {"skip_diffusion": True}
        """Of new streams, beside model and size."""
        self.headers = {"Authorization": f"Bearer {KEY}"}

    async def new_stream(self, http: httpx.AsyncClient, size: PictureSize = SIZE) -> str:
        return (await self.new_record(http, size))["whip_url"]

    async def new_record(self, http: httpx.AsyncClient, size: PictureSize = SIZE) -> dict[str, Any]:
        """What the server answers to the creation of a stream."""
        params = {"model_id": "stabilityai/sd-turbo"} | self.params
        body = {"pipeline": "streamdiffusion", "params": params | {"width": size.width, "height": size.height}}
        reply = await http.post(f"{self.url}/v1/streams", json=body, headers=self.headers)
        reply.raise_for_status()
        return reply.json()

    def whep_url(self, whip_url: str, headers: httpx.Headers) -> str:
        return headers["livepeer-playback-url"]


class Echo:
    """`bench.support.echo`."""

    name = "aiortc echo"

    def __init__(self, process: "subprocess.Popen[str]", url: str) -> None:
        self.process = process
        self.url = url
        self.count = 0

    async def new_stream(self, http: httpx.AsyncClient, size: PictureSize = SIZE) -> str:
        self.count += 1
        return f"{self.url}/{self.count}/whip"

    def whep_url(self, whip_url: str, headers: httpx.Headers) -> str:
        return whip_url.removesuffix("whip") + "whep"


@contextlib.contextmanager
def run_sdstream(tree: Path = ROOT, /, **settings: str) -> Iterator[Sdstream]:
    """Start the server with an empty data directory and wait until its worker is ready.

    Another `tree` is run by the Python of its own `.venv`.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SDSTREAM_")}
        environment |= {
            "SDSTREAM_DATA_DIR": folder,
            "SDSTREAM_API_KEYS": KEY,
            "SDSTREAM_WEBRTC_ADDRESSES": "127.0.0.1",
            "SDSTREAM_CREATE_RATE": "100",
            "SDSTREAM_LOG_LEVEL": "error",
        }
        environment |= {f"SDSTREAM_{name.upper()}": value for name, value in settings.items()}
        python = sys.executable if tree == ROOT else str(tree / ".venv" / "bin" / "python")
        with _run([python, "-m", "sdstream", "serve", "--port", "0"], environment, tree) as (process, url):
            _wait_ready(url)
            yield Sdstream(process, url)


@contextlib.contextmanager
def run_echo() -> Iterator[Echo]:
    """Start the echo."""
    with _run([sys.executable, "-m", "bench.support.echo"], dict(os.environ)) as (process, url):
        yield Echo(process, url)


def processor_seconds(process: "subprocess.Popen[str]") -> float:
    """User and system time of the process and all its children, so far."""
    parent = psutil.Process(process.pid)
    total = 0.0
    for each in (parent, *parent.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):
            times = each.cpu_times()
            total += times.user + times.system
    return total


def settle(process: "subprocess.Popen[str]", seconds: float = 60.0) -> float:
    """Wait until a started server is done with its start; the share of a core it still uses, of one second."""
    pause = threading.Event()
    share = 0.0
    for _ in range(round(seconds)):
        before = processor_seconds(process)
        pause.wait(1.0)
        share = processor_seconds(process) - before
        if share < 0.03:
            break
    return share


def machine() -> dict[str, Any]:
    """What the figures were taken on."""
    model = platform.processor()
    information = Path("/proc/cpuinfo")
    if information.exists():
        names = re.findall(r"^model name\s*: (.*)$", information.read_text(), re.MULTILINE)
        model = names[0] if names else model
    return {
        "processor": model,
        "cores": psutil.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("aiortc", "aioice", "av", "torch", "uvloop") if _installed(name)},
    }


def conditions() -> dict[str, Any]:
    """How figures came about, for the file that they are written to: the machine, the day, and what was called."""
    command = " ".join([f"python -m bench.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
    return {"machine": machine(), "date": time.strftime("%Y-%m-%d"), "command": command}


def _installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


@contextlib.contextmanager
def _run(
    command: list[str], environment: dict[str, str], folder: Path = ROOT
) -> Iterator[tuple["subprocess.Popen[str]", str]]:
    process = subprocess.Popen(command, env=environment, cwd=folder, stdout=subprocess.PIPE, text=True)
    found = threading.Event()
    urls: list[str] = []

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            match = _LISTENING.search(line)
            if match:
                urls.append(match[1])
                found.set()
        found.set()

    threading.Thread(target=read, daemon=True).start()
    try:
        if not found.wait(START_SECONDS) or not urls:
            raise RuntimeError(f"{' '.join(command)} did not start")
        yield process, urls[0]
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_ready(url: str) -> None:
    done = threading.Event()
    for _ in range(round(START_SECONDS / 0.2)):
        if httpx.get(f"{url}/ready").status_code == 200:
            return
        done.wait(0.2)
    raise RuntimeError("sdstream's worker did not get ready")


__all__ = [
    "ROOT",
    "Echo",
    "Sdstream",
    "Target",
    "conditions",
    "machine",
    "processor_seconds",
    "run_echo",
    "run_sdstream",
    "settle",
]
