"""How fast a frame is with each back end that this machine supports, side by side, and how far from the plain one.

    python -m bench.engines [--model sd-turbo] [--size 512] [--steps 4] [--streams 1,4] [--engines DIR] [--json FILE]

Networks have random weights, of full size on a GPU and tiny on a CPU. Engines are baked into DIR (a temporary directory
without it) unless they are there. Contenders take turns frame by frame: the plain frame; on a GPU the plain frame and
torch.compile's, captured; each engine, captured where it can be. What a machine cannot run is listed with the reason.
Goal on a GPU: every engine captured, and within 1e-2 of the plain frame in float16.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench.support import turn
from bench.support.random_models import TOKENS, make_networks
from bench.support.targets import conditions
from sdstream.clock import SystemClock
from sdstream.diffusion.components import ComponentMaker, ModelSizes, row_ranges
from sdstream.diffusion.engine_networks import EngineFrame, EngineNetworks, LoadedEngine
from sdstream.diffusion.frame import Frame
from sdstream.diffusion.networks import EagerNetworks
from sdstream.diffusion.runners import EagerRunner, Runner, make_runner
from sdstream.diffusion.schedule import Schedule
from sdstream.diffusion.state import Conditioning, Knobs, Memory, make_knobs, make_memory, stack
from sdstream.engine_errors import EngineError
from sdstream.engines.cache import EngineCache
from sdstream.engines.compiled import CompiledBackend
from sdstream.engines.component import Component, RowRange
from sdstream.engines.entry import Entry
from sdstream.engines.keys import BACKENDS, BackendName, target_of
from sdstream.engines.registry import capability_of, make_backend
from sdstream.worker.devices import Device

LIMITS = {torch.float16: 1e-2, torch.float32: 1e-4}
NOISE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "num_train_timesteps": 1000}
STEPS: Mapping[int, tuple[int, ...]] = {1: (32,), 2: (32, 45), 4: (0, 16, 32, 45)}


@dataclass
class Work:
    """A frame of one model at one size, and blocks of any number of streams for it."""

    networks: EagerNetworks
    frame: Frame
    size: int
    steps: int
    device: torch.device

    @property
    def scale(self) -> int:
        vae: Any = self.networks.vae
        return 2 ** (len(vae.config.decoder_block_out_channels) - 1)

    def blocks(self, streams: int) -> tuple[torch.Tensor, Knobs, Memory]:
        unet: Any = self.networks.unet
        generator = torch.Generator().manual_seed(0)
        side = self.size // self.scale
        width, pooled = unet.config.cross_attention_dim, 1280 if self.networks.is_xl else 0
        noise = torch.randn(self.steps, 4, side, side, generator=generator)
        dtype = self.networks.dtype
        prompt = Conditioning(
            torch.randn(TOKENS, width, generator=generator).to(dtype),
            torch.randn(pooled, generator=generator).to(dtype),
        )
        tables = Schedule.from_config(NOISE).tables(STEPS[self.steps], 50)
        sizes = torch.tensor([self.size, self.size, 0, 0, self.size, self.size]) if self.networks.is_xl else None
        one = make_knobs(tables, noise.to(self.device), prompt, prompt, time_ids=sizes)
        image = torch.rand(streams, 3, self.size, self.size, generator=generator).to(self.device)
        knobs = stack([one] * streams)
        return image, knobs, make_memory(knobs)

    def maker(self, most: int) -> ComponentMaker:
        streams = RowRange(1, 1, most)
        sizes = ModelSizes(self.size, self.size, self.scale, row_ranges(streams, self.steps), streams)
        return ComponentMaker(self.networks, sizes, model="bench")


def engines_of(work: Work, name: BackendName, most: int, cache: EngineCache) -> tuple[Runner, dict[str, Any]]:
    """A runner over baked engines, and what baking and loading took. Raises `EngineError` for what cannot be."""
    clock = SystemClock()
    backend = make_backend(name, work.device)
    maker = work.maker(most)
    if isinstance(backend, CompiledBackend):
        _, knobs, memory = work.blocks(1)
        components: list[Component] = [maker.frame(work.frame, knobs, memory)]
        target = backend.target()
    else:
        components, target = (
            [maker.unet(), maker.encoder(), maker.decoder()],
            target_of([capability_of(work.device) or 0]),
        )
    began = clock.monotonic()
    entries: dict[str, Entry] = {}
    for component in components:
        key = component.key(backend.name, backend.version, target, backend.cuda, backend.options)
        entry = cache.take(key.base, lambda other, key=key: other.digest == key.digest)
        if entry is None:
            with cache.draft() as folder, cache.draft() as scratch:
                backend.build(component, target, folder, scratch, lambda *_: None)
                entry = cache.store(folder, key)
        entries[component.name] = entry
    baked = clock.monotonic() - began
    work.networks.to(work.device)  # a build for a GPU may have been made on the CPU
    began = clock.monotonic()
    engines = {
        part: LoadedEngine(backend.load(entry, work.device), entry.key.most_rows) for part, entry in entries.items()
    }
    facts = {"bake_seconds": round(baked, 1), "load_seconds": round(clock.monotonic() - began, 2)}
    if isinstance(backend, CompiledBackend):
        (engine,) = engines.values()
        frame: Any = EngineFrame(work.frame, engine, name)
        return make_runner(frame, work.device), facts
    networks = EngineNetworks(work.networks, engines, name)
    frame = Frame(networks, slots=work.steps, guidance=work.frame.guidance, prediction=work.frame.prediction)
    return make_runner(frame, work.device), facts


def contenders(
    work: Work, most: int, cache: EngineCache
) -> tuple[dict[str, tuple[Runner, dict[str, Any]]], dict[str, str]]:
    """What runs here by name, and why the others do not."""
    there: dict[str, tuple[Runner, dict[str, Any]]] = {"torch": (EagerRunner(work.frame), {})}
    missing: dict[str, str] = {}
    if work.device.type == "cuda":
        there["torch+cuda_graph"] = (make_runner(work.frame, work.device), {})
        there["torch+compile+cuda_graph"] = (make_runner(work.frame, work.device, compiled=True), {})
    for name in BACKENDS:
        if name != "compiled" and work.device.type != "cuda":
            missing[name] = "not run: there is no CUDA GPU here"
            continue
        try:
            there[name] = engines_of(work, name, most, cache)
        except EngineError as error:
            missing[name] = f"not run: {error.message}"
    return there, missing


@dataclass(frozen=True, slots=True)
class Prepared:
    """So many streams' blocks, and what is known of each contender before anything is timed."""

    streams: int
    image: torch.Tensor
    knobs: Knobs
    memory: Memory
    rows: Mapping[str, dict[str, Any]]


