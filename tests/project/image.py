"""The files that make the image, as their own parsers read them, for the tests of what is in them."""

import re
import subprocess
import sys
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


def stage(name: str) -> list[tuple[str, str]]:
    """The instructions of one stage, from its FROM on."""
    every = instructions()
    (start,) = [number for number, line in enumerate(every) if line[0] == "FROM" and line[1].endswith(f" AS {name}")]
    rest = [number for number in range(start + 1, len(every)) if every[number][0] == "FROM"]
    return every[start : min(rest, default=len(every))]


def parents(name: str) -> list[str]:
    """The stages that one stage is made on, itself first."""
    start = stage(name)[0][1].removeprefix("--platform=linux/amd64 ").partition(" AS ")[0]
    known = {line.rpartition(" AS ")[2] for line in arguments("FROM")}
    return [name, *parents(start)] if start in known else [name]


def cut(cuda: str, build: str, source: Path, target: Path) -> tuple[str, str]:
    """What the layers of torch and of the other packages are made of, by the Dockerfile's own program."""
    program = [sys.executable, str(ROOT / "docker/layers.py"), cuda, build, str(source), str(target)]
    subprocess.run(program, check=True, timeout=60)
    return (target / "torch.txt").read_text("utf-8"), (target / "packages.txt").read_text("utf-8")


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
