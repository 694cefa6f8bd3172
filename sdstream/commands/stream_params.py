"""A stream's params on a command line: a file of JSON, flags that beat it, and the rules of the REST API."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, cast

from cyclopts import Parameter

from sdstream.errors import ConfigurationError, InvalidParams
from sdstream.params import CreateRequest, ModelTable, parse_create
from sdstream.settings import Settings

ModelFlag = Annotated[str | None, Parameter(help="Model id, as `model_id` of a stream.")]
SkipDiffusionFlag = Annotated[bool, Parameter(help="Run image processors only; needs no model.", negative=())]
ProcessorsFlag = Annotated[
    str | None, Parameter(help="Image processors in order, separated by commas, such as blur,canny.")
]
ParamsFlag = Annotated[Path | None, Parameter(metavar="FILE", help="JSON file of stream parameters; flags beat it.")]


def gather_params(
    file: Path | None, flags: Mapping[str, Any], *, skip_diffusion: bool, processors: str | None
) -> dict[str, Any]:
    """The params to ask for: those of the file, then the flags that were given.

    Raises `ConfigurationError` when the file cannot be read or is no JSON object.
    """
    wanted = read_params(file) if file else {}
    wanted |= {name: value for name, value in flags.items() if value is not None}
    if skip_diffusion:
        wanted["skip_diffusion"] = True
    if processors is not None:
        names = [name.strip() for name in processors.split(",") if name.strip()]
        wanted["image_postprocessing"] = {"processors": [{"type": name} for name in names]}
    return wanted


def read_params(file: Path) -> dict[str, Any]:
    """The params of a JSON file; a whole create body may be given too.

    Raises `ConfigurationError` when the file cannot be read or is no JSON object.
    """
    try:
        content = json.loads(file.read_text("utf-8"))
    except OSError as error:
        raise ConfigurationError(f"--params: cannot read {file}: {error.strerror}", hint="") from None
    except (ValueError, RecursionError) as error:
        words = "it is nested too deeply" if isinstance(error, RecursionError) else error
        raise ConfigurationError(f"--params: {file} is not JSON: {words}", hint="") from None
    if not isinstance(content, dict):
        raise ConfigurationError(f"--params: {file} must hold an object of parameters", hint="")
    members = cast("dict[str, Any]", content)
    inner = members.get("params")
    return cast("dict[str, Any]", inner) if isinstance(inner, dict) else members


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


__all__ = [
    "ModelFlag",
    "ParamsFlag",
    "ProcessorsFlag",
    "SkipDiffusionFlag",
    "describe_problem",
    "gather_params",
    "parse_params",
    "read_params",
]
