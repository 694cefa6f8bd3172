"""`sdstream models`: where models are is told, tiny ones are made whole or not at all."""

import json
from pathlib import Path
from typing import get_args

import pytest

from sdstream.cli import EXIT_FAILED, EXIT_USAGE, run
from sdstream.commands import models
from sdstream.settings import Family
from tests.project.commands import environment, sdstream


@pytest.fixture(autouse=True)
def no_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting and no hub cache of this machine."""
    monkeypatch.delenv("SDSTREAM_MODELS", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


def line_of(said: str, name: str) -> str:
    (line,) = [line for line in said.splitlines() if line.split()[:1] == [name]]
    return line


@pytest.mark.slow
@pytest.mark.parametrize("family", get_args(Family))
def test_a_tiny_model_is_made_and_listed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, family: Family
) -> None:
    target = tmp_path / "new" / "model"
    assert run(["models", "tiny", str(target), "--family", family]) == 0
    assert capsys.readouterr().out.strip() == str(target)
    assert [entry.name for entry in target.parent.iterdir()] == ["model"], "nothing is left beside it"
    assert {"model_index.json", "unet", "vae", "taesd", "text_encoder", "tokenizer"} <= {
        entry.name for entry in target.iterdir()
    }
    monkeypatch.setenv("SDSTREAM_MODELS", json.dumps({"my/own": {"source": str(target), "family": family}}))
    assert run(["models", "list"]) == 0
    told = line_of(capsys.readouterr().out, "my/own").split()[1:]
    assert (told[0], told[-1]) == (family, str(target))
    size = sum(file.stat().st_size for file in target.rglob("*") if file.is_file())
    assert told[1:3] == [f"{size / 1e6:.1f}", "MB"]


@pytest.mark.parametrize("target", ["~nobody-of-this-name/model", "x" * 300])
def test_a_place_that_cannot_be_is_told(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["models", "tiny", target]) in (EXIT_FAILED, EXIT_USAGE)
    assert target in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_source_in_a_home_directory_that_nobody_has_is_not_on_this_machine(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = {"source": "~nobody-of-this-name/model", "family": "sd15"}
    monkeypatch.setenv("SDSTREAM_MODELS", json.dumps({"my/own": source}))
    assert run(["models", "list"]) == 0
    assert "is not on this machine" in line_of(capsys.readouterr().out, "my/own")


def test_a_data_directory_that_cannot_be_read_has_nothing_to_pin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "pin", "--data-dir", str(tmp_path / ("x" * 300))]) == EXIT_FAILED
    assert "cannot be read" in capsys.readouterr().err


def test_models_that_are_not_here_are_listed_with_the_reason(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "list"]) == 0
    said = capsys.readouterr()
    assert "is not on this machine" in line_of(said.out, "stabilityai/sd-turbo")
    assert "No model is here" in said.err


def test_where_nothing_may_be_fetched_neither_the_list_nor_a_pull_says_that_a_pull_helps(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDSTREAM_OFFLINE", "true")
    assert run(["models", "list"]) == 0
    line = line_of(capsys.readouterr().out, "stabilityai/sd-turbo").rstrip()
    assert line.endswith("SDSTREAM_OFFLINE forbids to fetch it")
    for words in (["stabilityai/sd-turbo"], ["--for", "controlnet:depth"], ["--for", "hed"]):
        assert run(["models", "pull", *words]) == 1
        said = capsys.readouterr().err
        assert "SDSTREAM_OFFLINE forbids to fetch it" in said
        assert "`sdstream models pull" not in said
        assert "Without that setting this command fetches it." in said


def test_a_directory_without_an_index_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = json.dumps({"stabilityai/sd-turbo": str(tmp_path)})
    assert run(["models", "list", "--models", given]) == 0
    assert "model_index.json is missing" in line_of(capsys.readouterr().out, "stabilityai/sd-turbo")


@pytest.mark.parametrize("kind", ["a file", "not empty"])
def test_what_is_there_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    target = tmp_path / "model"
    if kind == "a file":
        target.write_text("mine")
    else:
        target.mkdir()
        (target / "mine").write_text("mine")
    assert run(["models", "tiny", str(target)]) == EXIT_USAGE
    assert kind in capsys.readouterr().err
    assert [entry.name for entry in tmp_path.iterdir()] == ["model"]
    assert (target if kind == "a file" else target / "mine").read_text() == "mine"


def test_an_unknown_family_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "tiny", str(tmp_path / "model"), "--family", "sd3"]) == EXIT_USAGE
    assert "sd3" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_failure_half_way_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    half = "import sys, pathlib; pathlib.Path(sys.argv[1]).mkdir(); raise SystemExit('the disk is full')"
    monkeypatch.setattr(models, "TINY_PROGRAM", half)
    assert run(["models", "tiny", str(tmp_path / "model")]) == EXIT_FAILED
    assert "the disk is full" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_an_empty_directory_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = "import sys, pathlib; pathlib.Path(sys.argv[1]).mkdir(); pathlib.Path(sys.argv[1], 'made').touch()"
    monkeypatch.setattr(models, "TINY_PROGRAM", made)
    target = tmp_path / "model"
    target.mkdir()
    assert run(["models", "tiny", str(target)]) == 0
    assert [entry.name for entry in target.iterdir()] == ["made"]


@pytest.mark.slow
def test_the_list_needs_no_torch(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "torch.py").write_text("raise ImportError('torch is not for the command line')")
    done = sdstream("models", "list", environment=environment(tmp_path / "data") | {"PYTHONPATH": str(blocked)})
    assert done.returncode == 0, done.stderr
    assert "stabilityai/sd-turbo" in done.stdout


def test_what_was_fetched_is_pinned_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SDSTREAM_DATA_DIR", str(tmp_path))
    folder = tmp_path / "models/me/net"
    folder.mkdir(parents=True)
    (folder / ".sdstream.json").write_text(json.dumps({"repository": "me/net", "commit": "c" * 40}))
    (folder / "net.safetensors").write_bytes(b"weights")
    assert run(["models", "pin", "--check"]) == EXIT_FAILED
    assert "me/net is not pinned" in capsys.readouterr().out
    assert run(["models", "pin"]) == 0
    assert f"me/net: {'c' * 10}, 1 file by SHA-256" in capsys.readouterr().out
    assert run(["models", "pin", "--check"]) == 0
    (folder / "net.safetensors").write_bytes(b"others")
    assert run(["models", "pin", "--check"]) == EXIT_FAILED
    assert "me/net/net.safetensors is not what was pinned" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["models", "pull"], EXIT_USAGE, "`sdstream models list` shows the ids"),
        (["models", "pull", "--for", "foo"], EXIT_USAGE, "A model's ID stands alone"),
        (["models", "pin"], EXIT_FAILED, "there is nothing to pin"),
        (["models", "pin", "--check"], 0, "there is nothing to compare"),
        (["engines", "list"], 0, "no engines are in"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_finds_nothing_to_do_says_so_and_how_to_go_on(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.setenv("SDSTREAM_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SDSTREAM_ENGINE_LOCAL_DIR", str(tmp_path / "local"))
    assert run(arguments) == code
    said = capsys.readouterr()
    assert words in " ".join(said.err.split())
    assert said.out == ""
    assert not (tmp_path / "data").exists()


def test_shipped_pins_say_how_they_hold_what_they_pin(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "pin", "--shipped"]) == 0
    said = capsys.readouterr().out
    assert "0 files" not in said
    assert "1 files" not in said
