"""`python -m builder` while it is still importing what it needs, and after it has printed what it has to say."""

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from builder import __main__, command

FULL = Path("/dev/full")


class Interrupted(ModuleType):
    """A module at whose import the person presses Ctrl-C."""

    def __getattr__(self, name: str) -> Any:
        raise KeyboardInterrupt


def test_a_ctrl_c_while_torch_is_imported_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "builder.command", Interrupted("builder.command"))
    assert __main__.main() == command.EXIT_INTERRUPTED
    assert capsys.readouterr().err == "builder: interrupted; nothing was begun\n"


def test_a_reader_that_leaves_early_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_: object) -> int:
        print("an engine")
        return 0

    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w", encoding="utf-8") as left, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", left)
        patch.setattr(command, "run", run)
        assert __main__.main() == command.EXIT_FAILED


@pytest.mark.skipif(not FULL.exists(), reason="this system has no disk that is always full")
def test_a_full_disk_under_standard_output_is_told_in_one_line(tmp_path: Path) -> None:
    with FULL.open("w", encoding="utf-8") as full:
        done = subprocess.run(
            [sys.executable, "-m", "builder", "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == command.EXIT_FAILED
    assert done.stderr == "builder: standard output cannot be written: No space left on device\n"


def test_it_speaks_as_the_program_that_was_called(capsys: pytest.CaptureFixture[str]) -> None:
    code = __main__.main(["fetch", "--profile", "nothing"], "sdstream")
    assert code == command.EXIT_USAGE
    assert capsys.readouterr().err.startswith("sdstream: there is no profile nothing\n")


def test_engines_are_in_a_data_directory_under_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SDSTREAM_DATA_DIR", "~/data")  # as a file of variables, which no shell reads, has it
    assert command.run(["list"]) == 0
    assert capsys.readouterr().err == f"builder: no engines in {tmp_path / 'data' / 'engines'}\n"
