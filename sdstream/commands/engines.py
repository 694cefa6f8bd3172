"""`sdstream engines`: which compiled engines are here; fetch them; have them ready before the first stream."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from rich.console import Console
from rich.table import Table

from sdstream.commands.flags import with_settings
from sdstream.commands.machine import compute_capability
from sdstream.directories import choose_data_directory, local_engines
from sdstream.engine_errors import EngineError
from sdstream.engines.cache import EngineCache
from sdstream.engines.entry import Entry
from sdstream.engines.events import EngineEvent
from sdstream.engines.keys import EngineKey, capabilities_of
from sdstream.engines.mirror import EngineMirror, MirrorAddress, RemoteEngine
from sdstream.engines.targets import parse_capabilities, takes_capability
from sdstream.errors import CommandFailed, ConfigurationError
from sdstream.settings import Settings

MIRROR = ("engine_mirror", "engine_mirror_endpoint", "engine_mirror_region")
PLACES = ("data_dir", "engine_local_dir", "engine_limit_gigabytes")
WARM_SECONDS = 1800.0

engines = App(name="engines", help="List, fetch and warm compiled engines.", help_format="plaintext")

Capability = Annotated[
    str | None, Parameter(name="--sm", help="Compute capability such as 89; this machine's when it is not given.")
]
Name = Annotated[str, Parameter(help="Only engines whose names have this in them.")]


@engines.command(name="list")
@with_settings(only=(*PLACES, *MIRROR))
def show(
    *, mirror: Annotated[bool, Parameter(negative="", help="Those in the bucket.")] = False, settings: Settings
) -> int:
    """List engines: where they are, how large, for which cards, and how they are called. Opens none."""
    table = Table("where", "MB", "for", "engine", box=None)
    if mirror:
        bucket = open_mirror(settings)
        for engine, manifest in bucket.manifests():
            table.add_row("bucket", f"{manifest.size / 1e6:.1f}", engine.target, manifest.key.readable)
    else:
        for where, cache in (("volume", volume_of(settings)), ("local", local_of(settings))):
            for entry in cache.entries():
                table.add_row(where, f"{entry.manifest.size / 1e6:.1f}", entry.key.target, entry.name)
    if not table.row_count:
        places = "the bucket" if mirror else f"{volume_of(settings).directory} or {local_of(settings).directory}"
        print(f"no engines are in {places}; `python -m builder bake` makes them", file=sys.stderr)
        return 0
    width = None if sys.stdout.isatty() else 1000  # a pipe has no width; nothing may be cut off there
    Console(width=width, highlight=False, markup=False).print(table)
    return 0


@engines.command
@with_settings(only=(*PLACES, *MIRROR))
def pull(*, sm: Capability = None, name: Name = "", settings: Settings) -> int:
    """Fetch engines for this card from the bucket to the data directory. Every byte is compared with its hash."""
    cache, bucket = volume_of(settings), open_mirror(settings)
    pulled, failed = fetch_missing(bucket, cache, acceptor(sm), name)
    for each in pulled:
        print(each)
    print(f"{len(pulled)} engines are in {cache.directory}", file=sys.stderr)
    if failed:
        raise CommandFailed(f"{failed} engines could not be had; the lines above say why")
    return 0


@engines.command
@with_settings(only=(*PLACES, *MIRROR))
def warm(*, sm: Capability = None, name: Name = "", settings: Settings) -> int:
    """Have engines ready before the first stream: from the bucket, to the local disk, and on a GPU loaded once, so that
    its driver has compiled them."""
    volume, local = volume_of(settings), local_of(settings)
    accepts = acceptor(sm)
    if settings.engine_mirror is not None:
        fetch_missing(open_mirror(settings), volume, accepts, name)
    ready: list[Entry] = []
    for entry in volume.entries():
        if accepts(entry.key) and name in entry.name:
            there = local.take(entry.key.base, lambda key, entry=entry: key.digest == entry.key.digest)
            copied = there or local.copy_from(volume, entry)
            if copied is not None:
                ready.append(copied)
                print(copied.name)
    print(f"{len(ready)} engines are in {local.directory}", file=sys.stderr)
    if ready and compute_capability() is not None:
        load_once(local.directory)
    return 0


def fetch_missing(
    bucket: EngineMirror, cache: EngineCache, accepts: Callable[[EngineKey], bool], name: str
) -> tuple[list[str], int]:
    """Pull what the cache lacks: the names of what is there now, and how many could not be had. One that cannot does
    not keep the others away."""
    pulled, failed = list[str](), 0
    for engine, manifest in bucket.manifests():
        if not accepts(manifest.key) or name not in manifest.key.readable:
            continue
        try:
            pulled.append(bucket.pull(engine, cache, progress).name)
        except EngineError as error:
            print(f"sdstream: {error.message}", file=sys.stderr)
            failed += 1
    return pulled, failed


def acceptor(sm: str | None) -> Callable[[EngineKey], bool]:
    """Tells the engines for the given cards, this machine's where none is given. CPU packages are for all that match.

    Raises `ConfigurationError` for what is no compute capability.
    """
    if sm is None:
        own = compute_capability()
        wanted = () if own is None else (own,)
    else:
        try:
            wanted = parse_capabilities(sm)
        except ValueError as error:
            raise ConfigurationError(f"--sm: {error}") from None

    def accepts(key: EngineKey) -> bool:
        if not capabilities_of(key.target) or not wanted:
            return True
        return any(takes_capability(key.target, number) for number in wanted)

    return accepts


def volume_of(settings: Settings) -> EngineCache:
    """The engines of the data directory."""
    return EngineCache(choose_data_directory(settings).absolute_path / "engines", report=tell)


def local_of(settings: Settings) -> EngineCache:
    """The engines on the local disk, from where a worker uses them."""
    return EngineCache(local_engines(settings), limit=int(settings.engine_limit_gigabytes * 1e9), report=tell)


def open_mirror(settings: Settings) -> EngineMirror:
    """Raises `ConfigurationError` when the settings name no bucket."""
    if settings.engine_mirror is None:
        raise ConfigurationError("there is no bucket", hint="Set SDSTREAM_ENGINE_MIRROR to s3://BUCKET/PREFIX.")
    address = MirrorAddress.parse(
        settings.engine_mirror, settings.engine_mirror_endpoint, settings.engine_mirror_region
    )
    return EngineMirror(address, report=tell)


def load_once(directory: Path) -> None:
    """Load every engine of a cache that this GPU takes, in a process of its own. Raises `CommandFailed`."""
    command = [sys.executable, "-m", "sdstream.engines.warming", str(directory)]
    try:
        done = subprocess.run(command, timeout=WARM_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        raise CommandFailed(f"the engines were not loaded within {WARM_SECONDS:.0f} s") from None
    if done.returncode != 0:
        raise CommandFailed("not every engine could be loaded; the lines above say why")


def progress(name: str, done: int, size: int) -> None:
    """One line on a terminal, nothing elsewhere."""
    if sys.stderr.isatty():
        end = "\n" if done == size else ""
        print(f"\r\x1b[K{name}: {done / 1e6:.0f} of {size / 1e6:.0f} MB", end=end, file=sys.stderr, flush=True)


def tell(event: EngineEvent) -> None:
    """Faults are told as they come; the rest a command prints itself."""
    if event.kind in ("broken", "evicted", "lock_broken"):
        print(f"sdstream: {event.kind.replace('_', ' ')}: {event.name}: {event.detail}", file=sys.stderr)


__all__ = ["RemoteEngine", "acceptor", "engines", "local_of", "open_mirror", "volume_of"]
