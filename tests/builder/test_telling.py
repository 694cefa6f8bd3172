"""What `python -m builder` tells programs."""

import json
from pathlib import Path

import pytest

from builder import command
from builder.checking import CheckResult
from builder.telling import show_results


def test_an_engine_that_gives_no_finite_number_is_told_in_json_that_every_reader_takes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    facts = {"error": float("inf"), "onnx_error": 0.25, "device": "cpu"}
    show_results([CheckResult("unet", facts, ("the error is inf",))], as_json=True)

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    (told,) = json.loads(capsys.readouterr().out, parse_constant=refuse)
    assert told["facts"] == {"error": None, "onnx_error": 0.25, "device": "cpu"}
    assert told["problems"] == ["the error is inf"]


def test_the_directory_of_engines_may_begin_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert command._cache(Path("~/engines")).directory == tmp_path / "engines"
