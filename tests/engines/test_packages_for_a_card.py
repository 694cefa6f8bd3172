"""Packages for a GPU, made whole on machines without one: what is linked, and for whom."""

import importlib.util
import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from sdstream.engines.compiled import PACKAGE
from tests.engines.conftest import ROOT, make_driver

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        torch.version.cuda is None or importlib.util.find_spec("triton") is None or shutil.which("g++") is None,
        reason="needs torch for CUDA, Triton and a C++ compiler",
    ),
]


@pytest.mark.parametrize("part", ["decoder", "unet"])
def test_a_package_is_made_for_the_card_and_any_processor(part: str, tmp_path: Path) -> None:
    """All that a card would run is in it, and nothing that only this machine's processor can."""
    make_driver(tmp_path / "libcuda.so.1")
    command = [
        sys.executable,
        "-m",
        "tests.engines.without_a_card",
        part,
        str(tmp_path),
        str(tmp_path / "libcuda.so.1"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=800, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]
    with zipfile.ZipFile(tmp_path / PACKAGE) as package:
        names = package.namelist()
        told = [json.loads(package.read(name)) for name in names if name.endswith("wrapper_metadata.json")]
        library = package.read(next(name for name in names if name.endswith(".so")))
    assert any(name.endswith(".cubin") for name in names)
    assert b"libcuda.so.1" in library
    assert [(facts["AOTI_COMPUTE_CAPABILITY"], facts["AOTI_CPU_ISA"]) for facts in told] == [("90", "INVALID_VEC_ISA")]
