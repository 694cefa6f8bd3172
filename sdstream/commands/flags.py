"""Command-line flags made from `Settings`, so that no setting can lack one and none is described twice."""

import functools
import inspect
import os
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from cyclopts import Group, Parameter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sdstream.reachability import PORT_VARIABLES, platform_settings
from sdstream.settings import CONFIG_VARIABLE, PREFIX, Settings, load_settings

SETTINGS_GROUP = Group("Settings", help="A flag beats an SDSTREAM_* variable, a variable beats the file.", sort_key=9)


def with_settings(only: tuple[str, ...] | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Replace a command's `settings` argument by one flag for each setting, and `--config FILE`.

    `only` restricts the flags to some settings; variables and the file may still set the others. The command is
    called with `settings=Settings`, and with `sources` (see `sources_of`) if it takes that. Wrong settings raise
    `ConfigurationError` before the command is called.
    """
    names = only or tuple(Settings.model_fields)

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        parameters = _parameters(command)
        own = [parameter for parameter in parameters if parameter.name not in ("settings", "sources")]
        wants_sources = any(parameter.name == "sources" for parameter in parameters)
        flags = [_flag(name, Settings.model_fields[name]) for name in names]
        signature = inspect.Signature([*own, *flags, _config_flag()])

        @functools.wraps(command)
        def call(*positional: Any, **named: Any) -> Any:
            flags_given = {name: named.pop(name) for name in names if named.get(name) is not None}
            file = named.pop("config", None)
            settings = load_settings(flags_given, file=file)
            if wants_sources:
                named["sources"] = sources_of(flags_given, os.environ, file)
            return command(*positional, settings=settings, **named)

        call.__signature__ = signature  # pyright: ignore[reportAttributeAccessIssue]
        call.__annotations__ = {parameter.name: parameter.annotation for parameter in signature.parameters.values()}
        del call.__wrapped__  # pyright: ignore[reportAttributeAccessIssue] # cyclopts would read the original's flags
        return call

    return decorate


def variable_name(setting: str) -> str:
    """The environment variable of a setting: `max_streams` to `SDSTREAM_MAX_STREAMS`."""
    return PREFIX + setting.upper()


def flag_name(setting: str) -> str:
    """The flag of a setting: `max_streams` to `--max-streams`."""
    return "--" + setting.replace("_", "-")


def default_text(field: FieldInfo) -> str:
    """The default of a setting as one would write it, empty where there is none."""
    value = field.get_default(call_default_factory=True)
    if value is None or value is PydanticUndefined or value == () or value == {}:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _parameters(command: Callable[..., Any]) -> list[inspect.Parameter]:
    hints = typing.get_type_hints(command, include_extras=True)
    return [
        parameter.replace(annotation=hints.get(parameter.name, Any))
        for parameter in inspect.signature(command).parameters.values()
    ]


def _flag(name: str, field: FieldInfo) -> inspect.Parameter:
    description = field.description or ""
    default = default_text(field)
    if default:
        description += f" [default: {default}]"
    annotation = Annotated[
        _flag_type(field.annotation),
        Parameter(
            name=flag_name(name),
            help=description,
            group=SETTINGS_GROUP,
            show_default=False,
            metavar=_metavar(field.annotation),
        ),
    ]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _flag_type(annotation: Any) -> Any:
    """bool and choices as they are; all else is text, which `Settings` reads as it reads a variable."""
    alternatives = [part for part in typing.get_args(annotation) if part is not types.NoneType] or [annotation]
    if alternatives == [bool]:
        return bool | None
    if typing.get_origin(annotation) is Literal:
        return annotation | None
    return str | None


def _metavar(annotation: Any) -> str | None:
    alternatives = typing.get_args(annotation) or (annotation,)
    if typing.get_origin(annotation) is Literal or bool in alternatives:
        return None
    if Path in alternatives:
        return "DIRECTORY"
    return "NUMBER" if int in alternatives or float in alternatives else "TEXT"


def _config_flag() -> inspect.Parameter:
    annotation = Annotated[
        Path | None,
        Parameter(
            name="--config", metavar="FILE", help="YAML file of settings (or SDSTREAM_CONFIG).", group=SETTINGS_GROUP
        ),
    ]
    return inspect.Parameter("config", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def sources_of(flags: Mapping[str, Any], environment: Mapping[str, str], file: Path | None) -> dict[str, str]:
    """Where each setting comes from: `--flag`, a variable (ours or RunPod's), the file's path, or `default`."""
    path = file or (Path(environment[CONFIG_VARIABLE]) if environment.get(CONFIG_VARIABLE) else None)
    in_file: Mapping[str, Any] = (yaml.safe_load(path.read_text("utf-8")) or {}) if path else {}
    of_platform = platform_settings(environment)
    found: dict[str, str] = {}
    for name in Settings.model_fields:
        if name in flags:
            found[name] = flag_name(name)
        elif environment.get(variable_name(name)):
            found[name] = variable_name(name)
        elif name in in_file:
            found[name] = str(path)
        elif name in of_platform:
            found[name] = PORT_VARIABLES[name]
        else:
            found[name] = "default"
    return found


__all__ = ["SETTINGS_GROUP", "default_text", "flag_name", "sources_of", "variable_name", "with_settings"]
