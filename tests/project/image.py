"""The files that make the image, as their own parsers read them, for the tests of what is in them."""

import re
from pathlib import Path
from typing import Any

import hcl2

from sdstream.commands.flags import variable_name
from sdstream.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
DEFAULTS = Settings()
SERVERLESS = ("handler.py",)
"""Files of the serverless half."""


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, continued lines joined."""
    text = re.sub(r"^\s*#.*\n", "", read("Dockerfile"), flags=re.MULTILINE)
    text = re.sub(r"\\\n\s*", "", text)
    lines = [line.partition(" ") for line in text.splitlines() if line.strip()]
    return [(name, rest.strip()) for name, _, rest in lines]


def arguments(name: str) -> list[str]:
    return [rest for instruction, rest in instructions() if instruction == name]


def build_arguments() -> dict[str, str]:
    pairs = [argument.partition("=") for argument in arguments("ARG") if "=" in argument]
    return {name: value for name, _, value in pairs}


def image_environment() -> dict[str, str]:
    found: list[tuple[str, str]] = [
        pair for line in arguments("ENV") for pair in re.findall(r'(\w+)=("[^"]*"|\S+)', line)
    ]
    return dict(found)


def check_settings(variables: dict[str, Any]) -> None:
    """Insist that each `SDSTREAM_*` variable is a setting and its value a good one."""
    names = {name for name in variables if name.startswith(PREFIX)}
    assert names <= {variable_name(name) for name in Settings.model_fields}
    values = {name.removeprefix(PREFIX).lower(): str(variables[name]) for name in names}
    Settings.model_validate({name: value for name, value in values.items() if value != ""})


def unquoted(value: Any) -> Any:
    """What python-hcl2 gives, without the quotes it keeps."""
    if isinstance(value, str):
        return value.strip('"')
    if isinstance(value, list):
        return [unquoted(item) for item in value]
    if isinstance(value, dict):
        return {unquoted(name): unquoted(item) for name, item in value.items()}
    return value


def bake_blocks(kind: str) -> dict[str, Any]:
    blocks = unquoted(hcl2.loads(read("docker-bake.hcl")))[kind]
    return {name: body for block in blocks for name, body in block.items()}
