"""`sdstream models`: which models this server knows, where their files are, fetching them; tiny ones to try with."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from sdstream.commands.flags import with_settings
from sdstream.commands.pulling import (
    PROFILE,
    needs_of,
    pull_conditions,
    pull_models,
    pull_profiles,
    sources_of,
)
from sdstream.diffusion.fetching.pins import PINS, Pin, fetched_folders, find_differences, shipped_pins, write_pins
from sdstream.diffusion.fetching.repositories import HubId, commit_of
from sdstream.diffusion.fetching.sources import absence_of
from sdstream.directories import ModelPlaces
from sdstream.errors import CommandFailed, ConfigurationError
from sdstream.params import PUBLIC_MODELS, ModelEntry, ModelTable
from sdstream.settings import Family, Settings
from sdstream.worker.files.presence import model_presence

TINY_SECONDS = 300.0
TINY_PROGRAM = """
import sys
from pathlib import Path
from sdstream.diffusion.tiny import write_tiny_model
write_tiny_model(Path(sys.argv[1]), sys.argv[2], seed=int(sys.argv[3]))
"""
"""Run in a process of its own: torch is imported where it is needed, and not by the command line."""

models = App(name="models", help="List, fetch and pin models; make tiny ones to try with.", help_format="plaintext")


@dataclass(frozen=True, slots=True)
class ModelPlace:
    """Where the files of one model are; `problem` and `hint` are empty exactly when `path` is there."""

    entry: ModelEntry
    path: Path | None
    problem: str = ""
    hint: str = ""
    fetched: bool = False
    """Whether it is fetched when a stream asks for it."""
    size: int = 0
    """Bytes of its files."""
    commit: str = ""
    """Of the hub, where it is known."""


@models.command(name="list")
@with_settings(only=("models", "default_model", "data_dir", "offline"))
def show(*, settings: Settings) -> int:
    """List the models by id: family, size, commit, and where their files are on this machine. Reads no weights."""
    table = Table("id", "family", "size", "commit", "files", box=None)
    known = ModelTable.from_settings(settings)
    places = [find_place(entry, known.places) for entry in known.entries()]
    for place in places:
        size = f"{place.size / 1e9:.2f} GB" if place.size >= 1e8 else f"{place.size / 1e6:.1f} MB"
        row = (size, place.commit[:10] or "-", str(place.path)) if place.path else ("-", "-", place.problem)
        table.add_row(place.entry.id, place.entry.family, *row)
    width = None if sys.stdout.isatty() else 1000  # a pipe has no width; nothing may be cut off there
    Console(width=width, highlight=False, markup=False).print(table)
    if not any(place.path for place in places):
        if any(place.fetched for place in places):
            print(
                "No model is here: a stream fetches the one it asks for; so does `sdstream models pull`.",
                file=sys.stderr,
            )
        else:
            print("No model is here: streams with skip_diffusion work, others show why they do not.", file=sys.stderr)
    return 0


@models.command
@with_settings(only=("models", "controlnets", "default_model", "data_dir", "offline", "full_vae", "shipped_pins"))
def pull(
    names: Annotated[
        tuple[str, ...],
        Parameter(name="ID", help="Ids of `sdstream models list`, or hub ids; `all` for every model of the list."),
    ] = (),
    /,
    *,
    revision: Annotated[str | None, Parameter(help="Branch, tag or commit on the hub, for one ID.")] = None,
    precision: Annotated[
        Literal["auto", "half", "single"],
        Parameter(help="Which weights; auto takes half precision where an NVIDIA GPU is."),
    ] = "auto",
    purposes: Annotated[
        tuple[str, ...],
        Parameter(
            name="--for",
            help="What else to fetch for: an image processor such as `hed`, `controlnet:depth`, `ip_adapter`, "
            "`safety_checker`, or `profile:NAME` for a profile of the builder.",
        ),
    ] = (),
    settings: Settings,
) -> int:
    """Fetch models from the hub, with the small VAE and the LCM LoRA that they need; goes on where a pull broke off.

    HF_TOKEN opens gated models. HF_ENDPOINT names another hub.
    """
    if not names and not purposes:
        raise ConfigurationError(
            "name an ID, or what to fetch for with --for",
            hint="`sdstream models list` shows the ids; `sdstream models pull --help` what --for takes.",
        )
    table = ModelTable.from_settings(settings)
    profiles = [purpose.removeprefix(PROFILE) for purpose in purposes if purpose.startswith(PROFILE)]
    # All is looked at before anything is fetched: gigabytes come before one would hear of a slip in the last word.
    needs = needs_of([purpose for purpose in purposes if not purpose.startswith(PROFILE)], table)
    wanted = sources_of(names, table, revision) if names else []
    code = pull_profiles(profiles, settings)  # first, as the builder alone knows which there are
    if code:
        return code
    pull_conditions(needs, table)
    return pull_models(wanted, table, precision) if wanted else 0


@models.command
@with_settings(only=("data_dir", "shipped_pins"))
def pin(
    *,
    check: Annotated[bool, Parameter(help="Compare what is here with the pins and change nothing.")] = False,
    shipped: Annotated[bool, Parameter(help="Show what sdstream itself pins and change nothing.")] = False,
    settings: Settings,
) -> int:
    """Pin what was fetched: commits and SHA-256 of all files. Later pulls bring these very bytes or fail."""
    root = ModelPlaces.from_settings(settings).models
    assert root is not None, "settings always give a place"
    if shipped:
        _tell_pins(shipped_pins())
        return 0
    try:
        is_empty = not any(True for _ in fetched_folders(root))
    except OSError as error:
        raise CommandFailed(f"{root} cannot be read: {error.strerror or error}") from None
    if check:
        if is_empty:
            print(f"nothing was fetched into {root}, so there is nothing to compare", file=sys.stderr)
            return 0
        differences = find_differences(root, shipped=settings.shipped_pins)
        for line in differences:
            print(line)
        if differences:
            raise CommandFailed(f"{len(differences)} differences from {root / PINS}")
        print(f"all is as {root / PINS} has it{', and sdstream itself' if settings.shipped_pins else ''}")
        return 0
    if is_empty:
        raise CommandFailed(
            f"nothing was fetched into {root}, so there is nothing to pin",
            hint="`sdstream models pull ID` fetches; what lies there otherwise is not pinned.",
        )
    try:
        pins = write_pins(root)
    except OSError as error:
        raise CommandFailed(f"{root / PINS} cannot be written: {error.strerror or error}") from None
    _tell_pins(pins)
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
    try:
        target = directory.expanduser().absolute()
    except RuntimeError:
        raise ConfigurationError(
            f"{directory} is in a home directory that is not known here", hint="Name a path without ~."
        ) from None
    try:
        _check_target(target)
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


def find_place(entry: ModelEntry, places: ModelPlaces) -> ModelPlace:
    """Look for the files of a model as a load does, without reading weights."""
    found = model_presence(entry.source, entry.family, places)
    if found.present and found.path is not None:
        return ModelPlace(entry, found.path, size=found.size, commit=commit_of(found.path))
    problem = "not on this machine; fetched when a stream asks for it" if found.fetched else found.problem
    if not found.fetched and found.path is None and HubId.parse(entry.source) is not None:
        problem = absence_of(entry.source, places)
    return ModelPlace(entry, None, problem, found.hint, fetched=found.fetched)


def _tell_pins(pins: Mapping[str, Pin]) -> None:
    for name, own in pins.items():
        count = f"{len(own.files)} file{'' if len(own.files) == 1 else 's'} by SHA-256"
        print(f"{name}: {own.commit[:10] or 'any commit'}, {count if own.files else 'no file by its hash'}")


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
