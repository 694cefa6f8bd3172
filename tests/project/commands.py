"""Running `sdstream` as a user does, in a process of its own, with no setting from the environment."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def environment(data_dir: Path, **settings: object) -> dict[str, str]:
    """The present one without its settings, plus these, and a terminal wide enough for any line."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("SDSTREAM_")}
    given = {f"SDSTREAM_{name.upper()}": str(value) for name, value in settings.items()}
    return plain | {"SDSTREAM_DATA_DIR": str(data_dir), "COLUMNS": "200"} | given


def sdstream(
    *arguments: str, environment: Mapping[str, str], seconds: float = 60
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
