"""`bench.convolutions`: its figures, and that it runs without a card."""

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from bench.convolutions import TINY, measure, row_of, summaries_of, summary_of
from bench.launches import H100
from sdstream.diffusion.convolving.arguments import Arguments
from sdstream.diffusion.convolving.choices import Choice
from sdstream.diffusion.convolving.tilings import BASE
from sdstream.diffusion.convolving.twins import plain_convolution
from sdstream.diffusion.trials.ways import Sample

SHAPE = TINY[0]
FIRST, SECOND = (tiling.name for tiling in BASE[:2])


def test_a_row_has_the_best_of_both_ways_and_their_rates() -> None:
    samples = [Sample("", (3.0, 2.0, 2.0)), Sample(FIRST, (1.0, 1.5, 9.0)), Sample(SECOND, (2.0,))]
    row = row_of(SHAPE, 4, samples, Choice(FIRST, 1.5, 2.0), 5)
    assert (row["plain_ms"], row["own_ms"], row["own"], row["chosen"]) == (2.0, 1.5, FIRST, FIRST)
    assert row["own_tflops"] == round(SHAPE.operations / 1.5e9, 1)
    assert (row["calls"], row["tried"], row["right"]) == (4, 5, 2)
    other = row_of(SHAPE, 2, [Sample("", (1.0,))], Choice("", 1.0, 1.0), 0)
    assert (other["own_ms"], other["chosen"]) == (None, "torch")
    assert summary_of([row, other]) == {"plain_ms": 10.0, "chosen_ms": 8.0, "calls_by_own": 4}


def test_a_frame_has_its_convolutions_in_eight_bits_or_in_half_precision_and_not_both() -> None:
    rows = [row_of(shape, 2, [Sample("", (1.0,))], Choice("", 1.0, 1.0), 0) for shape in TINY[:2]]
    first, second = (row["shape"] for row in rows)
    alone = {"plain_ms": 2.0, "chosen_ms": 2.0, "calls_by_own": 0}
    assert summaries_of(rows, {first: "float8", second: "float16"}) == {"float16": alone, "float8": alone}
    assert summaries_of(rows, {first: "float16", second: "float16"}) == summary_of(rows)


def test_shapes_are_measured_the_largest_first_by_the_ways_of_a_card() -> None:
    class Stopwatch:
        def time(self, calls: Sequence[Callable[[], torch.Tensor]]) -> list[tuple[float, ...]]:
            return [(float(len(calls) - index),) for index in range(len(calls))]

    def own(arguments: Arguments, name: str) -> torch.Tensor:
        return plain_convolution(arguments)

    shapes = [(shape, 1) for shape in TINY]
    made = list(measure(shapes, H100, torch.device("cpu"), Stopwatch(), own, lambda arguments, names: None))
    assert [shape for _, shape, _ in made] == sorted(TINY, key=lambda shape: -shape.operations)
    assert all(row["right"] == row["tried"] > 0 and row["chosen"] == choice.tiling for row, _, choice in made)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed, as torch is for CPUs")
@pytest.mark.slow
def test_it_runs_interpreted(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench.convolutions", "--json", str(file)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(file.read_text("utf-8"))["rows"]
    assert [row["right"] for row in rows] == [row["tried"] for row in rows]
    assert all(row["own_ms"] for row in rows)
