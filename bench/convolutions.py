"""The convolutions of a frame, shape by shape: what cuDNN takes on this GPU, and what this project's kernel takes.

    python -m bench.convolutions [--model sd-turbo] [--size 512] [--streams 1] [--remember FOLDER] [--json FILE]
    python -m bench.convolutions --compile 80,89,90,120      without a card: registers, spills and shared memory
    TRITON_INTERPRET=1 python -m bench.convolutions          without a card: a few tiny shapes, interpreted

Each row is one shape, as often as a frame has it. What is timed is a recorded call from a cache that holds nothing of
it, by turns; `chosen` is what a worker would take. With `--remember` the choices are written where a worker with that
data directory looks for them (FOLDER is its `convolutions`), without a limit of time. With `--eight-bit` the rows are
what residual blocks ask for in eight bits, and the same in half precision; torch's own way of the first is a long one.
"""

# Triton is installed only where torch is for CUDA.
# pyright: reportMissingModuleSource=false

import argparse
import json
import os
import re
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode  # the only way to look at full-size networks without time

from bench.launches import (
    H100,
    NOISE,
    STEPS,
    cudnn_by_shape,
    give_memory,
    knobs_of,
    make_eight_bit_convolutions_of_shapes,
    one_attention,
    run,
    shapes_of,
)
from bench.support.interpreting import mend_interpreter
from bench.support.targets import conditions
from sdstream.diffusion.convolving.arguments import Arguments
from sdstream.diffusion.convolving.choices import Choice, choice_by, finding_of
from sdstream.diffusion.convolving.shapes import EIGHT_BIT, Card, Shape
from sdstream.diffusion.convolving.tilings import (
    BASE,
    LEAST_DEPTH,
    MOST_HOPPER,
    MOST_TRIED,
    Tiling,
    candidates,
    fits,
    has_registers,
    triton_tiling_named,
)
from sdstream.diffusion.convolving.trial import try_tilings
from sdstream.diffusion.convolving.tuning import assumed_choices, card_of
from sdstream.diffusion.convolving.twins import own_convolution, prepare_kernels
from sdstream.diffusion.frame import Frame
from sdstream.diffusion.fused.steps_trial import try_steps
from sdstream.diffusion.schedule import Schedule
from sdstream.diffusion.state import make_memory, stack
from sdstream.diffusion.trials.memory import keep_findings_in, store_of
from sdstream.diffusion.trials.stopwatch import CudaStopwatch, Stopwatch
from sdstream.diffusion.trials.store import Subject
from sdstream.diffusion.trials.ways import Sample

TINY = (
    Shape(1, 5, 6, 32, 0, 24, 3, 1, 1, 5, 6, False, 1, True, "relu", "float16"),
    Shape(1, 4, 3, 32, 32, 16, 1, 1, 0, 4, 3, False, 0, False, "", "float16"),
    Shape(1, 4, 3, 3, 0, 16, 3, 2, 1, 2, 2, False, 1, False, "", "float16"),
)
"""What can be interpreted in a moment."""
Row = dict[str, Any]


class HostStopwatch:
    """Times calls by the host's clock: of interpreted kernels, whose times mean nothing."""

    def time(self, calls: Sequence[Callable[[], torch.Tensor]]) -> list[tuple[float, ...]]:
        times: list[tuple[float, ...]] = []
        for call in calls:
            began = time.perf_counter()
            call()
            times.append((1000 * (time.perf_counter() - began),))
        return times


