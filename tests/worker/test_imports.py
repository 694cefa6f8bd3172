"""The server side of the worker never imports torch."""

import subprocess
import sys

import pytest

BLOCKED = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("torch is blocked in the server")
sys.meta_path.insert(0, Blocked())
import {module}
assert "torch" not in sys.modules
"""


@pytest.mark.parametrize(
    "module", ["sdstream.worker.client", "sdstream.worker.ports", "sdstream.worker.server_end.lane"]
)
def test_the_server_side_imports_without_torch(module: str) -> None:
    result = subprocess.run([sys.executable, "-c", BLOCKED.format(module=module)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_the_block_would_catch_an_import_of_torch() -> None:
    code = BLOCKED.format(module="sdstream.worker.colour")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "torch is blocked in the server" in result.stderr
