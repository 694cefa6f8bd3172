"""`python -m builder` while it is still importing what it needs."""

import sys
from types import ModuleType
from typing import Any

import pytest

from builder import __main__, command


class Interrupted(ModuleType):
    """A module at whose import the person presses Ctrl-C."""

    def __getattr__(self, name: str) -> Any:
        raise KeyboardInterrupt


def test_a_ctrl_c_while_torch_is_imported_is_told_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "builder.command", Interrupted("builder.command"))
    assert __main__.main() == command.EXIT_INTERRUPTED
    assert capsys.readouterr().err == "builder: interrupted; nothing was begun\n"
