"""The work of `sdstream models pull`: models with all that they need, from the hub into the data directory."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from sdstream.commands.download_bar import DownloadBar
from sdstream.commands.flags import variable_name
from sdstream.commands.machine import find_gpus
from sdstream.diffusion.fetching.repositories import HubId, commit_of
from sdstream.diffusion.fetching.sources import fetch_chosen, fetch_model, find_unfetched, get_taesd, may_fetch
from sdstream.diffusion.loading.kinds import family_of, is_turbo
from sdstream.directories import choose_data_directory, prove_writable
from sdstream.errors import CommandFailed, ConfigurationError
from sdstream.model_errors import ModelUnavailable
from sdstream.params import ModelTable
from sdstream.settings import Family, Settings
from sdstream.worker.files.fetched import fetch_addresses
from sdstream.worker.files.loras import LCM_LORAS, LoraFiles
from sdstream.worker.files.published import ADDRESSES, needed_for

ALL = "all"
PROFILE = "profile:"
"""What the name of a profile begins with, among the purposes of a pull."""
EXIT_FAILED, EXIT_USAGE = 1, 2
FETCH_PROGRAM = """
import sys
from builder.__main__ import main
sys.exit(main(["fetch", "--profile", sys.argv[1]], "sdstream"))
"""
"""The builder's own command, which speaks as who was called."""
Precision = Literal["auto", "half", "single"]
Need = tuple[str, tuple[tuple[str, tuple[str, ...]], ...]]
"""A purpose, and for each repository that it needs the files of it."""


def pull_models(wanted: Sequence[tuple[str, str]], table: ModelTable, precision: Precision) -> int:
    """Fetch each of `wanted`, of `sources_of`; one that fails is told and the others are fetched all the same.

    Raises `ConfigurationError` where they cannot be put, `CommandFailed` when one of several failed, else what went
    wrong.
    """
    places = table.places
    assert places.models is not None, "settings always give a place"
    try:
        places.models.mkdir(parents=True, exist_ok=True)
        prove_writable(places.models)
    except OSError as error:
        raise ConfigurationError(f"{places.models} cannot be written: {error.strerror or error}") from None
    half = precision == "half" or (precision == "auto" and bool(find_gpus()[0]))
    failed: list[str] = []
    for name, source in wanted:
        try:
            with DownloadBar() as bar:
                path = _pull(source, table, half, bar)
        except ModelUnavailable as error:
            if len(wanted) == 1:
                raise
            failed.append(name)
            print(f"{name}: {error.message}", file=sys.stderr)
            if error.hint:
                print(f"  {error.hint}", file=sys.stderr)
            continue
        commit = commit_of(path)
        print(f"{name}: {path}{f' at {commit[:10]}' if commit else ''}")
        _tell_how_to_use(name, source, path, table)
    if failed:
        raise CommandFailed(f"{len(failed)} of {len(wanted)} models were not fetched: {', '.join(failed)}")
    return 0


def needs_of(purposes: Sequence[str], table: ModelTable) -> list[Need]:
    """What ControlNets, image processors and IP-Adapters need; see `needed_for` in `worker.files.published`.

    Raises `ConfigurationError` for what is not known.
    """
    try:
        return [(purpose, needed_for(purpose, table.controlnets)) for purpose in purposes]
    except ValueError as error:
        raise ConfigurationError(
            f"--for: {error}", hint="A model's ID stands alone: `sdstream models pull ID`, without --for."
        ) from None


def pull_conditions(needs: Sequence[Need], table: ModelTable) -> None:
    """Fetch what `needs_of` found. Raises what went wrong."""
    for purpose, repositories in needs:
        for repository, files in repositories:
            if not may_fetch(repository, table.places):
                path = find_unfetched(repository, table.places)
            else:
                fetch = fetch_addresses if repository in ADDRESSES else fetch_chosen
                with DownloadBar() as bar:
                    path = fetch(repository, files, table.places, bar.tell)
            print(f"{purpose}: {path}")


def pull_profiles(profiles: Sequence[str], settings: Settings) -> int:
    """Fetch what profiles of the builder need, each in a process of its own: the builder knows profiles, and brings
    torch along. Returns the first exit code that is not 0; the builder has said why."""
    given = {
        variable_name(name): json.dumps({key: value.model_dump(exclude_none=True) for key, value in table.items()})
        for name, table in (("models", settings.models), ("controlnets", settings.controlnets))
        if table
    }
    given |= {
        variable_name(name): str(getattr(settings, name)).lower() for name in ("offline", "full_vae", "shipped_pins")
    }
    given[variable_name("data_dir")] = str(choose_data_directory(settings).absolute_path)
    for profile in profiles:
        command = [sys.executable, "-c", FETCH_PROGRAM, profile]
        code = subprocess.run(command, env={**os.environ, **given}, check=False).returncode
        if code:
            return EXIT_USAGE if code == EXIT_USAGE else EXIT_FAILED
    return 0


def sources_of(names: Sequence[str], table: ModelTable, revision: str | None) -> list[tuple[str, str]]:
    """Names as they are told to people, and the source of each.

    Raises `ConfigurationError` for what cannot be meant.
    """
    if revision is not None and (len(names) != 1 or names[0] == ALL or "@" in names[0]):
        raise ConfigurationError("a revision belongs to one ID", hint="Write OWNER/NAME@REVISION for each instead.")
    found: list[tuple[str, str]] = []
    for name in names:
        if name == ALL:
            found += [(entry.id, entry.source) for entry in table.entries() if HubId.parse(entry.source) is not None]
            continue
        entry = table.get(name)
        source = name if entry is None else entry.source
        source = source if revision is None else f"{source}@{revision}"
        if HubId.parse(source) is None:
            raise ConfigurationError(
                f"{source} is not on the hub: {name} has a directory or file for its source"
                if entry is not None
                else f"{name} is neither the id of a model nor that of a hub repository",
                hint="`sdstream models list` shows the ids.",
            )
        found.append((name, source))
    return list(dict.fromkeys(found))


def _pull(source: str, table: ModelTable, half: bool, bar: DownloadBar) -> Path:
    places = table.places
    hub_id = HubId.parse(source)
    assert hub_id is not None, "checked before"
    if not may_fetch(source, places):
        return find_unfetched(source, places)
    path = fetch_model(hub_id, places, half=half, vae=places.full_vae, progress=bar.tell)
    family = _family_of(path)
    if not places.full_vae:
        get_taesd(family, places, bar.tell)
    if family in LCM_LORAS and not is_turbo(path):
        LoraFiles().get(LCM_LORAS[family], places, bar.tell)
    return path


def _family_of(path: Path) -> Family:
    try:
        return family_of(json.loads((path / "unet/config.json").read_text("utf-8")))
    except (OSError, ValueError, AttributeError) as error:
        raise ModelUnavailable(f"{path / 'unet/config.json'} cannot be read: {error}") from error


def _tell_how_to_use(name: str, source: str, path: Path, table: ModelTable) -> None:
    entry = table.get(name)
    if entry is None or entry.source != source:
        family = _family_of(path) if entry is None else entry.family
        setting = json.dumps({name.partition("@")[0]: {"source": source, "family": family}})
        print(f"To use it: SDSTREAM_MODELS='{setting}'", file=sys.stderr)


__all__ = ["PROFILE", "needs_of", "pull_conditions", "pull_models", "pull_profiles", "sources_of"]
