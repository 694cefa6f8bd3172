"""A stream's params on a command line: a file of JSON, flags that beat it, and the rules of the REST API."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from sdstream.errors import ConfigurationError, InvalidParams
from sdstream.params import CreateRequest, ModelTable, parse_create
from sdstream.settings import Settings


def read_params(file: Path) -> dict[str, Any]:
    """The params of a JSON file; a whole create body may be given too.

    Raises `ConfigurationError` when the file cannot be read or is no JSON object.
    """
    try:
        content = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"--params: cannot read {file}: {error.strerror}", hint="") from None
    except ValueError as error:
        raise ConfigurationError(f"--params: {file} is not JSON: {error}", hint="") from None
    if not isinstance(content, dict):
        raise ConfigurationError(f"--params: {file} must hold an object of parameters", hint="")
    members = cast("dict[str, Any]", content)
    inner = members.get("params")
    return cast("dict[str, Any]", inner) if isinstance(inner, dict) else members


def blocks_of(processors: str) -> dict[str, Any]:
    """A block of image processors, from their names with commas between."""
    names = [name.strip() for name in processors.split(",") if name.strip()]
    return {"processors": [{"type": name} for name in names]}


def parse_params(wanted: dict[str, Any], settings: Settings) -> CreateRequest:
    """Validate the params as the REST API does; `settings` name the models.

    Raises `ConfigurationError` that names each wrong one.
    """
    try:
        return parse_create({"pipeline": "streamdiffusion", "params": wanted}, ModelTable.from_settings(settings))
    except InvalidParams as error:
        lines = [describe_problem(problem) for problem in error.details or ()] or [error.message]
        raise ConfigurationError("\n".join(lines), hint="docs/parameters.md lists every parameter.") from None


def describe_problem(problem: Mapping[str, Any]) -> str:
    """One line of `details` for a person."""
    suggestion = f"; {problem['suggestion']}" if problem.get("suggestion") else ""
    return f"{str(problem['field']).removeprefix('params.')}: {problem['problem']}{suggestion}"


__all__ = ["blocks_of", "describe_problem", "parse_params", "read_params"]
