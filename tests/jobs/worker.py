"""A real `handler.py` in a process of its own, under RunPod's real SDK, fed by the fake platform."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil

from sdstream.platform import LINUX
from sdstream.platform.processes import die_with_parent_command
from tests.jobs.platform import FakePlatform
from tests.support.waiting import eventually_sync

ROOT = Path(__file__).parents[2]


class JobWorker:
    """One worker process. `settings` become `SDSTREAM_*` variables, `variables` are set as they are."""

    def __init__(
        self,
        folder: Path,
        platform: FakePlatform,
        name: str,
        variables: dict[str, str] | None = None,
        **settings: Any,
    ) -> None:
        self.name = name
        self.log_file = folder / f"{name}.log"
        self._environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SDSTREAM_", "RUNPOD_", "BUCKET_", "AWS_"))
        }
        self._environment |= platform.worker_environment(name)
        values = {
            "port": 0,
            "data_dir": folder / name,
            "log_format": "json",
            "worker_spare": False,
            "worker_ping_timeout": 20,
        }
        values |= {"worker_device": "cpu"} | settings
        self._environment |= {f"SDSTREAM_{key.upper()}": str(value) for key, value in values.items()}
        self._environment |= variables or {}
        self.process: subprocess.Popen[bytes] | None = None
        self._family: list[psutil.Process] = []

    def start(self) -> "JobWorker":
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                die_with_parent_command([sys.executable, "handler.py"]),  # tests that are killed tear nothing down
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return self

    def wait_ready(self, seconds: float = 100.0) -> "JobWorker":
        eventually_sync(lambda: '"worker_ready"' in self.log() or self.ended, seconds=seconds, what="the worker")
        assert not self.ended, self.log()
        return self

    def suspend_child(self, seconds: float = 60.0) -> psutil.Process:
        """Stop the process that loads torch as soon as there is one, so that the worker stays cold until it resumes."""

        def find() -> psutil.Process | None:
            assert not self.ended, self.log()
            for line in self.log().splitlines():
                if '"worker_started"' in line:
                    return psutil.Process(json.loads(line)["process_id"])
            return None

        child = eventually_sync(find, seconds=seconds, interval=0.02, what="the worker's own process")
        child.suspend()
        return child

    @property
    def ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def log(self) -> str:
        return self.log_file.read_text("utf-8", "replace") if self.log_file.exists() else ""

    def terminate(self) -> None:
        """SIGTERM as it comes in the image: RunPod sends it to tini, which gives it to this process alone."""
        assert self.process is not None
        self._note_family()
        self.process.terminate()

    def kill(self) -> None:
        """From one moment to the next; `bury` insists on the rest."""
        assert self.process is not None
        self._note_family()
        self.process.kill()
        self.process.wait(10)

    def bury(self) -> None:
        """Insist that a killed worker has left nothing."""
        self._insist_on_no_children()

    def stop(self, seconds: float = 15.0) -> None:
        """End it in order, and insist that nothing of it is left."""
        if self.process is None or self.ended:
            return
        self.terminate()
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            self.bury()
            raise AssertionError(
                f"the worker did not end within {seconds} s of SIGTERM:\n{self.log()[-6000:]}"
            ) from None
        self._insist_on_no_children()

    def wait_end(self, seconds: float) -> int:
        """Wait until it ends by itself, insist that nothing of it is left, and tell its exit code."""
        assert self.process is not None
        self._note_family()
        code = self.process.wait(seconds)
        self._insist_on_no_children()
        return code

    def _note_family(self) -> None:
        assert self.process is not None
        self._family = psutil.Process(self.process.pid).children(recursive=True)

    def _insist_on_no_children(self) -> None:
        members: list[psutil.Process] = []
        for member in self._family:
            with contextlib.suppress(psutil.NoSuchProcess):
                if not LINUX and "handler.py" in member.cmdline():  # the SDK's heartbeat, which nobody ends there
                    member.kill()
                members.append(member)
        _, left = psutil.wait_procs(members, timeout=10)
        for member in left:
            member.kill()
        assert not left, f"processes outlived the worker: {left}"
