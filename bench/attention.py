"""Attention as the networks ask for it: what each way to compute it takes on this GPU, shape by shape.

    python -m bench.attention [--models sd-turbo,sdxl-turbo,sd15] [--streams 1,8] [--seconds 25] [--json FILE]

Queries, keys and values lie as they do in a frame: parts of one product where a picture looks at itself, and whole
tensors where it looks at a text of 77 tokens. What is timed is a recorded CUDA graph of sixteen calls in a row, so that
what a way does between two kernels counts; medians of rounds by turns, in microseconds a call. `torch` is the way that
torch takes by itself, `chosen` what a worker would take. On a CPU tiny shapes are timed by the host's clock, as torch
and without flash attention.

Shapes that there was no time for within `--seconds` are told by their number. Ends with exit code 1 when nothing was
timed.
"""

import argparse
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from bench.support.targets import conditions
from sdstream.diffusion.fused.attending import BACKENDS, Attention, AttentionShape
from sdstream.diffusion.fused.attention_trials import tensors_of, try_backends
from sdstream.diffusion.trials.stopwatch import IN_A_ROW, ROUNDS, CudaStopwatch, Stopwatch
from sdstream.diffusion.trials.ways import Sample, choose

TEXT = 77
"""Tokens of a prompt."""
Row = dict[str, Any]


class Level(NamedTuple):
    """The attention layers of a network that have the same shape: `calls` of each kind in one frame of one step."""

    tokens: int
    heads: int
    width: int
    calls: int


class Work(NamedTuple):
    """Attention of one shape, to the picture itself or to a text."""

    model: str
    level: Level
    streams: int
    to_text: bool

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        keys = TEXT if self.to_text else self.level.tokens
        return 4 * self.streams * self.level.heads * self.level.tokens * keys * self.level.width


MODELS: Mapping[str, tuple[Level, ...]] = {
    "sd-turbo 512": (Level(4096, 5, 64, 5), Level(1024, 10, 64, 5), Level(256, 20, 64, 5), Level(64, 20, 64, 1)),
    "sdxl-turbo 512": (Level(1024, 10, 64, 10), Level(256, 20, 64, 60)),
    "sdxl-turbo 1024": (Level(4096, 10, 64, 10), Level(1024, 20, 64, 60)),
    "sd15 512": (Level(4096, 8, 40, 5), Level(1024, 8, 80, 5), Level(256, 8, 160, 5), Level(64, 8, 160, 1)),
}
TINY: Mapping[str, tuple[Level, ...]] = {"tiny 64": (Level(64, 4, 32, 2), Level(16, 4, 32, 1))}


def work_of(models: Mapping[str, Sequence[Level]], names: Iterable[str], streams: Iterable[int]) -> Iterator[Work]:
    """All there is to be timed, the models in the order of their names, each with all its numbers of streams."""
    numbers = tuple(streams)
    for name in names:
        for model, levels in models.items():
            if model.split()[0] == name:
                for number in numbers:
                    for to_text in (False, True):
                        yield from (Work(model, level, number, to_text) for level in levels)


def shape_of(work: Work, dtype: torch.dtype) -> AttentionShape:
    """What a worker chooses for. Rows that look at the same text would be more queries to it; streams have one each."""
    level = work.level
    keys = TEXT if work.to_text else level.tokens
    stride = level.heads * level.width * (1 if work.to_text else 3)
    return AttentionShape(work.streams, level.heads, level.tokens, keys, level.width, stride, dtype)


class HostStopwatch:
    """Times calls by the host's clock."""

    def time(self, calls: Sequence[Callable[[], torch.Tensor]]) -> list[tuple[float, ...]]:
        times: list[list[float]] = [[] for _ in calls]
        for _ in range(ROUNDS):
            for call, took in zip(calls, times, strict=True):
                began = time.perf_counter()
                for _ in range(IN_A_ROW):
                    call()
                took.append(1000 * (time.perf_counter() - began) / IN_A_ROW)
        return [tuple(took) for took in times]


