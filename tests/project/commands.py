"""Running `sdstream` as a user does, in a process of its own, with no setting from the environment."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path


def environment(data_dir: Path, **settings: object) -> dict[str, str]:
    """The present one without its settings, plus these, and a terminal wide enough for any line."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("SDSTREAM_")}
    given = {f"SDSTREAM_{name.upper()}": str(value) for name, value in settings.items()}
    return plain | {"SDSTREAM_DATA_DIR": str(data_dir), "COLUMNS": "200"} | given


def sdstream(
    *arguments: str, environment: Mapping[str, str], seconds: float = 150
) -> "subprocess.CompletedProcess[str]":
    """One finished run; its exit code is the caller's to judge."""
    return subprocess.run(
        [sys.executable, "-m", "sdstream", *arguments],
        env=dict(environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=seconds,
    )


@contextlib.contextmanager
def started(*arguments: str, environment: Mapping[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """A run to be interrupted; killed at the end if it still runs.

    Children of a background job inherit that Ctrl-C is ignored, and so would the command: a handler here undoes that.
    """
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, "-m", "sdstream", *arguments],
            env=dict(environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()
