"""Folders that are made once for a run and read by every test process of it."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """The folder `name` of this run, filled by `make` in the process that asks first; the others wait for it.

    It lies among the run's temporary folders, so no other run sees it. Nobody may change it.
    """
    root = factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # its processes have a folder each in that of the run
    folder, draft = root / f"shared-{name}", root / f"draft-{name}"
    with FileLock(root / f"shared-{name}.lock"):
        if not folder.exists():
            shutil.rmtree(draft, ignore_errors=True)  # of a process that failed
            draft.mkdir()
            make(draft)
            draft.rename(folder)
    return folder


__all__ = ["made_once"]