def prepare(work: Work, runners: Mapping[str, tuple[Runner, dict[str, Any]]], streams: int) -> Prepared:
    """Let each make a few frames, which captures and compiles them; and how far each is from the plain frame."""
    image, knobs, memory = work.blocks(streams)
    plain = runners["torch"][0].run(image, knobs, memory).image.clone()
    rows: dict[str, dict[str, Any]] = {}
    for name, (runner, facts) in runners.items():
        for _ in range(2):
            runner.run(image, knobs, memory)
        result = runner.run(image, knobs, memory)
        error = float((result.image - plain).abs().max() / plain.abs().max())
        captured = "cuda_graph" in runner.in_force
        rows[name] = {"contender": name, "streams": streams, "in_force": runner.in_force, "captured": captured}
        rows[name] |= {"error": error, "notes": list(runner.notes), **facts}
    return Prepared(streams, image, knobs, memory, rows)


def measure(
    work: Work, runners: Mapping[str, tuple[Runner, dict[str, Any]]], prepared: Prepared, seconds: float
) -> list[dict[str, Any]]:
    """Frames a second of each, frame by frame in turns."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        for name, (runner, _) in runners.items():
            wait(work.device)
            began = time.perf_counter()
            runner.run(prepared.image, prepared.knobs, prepared.memory)
            wait(work.device)
            times[name].append(time.perf_counter() - began)
    rows: list[dict[str, Any]] = []
    for name, spent in times.items():
        median = statistics.median(spent)
        speed = {"frame_ms": round(median * 1e3, 3), "pictures_per_second": round(prepared.streams / median, 1)}
        speed["times_the_plain"] = round(statistics.median(times["torch"]) / median, 2)
        rows.append(prepared.rows[name] | speed)
    return rows


def missed_goals(rows: Sequence[dict[str, Any]], dtype: torch.dtype) -> list[str]:
    """The contenders that are further from the plain frame than they may be, or not captured. An error that is no
    number is none that is small."""
    bad = [row["contender"] for row in rows if not row["error"] <= LIMITS[dtype]]
    on_gpu = dtype == torch.float16
    return bad + [
        row["contender"]
        for row in rows
        if on_gpu and row["contender"] in ("tensorrt-rtx", "tensorrt") and not row["captured"]
    ]


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    parser.add_argument(
        "--model", choices=("sd-turbo", "sdxl-turbo", "sd15", "tiny"), default="sd-turbo" if cuda else "tiny"
    )
    parser.add_argument("--size", type=int, default=512 if cuda else 64)
    parser.add_argument("--steps", type=int, choices=sorted(STEPS), default=2)
    parser.add_argument("--streams", default="1,4" if cuda else "1")
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--engines", type=Path)
    parser.add_argument("--json", type=Path)
    turn.add_option(parser)
    given = parser.parse_args()
    torch.set_grad_enabled(False)
    device = Device.choose("cuda" if cuda else "cpu").torch_device
    dtype = torch.float16 if cuda else torch.float32
    if not cuda:
        torch.set_num_threads(1)
    made = make_networks(given.model, device, dtype)
    networks = EagerNetworks(made.unet, made.vae)
    work = Work(networks, Frame(networks, slots=given.steps, guidance="self"), given.size, given.steps, device)
    streams = [int(number) for number in given.streams.split(",")]
    with tempfile.TemporaryDirectory(prefix="sdstream-engines-") as folder:
        runners, missing = contenders(work, max(streams), EngineCache(given.engines or Path(folder)))
        prepared = [prepare(work, runners, count) for count in streams]
        if given.wait_for_turn:
            turn.wait()
        rows = [row for each in prepared for row in measure(work, runners, each, given.seconds)]
    table = Table("contender", "streams", "ms", "pictures/s", "x plain", "error", "in force", box=None)
    for row in rows:
        table.add_row(
            row["contender"],
            str(row["streams"]),
            f"{row['frame_ms']:.2f}",
            f"{row['pictures_per_second']:.1f}",
            f"{row['times_the_plain']:.2f}",
            f"{row['error']:.1e}",
            row["in_force"],
        )
    console = Console()
    console.print(table)
    for name, reason in missing.items():
        console.print(f"{name}: {reason}")
    bad = missed_goals(rows, dtype)
    result = {
        **conditions(),
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "model": given.model,
        "size": given.size,
        "steps": given.steps,
        "dtype": str(dtype).removeprefix("torch."),
        "weights": "random",
        "rows": rows,
        "not_run": missing,
        "goals_missed": bad,
    }
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    if bad:
        raise SystemExit(f"missed: {', '.join(sorted(set(bad)))}")


if __name__ == "__main__":
    main()
