"""The builder's own program in a process of its own: behind running streams, one build at a time."""

import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path

from sdstream.platform.processes import die_with_parent_command

BUILD_SECONDS = 7200.0
NAME = "builder: "
"""What the builder's errors begin with."""


class BuilderProcess:
    """Bakes profiles, one after the other, whoever asks. `close` ends a build under way. From any thread."""

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        """`environment` is added to the process's own, such as where the worker's data directory is."""
        self._environment = dict(environment or {})
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._closed = False

    @property
    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """Build nothing more, and end what is being built."""
        self._closed = True
        if self._process is not None:
            self._process.terminate()

    def bake(self, profile: str, engines: Path) -> str:
        """Bake what the text of a profile says into a directory of engines, at low priority: it can neither hold a
        picture up nor end the worker. Waits for its turn, and until it is done. Empty when all is there, else why not.
        """
        with self._turn, tempfile.TemporaryDirectory(prefix="sdstream-bake-") as folder:
            if self._closed:
                return "the worker ends"
            file = Path(folder, "wanted.toml")
            file.write_text(profile, "utf-8")
            command = [sys.executable, "-m", "builder", "bake", "--polite", "--profile", str(file)]
            command += ["--engines", str(engines)]
            try:
                # From this thread, which lasts: the builder must not outlive a worker that is killed.
                command = die_with_parent_command(command)
                self._process = subprocess.Popen(
                    command,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.PIPE,
                    env={**os.environ, **self._environment},
                )
                if self._closed:  # meanwhile
                    self._process.terminate()
                _, said = self._process.communicate(timeout=BUILD_SECONDS)
            except (OSError, subprocess.TimeoutExpired) as error:
                if self._process is not None:
                    self._process.kill()
                return str(error)
            if self._process.returncode == 0:
                return ""
            return _reason(said.decode("utf-8", "replace"))


def _reason(said: str) -> str:
    """What the builder ended with, in one line: its last error rather than the hint that follows it."""
    lines = [line for line in said.splitlines() if line.strip()]
    errors = [line.removeprefix(NAME) for line in lines if line.startswith(NAME)]
    return (errors or lines or ["it did not say why"])[-1].strip()


__all__ = ["BuilderProcess"]
