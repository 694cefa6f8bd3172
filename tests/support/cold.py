"""A worker that begins when a test lets it: what is so before it is there stays so for as long as the test looks."""

from collections.abc import Mapping
from pathlib import Path

HOOK = """
import os, sys, time
if "sdstream.worker.main" in sys.orig_argv:
    parent = os.getppid()
    while os.getppid() == parent and not os.path.exists(os.environ["TEST_WORKER_MAY_BEGIN"]):
        time.sleep(0.02)
"""
"""Python runs it at the start of each process, before it imports anything of ours."""


class HeldWorker:
    """For one server, whose `environment` it is. The server itself is not held up."""

    def __init__(self, folder: Path) -> None:
        hooks = folder / "hooks"
        hooks.mkdir()
        (hooks / "sitecustomize.py").write_text(HOOK, "utf-8")
        self._sign = folder / "worker-may-begin"
        self.environment: Mapping[str, str] = {"PYTHONPATH": str(hooks), "TEST_WORKER_MAY_BEGIN": str(self._sign)}

    def let_go(self) -> None:
        """Let the worker begin, and each one after it."""
        self._sign.touch()


__all__ = ["HeldWorker"]