def _by_operations(query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    operations: Any = torch.ops.aten
    made: torch.Tensor = operations._scaled_dot_product_attention_math(query, keys, values)[0]
    return made


def measure(
    work: Work, device: torch.device, dtype: torch.dtype, stopwatch: Stopwatch, backends: Mapping[str, Attention]
) -> Row:
    """The figures of one shape."""
    shape = shape_of(work, dtype)
    samples = try_backends(*tensors_of(shape, device), stopwatch, backends)
    return row_of(work, shape.name, samples)


def row_of(work: Work, name: str, samples: Sequence[Sample]) -> Row:
    """The same from what was timed."""
    took = {sample.way or "torch": round(1000 * median(sample.milliseconds), 2) for sample in samples}
    wins = min(took, key=lambda way: took[way], default=None)
    return {
        "model": work.model,
        "streams": work.streams,
        "to": "text" if work.to_text else "itself",
        "shape": name,
        "calls": work.level.calls,
        "microseconds": took,
        "wins": wins,
        "chosen": choose(samples) or "torch",
        "tflops": None if wins is None or not took[wins] else round(work.operations / took[wins] / 1e6, 1),
    }


def show(row: Row) -> None:
    """Print a row of figures."""
    took = "  ".join(f"{way} {value:8.2f}" for way, value in row["microseconds"].items())
    kind = f"{row['model']}, {row['streams']}, {row['calls']} x"
    print(f"{kind:24} {row['shape']:62} {took}  wins {row['wins']}, chosen {row['chosen']}", flush=True)


def summary_of(rows: Sequence[Row], todo: Iterable[Work]) -> list[Row]:
    """Microseconds of all attention of a frame, as torch has it and as it would be chosen, for each model and number of
    streams whose shapes were all timed."""
    wanted = Counter((work.model, work.streams) for work in todo)
    made: list[Row] = []
    for (model, streams), shapes in wanted.items():
        own = [row for row in rows if (row["model"], row["streams"]) == (model, streams) and row["wins"]]
        if len(own) < shapes:
            continue
        chosen = sum(row["calls"] * row["microseconds"][row["chosen"]] for row in own)
        plain = sum(row["calls"] * row["microseconds"].get("torch", 0.0) for row in own)
        made.append({"model": model, "streams": streams, "torch": round(plain, 1), "chosen": round(chosen, 1)})
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="sd-turbo,sdxl-turbo,sd15", help="on a GPU; a CPU takes tiny shapes")
    parser.add_argument("--streams", default="1,8")
    parser.add_argument("--seconds", type=float, default=25.0, help="after which no further shape is begun")
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    torch.set_grad_enabled(False)
    began = time.monotonic()
    numbers = [int(each) for each in options.streams.split(",")]
    on_gpu = torch.cuda.is_available()
    device = torch.device("cuda" if on_gpu else "cpu")
    names = options.models.split(",") if on_gpu else ["tiny"]
    known = {model.split()[0] for model in MODELS}
    if on_gpu and not known.issuperset(names):
        parser.error(f"there are {', '.join(sorted(known))}")
    todo = list(work_of(MODELS if on_gpu else TINY, names, numbers))
    dtype = torch.float16 if on_gpu else torch.float32
    stopwatch: Stopwatch = CudaStopwatch(device, in_a_row=IN_A_ROW) if on_gpu else HostStopwatch()
    backends: Mapping[str, Attention] = BACKENDS if on_gpu else {"operations": _by_operations}
    figures: Row = {**conditions(), "torch": torch.__version__}
    figures |= {"device": torch.cuda.get_device_name() if on_gpu else "cpu", "dtype": str(dtype), "rows": []}
    rows: list[Row] = figures["rows"]
    for work in todo:
        if time.monotonic() - began > options.seconds:
            break
        rows.append(measure(work, device, dtype, stopwatch, backends))
        show(rows[-1])
        figures["left_out"] = len(todo) - len(rows)
        if options.json:  # after each: a program that is ended has measured something, too
            Path(options.json).write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    figures["frames"] = summary_of(rows, todo)
    for total in figures["frames"]:
        print(json.dumps(total))
    if options.json:
        Path(options.json).write_text(json.dumps(figures, indent=2) + "\n", "utf-8")
    if len(rows) < len(todo):
        print(f"no time for {len(todo) - len(rows)} shapes")
    return 0 if any(row["microseconds"] for row in rows) else 1


if __name__ == "__main__":
    raise SystemExit(main())
