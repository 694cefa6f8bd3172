"""How long, in how much memory and into how many bytes a full-size model bakes on this CPU, export included.

    python -m bench.bake [--model sd-turbo] [--size 512] [--streams 4] [--sm 86,89,120] [--json FILE]

The UNet and the TAESD of the named model have their real sizes and random weights in half precision. A child process
bakes them for TensorRT-RTX as `python -m builder bake` does, text encoders left out; this program samples the memory of
the child and how busy the rest of the machine was meanwhile. Goal: at most 120 s and 8 GB on 2 cores.
"""

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil
from rich.console import Console

from bench.support.targets import conditions

GOALS = {"seconds": 120.0, "peak_gigabytes": 8.0}


def bake(model: str, size: int, streams: int, capabilities: list[int]) -> dict[str, Any]:
    """Bake in this process, for 1 to `streams` streams of up to 4 steps; returns seconds, the size and, for each
    component, what became of it."""
    import torch

    from bench.support.random_models import make_networks
    from builder.baking import BakeProgress, Bakery
    from builder.models import LoadedProfile
    from builder.profiles import Profile
    from sdstream.diffusion.components import ComponentMaker, ModelSizes, row_ranges
    from sdstream.diffusion.networks import EagerNetworks
    from sdstream.engines.cache import EngineCache
    from sdstream.engines.component import RowRange

    torch.set_grad_enabled(False)
    networks = make_networks(model, torch.device("cpu"), torch.float16)
    counts = RowRange(1, 1, streams)
    sizes = ModelSizes(size, size, 8, row_ranges(counts, 4), counts)
    maker = ComponentMaker(EagerNetworks(networks.unet, networks.vae), sizes, model=model)
    profile = Profile.model_validate(
        {
            "name": f"bench-{model}",
            "family": model,
            "model": model,
            "sizes": [f"{size}x{size}"],
            "targets": {"tensorrt-rtx": capabilities},
        }
    )
    last = ""

    def tell(progress: BakeProgress) -> None:
        nonlocal last
        if progress.detail != last:
            last = progress.detail
            held = f"{psutil.Process().memory_info().rss / 1e9:.1f} GB"
            part = progress.engine.split("--")[1]
            print(f"{progress.seconds:6.1f} s {held}  {part}: {progress.detail}", file=sys.stderr)

    with tempfile.TemporaryDirectory(prefix="sdstream-bake-", dir=os.environ.get("TMPDIR")) as folder:
        started = time.monotonic()
        loaded = LoadedProfile(profile, (maker.unet(), maker.encoder(), maker.decoder()))
        hashed = time.monotonic() - started
        bakery = Bakery(EngineCache(Path(folder)), load=lambda *_: loaded)
        outcome = bakery.bake(profile, tell=tell, force=True)
        return {
            "seconds": round(time.monotonic() - started, 1),
            "hashing_seconds": round(hashed, 1),
            "megabytes": round(sum(engine.size for engine in outcome.engines) / 1e6, 1),
            "complete": outcome.is_complete,
            "engines": outcome.as_json()["engines"],
        }


class Watch:
    """Samples a process's memory, what it keeps on disk, and the processor time of everything else."""

    def __init__(self, process_id: int, folder: Path) -> None:
        """`folder` is where the process keeps all its files."""
        self._process = psutil.Process(process_id)
        self._folder = folder
        self.peak_disk = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.peak = 0
        self.peak_anonymous = 0
        """Without what is mapped from files, such as the ONNX weights, which the system may drop."""
        self.own_seconds = 0.0
        self._before = psutil.cpu_times()
        self._started = time.monotonic()
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(0.05):
            try:
                memory = self._process.memory_info()
                self.peak = max(self.peak, memory.rss)
                self.peak_anonymous = max(self.peak_anonymous, memory.rss - memory.shared)
                self.peak_disk = max(self.peak_disk, bytes_in(self._folder))
                spent = self._process.cpu_times()
                self.own_seconds = spent.user + spent.system
            except psutil.NoSuchProcess:
                return

    def end(self) -> dict[str, float]:
        self._ended.set()
        self._thread.join()
        after = psutil.cpu_times()
        busy = sum(getattr(after, name) - getattr(self._before, name) for name in ("user", "nice", "system"))
        seconds = time.monotonic() - self._started
        return {
            "peak_gigabytes": round(self.peak / 1e9, 2),
            "peak_anonymous_gigabytes": round(self.peak_anonymous / 1e9, 2),
            "peak_disk_gigabytes": round(self.peak_disk / 1e9, 2),
            "own_processor_seconds": round(self.own_seconds, 1),
            "others_cores": round(max(0.0, busy - self.own_seconds) / seconds, 2),
        }


def bytes_in(folder: Path) -> int:
    """What the files of a folder take on the disk."""
    size = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):  # it went meanwhile
                size += os.stat(os.path.join(place, name)).st_blocks * 512
    return size


def meets_goals(result: dict[str, Any]) -> bool:
    """Whether all was baked, soon enough and in little enough memory: what fails at once is not fast."""
    return bool(result["complete"]) and all(result[name] <= most for name, most in GOALS.items())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("sd-turbo", "sdxl-turbo", "sd15"), default="sd-turbo")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--streams", type=int, default=4, help="the most in one pass")
    parser.add_argument("--sm", default="86,89,120")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    capabilities = [int(number) for number in given.sm.split(",")]
    if given.child:
        print(json.dumps(bake(given.model, given.size, given.streams, capabilities)))
        return 0
    command = [sys.executable, "-m", "bench.bake", "--child", "--model", given.model, "--size", str(given.size)]
    command += ["--streams", str(given.streams)]
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="sdstream-bake-") as folder:
        process = subprocess.Popen(
            [*command, "--sm", given.sm],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TMPDIR": folder},
        )
        watch = Watch(process.pid, Path(folder))
        said, _ = process.communicate()
        measured = watch.end()
    if process.returncode != 0:
        raise SystemExit(f"the child ended with {process.returncode}")
    result = {
        **conditions(),
        "conditions": {"load_before": round(load, 1), "others_cores": measured.pop("others_cores")},
        "model": given.model,
        "size": given.size,
        "streams": given.streams,
        "weights": "random, float16",
        "capabilities": capabilities,
        "goals": GOALS,
        **json.loads(said.splitlines()[-1]),
        **measured,
    }
    result["meets_goals"] = meets_goals(result)
    Console(soft_wrap=True).print_json(data=result)
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    return 0 if result["meets_goals"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
