"""`sdstream models`: which models this server knows and where their files are; tiny ones to try the way with."""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from sdstream.commands.flags import with_settings
from sdstream.diffusion.sources import find_model
from sdstream.errors import CommandFailed, ConfigurationError, ModelUnavailable
from sdstream.params import PUBLIC_MODELS, ModelEntry, ModelTable
from sdstream.settings import Family, Settings

INDEX = "model_index.json"
TINY_SECONDS = 300.0
TINY_PROGRAM = """
import sys
from pathlib import Path
from sdstream.diffusion.tiny import write_tiny_model
write_tiny_model(Path(sys.argv[1]), sys.argv[2], seed=int(sys.argv[3]))
"""
"""Run in a process of its own: torch is imported where it is needed, and not by the command line."""

models = App(name="models", help="Show where models are; make tiny ones to try with.", help_format="plaintext")


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """Where the files of one model are; `problem` and `hint` are empty exactly when `path` is there."""

    entry: ModelEntry
    path: Path | None
    problem: str = ""
    hint: str = ""


@models.command(name="list")
@with_settings(only=("models", "default_model"))
def show(*, settings: Settings) -> int:
    """List the models by id: family, source, and the directory of their files on this machine. Opens no weights."""
    table = Table("id", "family", "files", box=None)
    places = [find_place(entry) for entry in ModelTable.from_settings(settings).entries()]
    for place in places:
        table.add_row(place.entry.id, place.entry.family, str(place.path or place.problem))
    width = None if sys.stdout.isatty() else 1000  # a pipe has no width; nothing may be cut off there
    Console(width=width, highlight=False, markup=False).print(table)
    if not any(place.path for place in places):
        print("No model is here: streams with skip_diffusion work, others show why they do not.", file=sys.stderr)
    return 0


@models.command
def tiny(
    directory: Annotated[Path, Parameter(name="DIR", help="The directory to make; it may be there when it is empty.")],
    /,
    *,
    family: Annotated[Family, Parameter(help="Which kind of model.")] = "sd-turbo",
    seed: Annotated[int, Parameter(help="The same seed gives the same weights.")] = 0,
) -> int:
    """Write a model of a few MB with random weights: every part of a real one, and pictures that show nothing.

    DIR appears only when it is complete.
    """
    target = directory.expanduser().absolute()
    _check_target(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as folder:
            made = Path(folder, "model")
            _make(made, family, seed)
            if target.exists():
                target.rmdir()  # empty, else nothing was made; not every system renames onto a directory
            made.rename(target)
    except OSError as error:
        raise CommandFailed(f"{target} cannot be written: {error.strerror or error}") from None
    setting = json.dumps({_example_id(family): str(target)})
    print(target)
    print(f"A tiny {family} model with random weights. To use it: SDSTREAM_MODELS='{setting}'", file=sys.stderr)
    return 0


def find_place(entry: ModelEntry) -> ModelPlace:
    """Look for the files of a model as the worker does, without opening the weights."""
    try:
        path = find_model(entry.source)
    except ModelUnavailable as error:
        return ModelPlace(entry, None, error.message, error.hint or "")
    if not (path / INDEX).is_file():
        hint = "A model's directory is what `save_pretrained` of diffusers writes."
        return ModelPlace(entry, None, f"{path} is no diffusers directory: it has no {INDEX}", hint)
    return ModelPlace(entry, path)


def _check_target(target: Path) -> None:
    if target.exists() and not target.is_dir():
        raise ConfigurationError(f"{target} is a file", hint="Name a directory that is not there yet.")
    if target.is_dir() and any(target.iterdir()):
        raise ConfigurationError(f"{target} is not empty", hint="Name a directory that is not there yet.")


def _make(directory: Path, family: Family, seed: int) -> None:
    arguments = [sys.executable, "-c", TINY_PROGRAM, str(directory), family, str(seed)]
    try:
        done = subprocess.run(arguments, capture_output=True, text=True, timeout=TINY_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise CommandFailed(f"no model was made within {TINY_SECONDS:.0f} s") from None
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        raise CommandFailed(f"no model was made: {last}", hint="`sdstream doctor` checks torch.")


def _example_id(family: Family) -> str:
    return next(name for name, own in PUBLIC_MODELS.items() if own == family)


__all__ = ["ModelPlace", "find_place", "models"]
