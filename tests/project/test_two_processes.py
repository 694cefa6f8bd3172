"""`make test` in two processes: both phases run and count, and the files are shared out whole."""

import itertools
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.support.schedule import ALONE_SECONDS, SECONDS, Schedule
from tests.support.shared import made_once

ROOT = Path(__file__).parents[2]
PYTHON = """#!/bin/sh
echo "$@" >> "$CALLS"
if [ -n "$PYTHONDONTWRITEBYTECODE" ]; then exit 9; fi
if [ -n "$LEFT" ]; then echo "$LEFT" > "$LEFT_TESTS"; fi
exit $(sed -n "$(wc -l < "$CALLS")p" "$STATUSES")
"""


@pytest.mark.skipif(shutil.which("make") is None or os.name != "posix", reason="make is not installed")
@pytest.mark.parametrize(
    ("statuses", "passes"),
    [
        ((0, 0), True),
        ((1, 0), False),
        ((0, 1), False),
        ((2, 5), False),
        ((5, 0), True),
        ((0, 5), True),
        ((5, 5), False),
    ],
)
def test_both_phases_run_and_a_failure_of_either_fails(tmp_path: Path, statuses: tuple[int, int], passes: bool) -> None:
    done, calls = make_test(tmp_path, statuses, "TESTS=tests/api")
    assert calls == ["-m pytest -n 2 -m not alone tests/api", "-m pytest -n 2 -m alone tests/api"]
    assert (done.returncode == 0) is passes


@pytest.mark.skipif(shutil.which("make") is None or os.name != "posix", reason="make is not installed")
def test_the_second_phase_is_told_which_tests_are_left(tmp_path: Path) -> None:
    done, (first, second) = make_test(tmp_path, (0, 0), LEFT="tests/api/test_it.py::test_one[a b]")
    assert first == "-m pytest -n 2 -m not alone"
    before, _, list_file = second.partition("@")
    assert before == "-m pytest -n 2 -m alone "
    assert done.returncode == 0
    assert not Path(list_file).exists(), "it is gone with the run"


