"""Every statement of the contract's acceptance list has a test that carries its number."""

import ast
from pathlib import Path

STATEMENTS = range(1, 61)


def numbered_tests() -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for folder in (Path(__file__).parent, Path(__file__).parent.parent / "browser"):
        for file in folder.glob("test_*.py"):
            for node in ast.walk(ast.parse(file.read_text("utf-8"))):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    number = node.name.removeprefix("test_")[:2]
                    if node.name.startswith("test_") and number.isdigit():
                        found.setdefault(int(number), []).append(f"{file.name}::{node.name}")
    return found


def test_every_statement_of_the_acceptance_list_has_a_test() -> None:
    found = numbered_tests()
    assert [number for number in STATEMENTS if number not in found] == []
    assert [number for number in found if number not in STATEMENTS] == []
