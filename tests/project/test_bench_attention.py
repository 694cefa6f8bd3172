"""`bench.attention`: its figures, how what it times lies, and that it runs without a card."""

import json
import sys
from pathlib import Path

import pytest
import torch

from bench import attention
from bench.attention import MODELS, TEXT, Level, Work, row_of, shape_of, summary_of, work_of
from sdstream.diffusion.trials.ways import Sample


def work(*, to_text: bool, streams: int = 2) -> Work:
    return Work("tiny 64", Level(6, 4, 8, 3), streams, to_text)


def test_a_row_says_which_way_wins_and_what_is_chosen() -> None:
    samples = [Sample("", (0.3, 0.2, 0.2)), Sample("flash", (0.199,)), Sample("cudnn", (0.4,))]
    row = row_of(work(to_text=False), "name", samples)
    assert row["microseconds"] == {"torch": 200.0, "flash": 199.0, "cudnn": 400.0}
    assert (row["wins"], row["chosen"]) == ("flash", "torch"), "too little is gained"
    faster = row_of(work(to_text=True), "name", [Sample("", (0.2,)), Sample("flash", (0.1,))])
    assert faster["chosen"] == "flash"
    todo = [work(to_text=False), work(to_text=True)]
    assert summary_of([row, faster], todo) == [{"model": "tiny 64", "streams": 2, "torch": 1200.0, "chosen": 900.0}]
    assert summary_of([row], todo) == [], "not all of it was timed"
    assert row_of(work(to_text=False), "name", [])["wins"] is None


def test_what_looks_at_itself_is_one_product_and_a_text_lies_beside() -> None:
    shape = shape_of(work(to_text=False), torch.float32)
    assert (shape.rows, shape.heads, shape.queries, shape.keys, shape.width) == (2, 4, 6, 6, 8)
    assert shape.stride == 3 * 32
    shape = shape_of(work(to_text=True), torch.float32)
    assert (shape.queries, shape.keys, shape.stride) == (6, TEXT, 32)


def test_all_shapes_of_a_model_come_with_each_number_of_streams() -> None:
    todo = list(work_of(MODELS, ["sdxl-turbo"], [1, 8]))
    assert len(todo) == len(set(todo)) == 2 * 2 * (2 + 2)
    assert {each.model for each in todo} == {"sdxl-turbo 512", "sdxl-turbo 1024"}


@pytest.mark.skipif(torch.cuda.is_available(), reason="takes tiny shapes on a CPU alone")
def test_it_runs_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "figures.json"
    monkeypatch.setattr(sys, "argv", ["attention", "--streams", "1", "--json", str(file)])
    with torch.no_grad():
        assert attention.main() == 0
    figures = json.loads(file.read_text("utf-8"))
    assert len(figures["rows"]) == 4
    assert figures["left_out"] == 0
    assert all({"torch", "operations"} == row["microseconds"].keys() for row in figures["rows"])
    assert [total["model"] for total in figures["frames"]] == ["tiny 64"]
    monkeypatch.setattr(sys, "argv", ["attention", "--seconds", "-1"])
    assert attention.main() == 1, "nothing was timed"