def shapes_of_frame(model: str, size: int, streams: int, steps: int = 1, *, eight_bit: bool = False) -> Counter[Shape]:
    """The shapes of convolutions in a frame, and how often each comes; with `eight_bit` only those that can be so, both
    ways. Needs a torch for CUDA, and no card."""
    networks = shapes_of(model)
    tables = Schedule.from_config(NOISE).tables(STEPS[steps])
    with FakeTensorMode(allow_non_fake_inputs=True), one_attention(), cudnn_by_shape():
        for network in (networks.unet, networks.vae):
            give_memory(network, "cuda")
        if eight_bit:
            make_eight_bit_convolutions_of_shapes(networks.unet)
        frame = Frame(networks, slots=len(STEPS[steps]), guidance="self", whole=True)
        knobs = frame.complete(stack([knobs_of(networks, tables, size, "cuda")] * streams))
        image = torch.zeros(streams, size * 3 // 2, size, dtype=torch.uint8, device="cuda")
        with assumed_choices(H100) as asked:
            run(frame, image, knobs, make_memory(knobs), None)
    if eight_bit:
        small = {shape: number for shape, number in asked.items() if shape.dtype == EIGHT_BIT}
        return Counter(small | {replace(shape, dtype="float16"): number for shape, number in small.items()})
    # A block asks whether two sources would be read where they lie before it has it done.
    return Counter({shape: number // 2 if shape.other_channels else number for shape, number in asked.items()})


def measure(
    shapes: Iterable[tuple[Shape, int]],
    card: Card,
    device: torch.device,
    stopwatch: Stopwatch,
    own: Callable[[Arguments, str], torch.Tensor] = own_convolution,
    prepare: Callable[[Arguments, Sequence[str]], None] = prepare_kernels,
    tried: int = MOST_TRIED,
    hopper: int = MOST_HOPPER,
) -> Iterator[tuple[Row, Shape, Choice]]:
    """What each shape takes, and what is chosen for it of so many ways and so many of those for Hopper, the largest
    first."""
    for shape, calls in sorted(shapes, key=lambda each: -each[0].operations * each[1]):
        tilings = candidates(shape, card, tried, hopper)
        samples = (try_tilings(shape, tilings, device, stopwatch, own=own, prepare=prepare) or []) if tilings else []
        choice = choice_by(samples)
        yield row_of(shape, calls, samples, choice, len(tilings)), shape, choice


def row_of(shape: Shape, calls: int, samples: Sequence[Sample], choice: Choice, tried: int) -> Row:
    """The figures of a shape."""
    own = [sample for sample in samples if sample.way and sample.milliseconds]
    best = min(own, key=lambda sample: sample.median, default=None)
    best_ms = None if best is None else best.median
    plain_ms = choice.plain_milliseconds or None

    def rate(milliseconds: float | None) -> float | None:
        return None if not milliseconds else round(shape.operations / milliseconds / 1e9, 1)

    return {
        "shape": shape.name,
        "calls": calls,
        "plain_ms": plain_ms,
        "own_ms": best_ms,
        "own": "" if best is None else best.way,
        "plain_tflops": rate(plain_ms),
        "own_tflops": rate(best_ms),
        "chosen": choice.tiling or "torch",
        "distance": None if best is None else best.distance,
        "tried": tried,
        "right": len(own),
        "ways_ms": {sample.way: sample.median for sample in own},
    }


def summary_of(rows: Iterable[Row]) -> Row:
    """Milliseconds of all convolutions of a frame, as torch has them and as they would be chosen."""
    plain = chosen = 0.0
    own = 0
    for row in rows:
        each = row["plain_ms"] or 0.0
        plain += row["calls"] * each
        chosen += row["calls"] * (each if row["chosen"] == "torch" else row["own_ms"])
        own += row["calls"] * (row["chosen"] != "torch")
    return {"plain_ms": round(plain, 4), "chosen_ms": round(chosen, 4), "calls_by_own": own}


def summaries_of(rows: Sequence[Row], types: Mapping[str, str]) -> Row:
    """The summary of a frame's rows; one by each type of numbers where they have several, as a frame has the one or the
    other. `types` are by the name of the shape."""
    summaries = {
        kind: summary_of(row for row in rows if types[row["shape"]] == kind) for kind in sorted(set(types.values()))
    }
    return next(iter(summaries.values()), summary_of(())) if len(summaries) < 2 else summaries


def compile_for(tiling: Tiling, capability: int, **flags: Any) -> Row:
    """What the compiler makes of a tiling for cards of a capability such as 90. Needs Triton, and no card."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from sdstream.diffusion.convolving import kernels

    made: Any = kernels
    kernel = made.convolution_values
    wanted: dict[str, Any] = {
        "side": 3,
        "stride": 1,
        "padding": 1,
        "doubled": False,
        "phased": False,
        "narrow": False,
        "has_other": False,
        "is_split": tiling.parts > 1,
        "has_bias": True,
        "has_more": False,
        "has_residual": True,
        "activation": 0,
        **flags,
        "block_rows": tiling.rows,
        "block_columns": tiling.columns,
        "block_depth": tiling.depth,
        "together": tiling.together,
    }
    pointers = ("x", "other", "weight", "bias", "more", "residual", "out")
    signature: dict[str, str] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for index, name in enumerate(kernel.arg_names):
        if name in wanted:
            signature[name] = "constexpr"
            continue
        split = name == "out" and wanted["is_split"]
        signature[name] = ("*fp32" if split else "*fp16") if name in pointers else "i32"
        if name in pointers or (name in ("channels", "other_channels", "columns") and not wanted["narrow"]):
            attributes[(index,)] = [["tt.divisibility", 16]]
    compiled: Any = triton.compile(
        ASTSource(kernel, signature, wanted, attributes),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": tiling.warps, "num_stages": tiling.stages},
    )
    tools = Path(str(triton.__file__)).parent / "backends" / "nvidia" / "bin"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        said = subprocess.run(
            [tools / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True, check=True
        )
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", said.stdout)
    if found is None:
        raise RuntimeError(f"cuobjdump says nothing of registers: {said.stdout!r}")
    registers, stack_bytes, local = (int(number) for number in found.groups())
    return {
        "tiling": tiling.name,
        "capability": capability,
        "registers": registers,
        "spilled_bytes": stack_bytes + local,
        "shared_bytes": compiled.metadata.shared,
        "products": "wgmma" if "wgmma.mma_async" in compiled.asm["ptx"] else "mma",
    }


VARIANTS: dict[str, dict[str, Any]] = {
    "3x3": {},
    "3x3 doubled": {"doubled": True},
    "2x2 phased": {"phased": True, "side": 2},
    "1x1 of two": {"side": 1, "padding": 0, "has_other": True, "has_residual": False},
    "in parts": {"is_split": True, "has_bias": False, "has_residual": False},
    "3x3 narrow": {"narrow": True, "has_residual": False, "activation": 1},
}
"""Of the kernel, those that differ most in registers."""


def compile_all(capabilities: Iterable[int], tilings: Iterable[Tiling] = BASE) -> Iterator[Row]:
    """All tilings that have room on cards of these capabilities, in all variants."""
    for capability in capabilities:
        for tiling in tilings:
            if not fits(tiling, divmod(capability, 10)):
                continue
            for name, flags in VARIANTS.items():
                narrow, doubled = "narrow" in flags, "doubled" in flags
                if narrow and tiling.depth != LEAST_DEPTH:
                    continue
                if has_registers(tiling, divmod(capability, 10), doubled=doubled, narrow=narrow):
                    yield {"variant": name, **compile_for(tiling, capability, **flags)}


def show(row: Row) -> None:
    """Print a row of figures."""
    if "capability" in row:
        words = f"{row['registers']} registers, {row['spilled_bytes']} spilled, {row['shared_bytes']} shared"
        print(f"sm_{row['capability']} {row['tiling']:26} {row['variant']:12} {words}, {row['products']}", flush=True)
        return

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.4f}"

    rates = f"{row['plain_tflops'] or '-'} and {row['own_tflops'] or '-'} TFLOP/s"
    print(
        f"{row['calls']:3} x {row['shape']}: torch {number(row['plain_ms'])} ms, own {number(row['own_ms'])} ms "
        f"({row['own'] or 'none'}), {rates}; chosen {row['chosen']}",
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="sd-turbo", help="of sd-turbo, sdxl-turbo, sd15, tiny")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--streams", type=int, default=1)
    parser.add_argument("--most", type=int, default=1000, help="shapes, those that come most often first")
    parser.add_argument("--tried", type=int, default=MOST_TRIED, help="ways to compute each shape, at most")
    parser.add_argument("--hopper", type=int, default=MOST_HOPPER, help="of those for Hopper, at most")
    parser.add_argument("--eight-bit", action="store_true", help="what can be in eight bits, beside half precision")
    parser.add_argument("--remember", type=Path, help="write the choices into this folder, for workers")
    parser.add_argument("--compile", help="compute capabilities, such as 80,90: compile for them and time nothing")
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    torch.backends.cudnn.benchmark = True
    figures: Row = {**conditions(), "torch": torch.__version__}
    rows: list[Row] = []

    def note() -> None:
        """After each shape: a program that is ended has measured something, too."""
        if options.json:
            Path(options.json).write_text(json.dumps({**figures, "rows": rows}, indent=2) + "\n", "utf-8")

    if options.compile:
        for row in compile_all(int(each) for each in options.compile.split(",")):
            rows.append(row)
            show(row)
    elif torch.cuda.is_available():
        device = torch.device("cuda")
        card = torch.cuda.get_device_name(device)
        try_steps(device)  # torch's own way doubles pictures and adds biases as frames have it
        size = 64 if options.model == "tiny" else options.size
        shapes = shapes_of_frame(options.model, size, options.streams, eight_bit=options.eight_bit)
        figures |= {"card": card, "model": options.model, "size": size, "streams": options.streams}
        chosen: dict[str, Choice] = {}
        for row, shape, choice in measure(
            shapes.most_common(options.most),
            card_of(device),
            device,
            CudaStopwatch(device),
            tried=options.tried,
            hopper=options.hopper,
        ):
            rows.append(row)
            chosen[shape.name] = choice
            show(row)
            note()
        figures["frame"] = summaries_of(rows, {shape.name: shape.dtype for shape in shapes})
        print(json.dumps(figures["frame"]))
        if options.remember:
            keep_findings_in(options.remember)
            found = {Subject("convolutions", name): finding_of(choice) for name, choice in chosen.items()}
            store_of(device).settle(found)
    elif os.environ.get("TRITON_INTERPRET") == "1":
        rows = interpreted()
        for row in rows:
            show(row)
    else:
        parser.error("there is no CUDA GPU: --compile, or TRITON_INTERPRET=1, need none")
    note()
    wrong = [row for row in rows if row.get("spilled_bytes") or row.get("right", 1) < min(1, row.get("tried", 0))]
    return 1 if wrong else 0


def interpreted() -> list[Row]:
    """The tiny shapes by interpreted kernels on the CPU."""
    from sdstream.diffusion.convolving import kernels

    made: Any = kernels

    def own(arguments: Arguments, tiling: str) -> torch.Tensor:
        return made.launch(arguments, triton_tiling_named(tiling), lambda kernel: kernel)

    mend_interpreter()
    shapes = [(shape, 1) for shape in TINY]
    stopwatch, nothing = HostStopwatch(), lambda arguments, tilings: None
    measured = measure(shapes, H100, torch.device("cpu"), stopwatch, own, nothing, hopper=0)
    return [row for row, _, _ in measured]


if __name__ == "__main__":
    raise SystemExit(main())
