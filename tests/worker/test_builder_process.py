"""The builder's process behind running streams: what it is given, and what is told of how it ended."""

import sys
from pathlib import Path

import pytest

from sdstream.worker.engines import builder_process
from sdstream.worker.engines.builder_process import BuilderProcess

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the stand-in is a shell script")


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, ends: str) -> Path:
    """A program in the place of Python, which notes what it is given in the file that is returned."""
    program, seen = folder / "program", folder / "seen"
    program.write_text(
        f'#!/bin/sh\n{{ echo "$SDSTREAM_DATA_DIR"; echo "$@"; '
        f'while [ "$1" != --profile ]; do shift; done; cat "$2"; }} > {seen}\n{ends}\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(builder_process, "die_with_parent_command", lambda command: [str(program), *command])
    return seen


def test_it_bakes_the_profile_into_the_workers_engines_and_looks_where_the_worker_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = stand_in(tmp_path, monkeypatch, "exit 0")
    builder = BuilderProcess({"SDSTREAM_DATA_DIR": "/the/workers"})
    assert builder.bake('processors = ["depth_tensorrt"]\n', tmp_path / "engines") == ""
    data, command, profile = seen.read_text().splitlines()
    assert data == "/the/workers"
    assert command.endswith(f"--engines {tmp_path / 'engines'}")
    assert "-m builder bake --polite" in command
    assert profile == 'processors = ["depth_tensorrt"]'


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ("looking\\nbuilder: not on this machine: a file\\n  fetch it\\n", "not on this machine: a file"),
        ("Traceback\\nValueError: no\\n", "ValueError: no"),
        ("", "it did not say why"),
    ],
)
def test_why_it_failed_is_its_error_and_not_the_hint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, reason: str
) -> None:
    stand_in(tmp_path, monkeypatch, f"printf '{said}' >&2; exit 4")
    assert BuilderProcess().bake("", tmp_path) == reason


def test_after_its_end_nothing_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = stand_in(tmp_path, monkeypatch, "exit 0")
    builder = BuilderProcess()
    builder.close()
    assert builder.bake("", tmp_path) == "the worker ends"
    assert not seen.exists()
