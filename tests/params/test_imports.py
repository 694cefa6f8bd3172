"""The ground floor stays light: no torch, no media library comes with it."""

import subprocess
import sys


def test_params_import_without_torch_and_media() -> None:
    program = (
        "import sys, sdstream.params; print([m for m in ('torch', 'av', 'aiortc', 'fastapi') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