def test_what_the_first_phase_leaves_is_written_down(tmp_path: Path) -> None:
    own = "import pytest\n@pytest.mark.alone\n@pytest.mark.parametrize('x', ['a b', 'c'])\ndef test_left(x): pass\n"
    (tmp_path / "test_own.py").write_text(own + "def test_other(): pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = alone\n")
    left, again = tmp_path / "left", tmp_path / "again"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", "-p", "no:cacheprovider", "--collect-only"]
    command += ["--rootdir", str(tmp_path), "-c", str(tmp_path / "pytest.ini")]
    around = {**os.environ, "PYTHONPATH": str(ROOT)}
    around = {name: value for name, value in around.items() if not name.startswith("PYTEST_")}

    def collect(file: Path, *arguments: str) -> str:
        environment = around | {"LEFT_TESTS": str(file)}
        return subprocess.run(
            [*command, *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=250,
            check=True,
        ).stdout

    assert "test_other" in collect(left, "-m", "not alone", "test_own.py")
    names = ["test_own.py::test_left[a b]", "test_own.py::test_left[c]"]
    assert sorted(left.read_text().splitlines()) == names
    said = collect(again, "-m", "alone", f"@{left}").splitlines()
    assert sorted(line for line in said if "::" in line) == names
    assert not again.exists()


@pytest.mark.skipif(shutil.which("make") is None or os.name != "posix", reason="make is not installed")
def test_what_a_process_compiles_is_kept_for_the_others(tmp_path: Path) -> None:
    done, calls = make_test(tmp_path, (0, 0), PYTHONDONTWRITEBYTECODE="1")
    assert len(calls) == 2
    assert done.returncode == 0, "the stand-in ends with 9 where it may not write"


@pytest.mark.skipif(shutil.which("make") is None or os.name != "posix", reason="make is not installed")
@pytest.mark.parametrize("status", [0, 1])
def test_one_job_is_one_plain_run(tmp_path: Path, status: int) -> None:
    done, calls = make_test(tmp_path, (status,), "JOBS=1")
    assert calls == ["-m pytest"]
    assert (done.returncode == 0) is (status == 0)


def make_test(
    folder: Path, statuses: tuple[int, ...], *given: str, **variables: str
) -> tuple["subprocess.CompletedProcess[str]", list[str]]:
    """`make test` without its checks and with a Python that ends with these `statuses`; how that was called."""
    program = folder / "python"
    program.write_text(PYTHON)
    program.chmod(0o755)
    (folder / "statuses").write_text("".join(f"{status}\n" for status in statuses))
    calls = folder / "calls"
    calls.touch()
    done = subprocess.run(
        ["make", "--old-file=check", "--old-file=node", "test", f"BIN={folder}", "TESTS=", "PYTEST_ARGS=", *given],
        cwd=ROOT,
        env={
            **os.environ,
            "CALLS": str(calls),
            "STATUSES": str(folder / "statuses"),
            "MAKEFLAGS": "",
            "LEFT": "",
            **variables,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=150,
    )
    return done, [" ".join(call.split()) for call in calls.read_text().splitlines()]


class Node:
    """A process as the schedule sees it: told which tests to run, by their places in the collection."""

    def __init__(self, name: str) -> None:
        self.gateway = SimpleNamespace(id=name)
        self.waiting: list[int] = []
        self.files: list[str] = []
        self.shutting_down = False

    def send_runtest_some(self, indices: list[int]) -> None:
        self.waiting += indices

    def shutdown(self) -> None:
        self.shutting_down = True


def shared_out(collection: list[str]) -> tuple[list[str], list[str]]:
    """The tests that each of two equally fast processes runs, in order."""
    config: Any = SimpleNamespace(
        getvalue=lambda name: ["popen", "popen"],
        getoption=lambda name: "",
        option=SimpleNamespace(loadscopereorder=True),
    )
    schedule, nodes = Schedule(config, None), [Node("one"), Node("two")]
    ran: list[list[str]] = [[], []]
    for node in nodes:
        schedule.add_node(node)  # pyright: ignore[reportArgumentType]
    for node in nodes:
        schedule.add_node_collection(node, collection)  # pyright: ignore[reportArgumentType]
    schedule.schedule()
    while any(node.waiting for node in nodes):
        for node, done in zip(nodes, ran, strict=True):
            if node.waiting:
                index = node.waiting.pop(0)
                done.append(collection[index])
                schedule.mark_test_complete(node, index)  # pyright: ignore[reportArgumentType]
    return ran[0], ran[1]


def test_each_test_runs_once_and_each_process_has_folders_of_its_own() -> None:
    collection = [
        f"tests/{folder}/test_{file}.py::test_{number}"
        for number in range(10)
        for folder in ("a", "b", "c")
        for file in range(5)
    ]
    one, two = shared_out(collection)
    assert sorted(one + two) == sorted(collection)
    for ran in (one, two):
        files = [test.split("::")[0] for test in ran]
        assert len(dict.fromkeys(files)) == 1 + sum(a != b for a, b in itertools.pairwise(files)), "whole"
    begun = [{test.split("/")[1] for test in ran[:50]} for ran in (one, two)]
    assert [len(folders) for folders in begun] == [1, 1]
    assert begun[0] != begun[1]


def test_the_longest_file_goes_first() -> None:
    long = "tests/engines/test_compiled.py"
    short = [f"tests/engines/test_{number}.py::test_it" for number in range(10)]
    one, two = shared_out([*short, f"{long}::test_it"])
    assert f"{long}::test_it" in (one[0], two[0])


@pytest.mark.parametrize("file", sorted(SECONDS.keys() | ALONE_SECONDS.keys()))
def test_the_files_that_are_called_long_are_there(file: str) -> None:
    assert (ROOT / file).is_file()


def test_a_shared_folder_is_made_once_for_all_processes_of_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []

    def make(folder: Path) -> None:
        made.append(folder)
        (folder / "part").write_text("half")
        if len(made) == 1:
            raise OSError("the process that came first fails")
        (folder / "part").write_text("whole")

    def ask(process: str) -> Path:
        factory: Any = SimpleNamespace(getbasetemp=lambda: tmp_path / process)
        return made_once(factory, "thing", make)

    monkeypatch.setenv("PYTEST_XDIST_WORKER", "gw0")
    with pytest.raises(OSError, match="came first"):
        ask("popen-gw0")
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(ask, [f"popen-gw{number}" for number in range(4)]))
    (folder,) = folders
    assert folder.parent == tmp_path
    assert (folder / "part").read_text() == "whole"
    assert len(made) == 2
