"""The command line of the builder. What it does is in `baking`, `checking` and `sdstream.engines`; here it is called.

Exit codes: 0 done · 1 an engine could not be made · 2 the command line or the profile is wrong · 3 not enough disk or
memory, or the place of engines cannot be written · 4 the back end or the model is not on this machine · 5 S3 failed ·
6 an engine is not what it should be · 130 interrupted
"""

import json
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import App, CycloptsError, Parameter, validators
from rich.console import Console
from rich.text import Text

from builder.baking import Bakery, Plan, keep_here
from builder.checking import check_plan
from builder.estimates import readable_size
from builder.guesses import guesses
from builder.models import load_profile
from builder.profiles import Choice, Profile, find_profile, shipped_profiles
from builder.progress import ProgressLine
from builder.pushing import Pusher
from builder.sources import ProfileSources
from builder.telling import guess_json, plan_json, show_guess, show_outcome, show_plan, show_results
from sdstream import __version__
from sdstream.commands.download_bar import DownloadBar
from sdstream.directories import choose_data_directory, home_expanded
from sdstream.engine_errors import EngineBackendUnavailable, EngineBroken, EngineMissing, EngineStoreUnavailable
from sdstream.engines.cache import EngineCache
from sdstream.engines.events import EngineEvent
from sdstream.engines.keys import BACKENDS, BackendName
from sdstream.engines.manifest import Manifest
from sdstream.engines.mirror import EngineMirror, MirrorAddress, RemoteEngine
from sdstream.engines.registry import has_usable_card
from sdstream.engines.targets import parse_capabilities
from sdstream.engines.tidying import collect, evict
from sdstream.errors import ConfigurationError, SdstreamError
from sdstream.model_errors import ModelUnavailable
from sdstream.params import ModelTable
from sdstream.platform.processes import lower_priority
from sdstream.settings import Settings, load_settings

EXIT_FAILED, EXIT_USAGE, EXIT_NO_ROOM, EXIT_NOT_HERE, EXIT_MIRROR, EXIT_WRONG, EXIT_INTERRUPTED = 1, 2, 3, 4, 5, 6, 130

ProfileName = Annotated[str, Parameter(help="A shipped profile, or the path of a TOML file.")]
ModelName = Annotated[
    str | None, Parameter(help="Another model of the family: a directory, a file, or an id as the server takes it.")
]
Backend = Annotated[BackendName | None, Parameter(help="One back end; else those that the profile names.")]
Capabilities = Annotated[str | None, Parameter(name="--sm", help="Compute capabilities, such as 89,120.")]
Directory = Annotated[
    Path | None, Parameter(name="--engines", help="Where engines are kept; else the data directory's.")
]
AsJson = Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")]
NOT_NEGATIVE = validators.Number(gte=0, lte=1e9)
Older = Annotated[float, Parameter(help="Only what was not touched for as many hours.", validator=NOT_NEGATIVE)]

application = App(
    name="builder",
    help="Bakes engines before they are needed. Profiles: " + ", ".join(shipped_profiles()) + ".",
    version=__version__,
    help_format="plaintext",
    default_parameter=Parameter(negative_iterable=()),
    suppress_keyboard_interrupt=False,
)


@application.command
def plan(
    *,
    profile: ProfileName,
    model: ModelName = None,
    backend: Backend = None,
    sm: Capabilities = None,
    engines: Directory = None,
    as_json: AsJson = False,
) -> int:
    """Say what is missing, and how long, how much memory and how much disk it will take. Makes nothing.

    Without the model or a back end's packages it says what is not here, and guesses.
    """
    wanted, bakery = _profile(profile, model, backend, sm), _bakery(engines)
    try:
        plans = bakery.plan(wanted, backend)
    except (ModelUnavailable, EngineBackendUnavailable):
        guessed = guesses(wanted, backend, bakery.cache)
        if as_json:
            print(json.dumps([guess_json(entry) for entry in guessed], indent=2))
        else:
            for entry in guessed:
                show_guess(entry)
        raise
    if as_json:
        print(json.dumps([plan_json(entry) for entry in plans], indent=2))
    else:
        for entry in plans:
            show_plan(entry)
    return EXIT_NO_ROOM if any(entry.missing and entry.estimate.problems for entry in plans) else 0


@application.command
def bake(
    *,
    profile: ProfileName,
    model: ModelName = None,
    backend: Backend = None,
    sm: Capabilities = None,
    engines: Directory = None,
    push: Annotated[bool, Parameter(help="Push each engine as soon as it is there.")] = False,
    force: Annotated[bool, Parameter(negative="", help="Try even with too little memory or disk.")] = False,
    polite: Annotated[bool, Parameter(negative="", help="Let other processes go first.")] = False,
    as_json: AsJson = False,
) -> int:
    """Make what is missing. What is there stays; run again after a crash, it goes on with what is still missing."""
    wanted = _profile(profile, model, backend, sm)
    bakery = _bakery(engines)
    pusher = Pusher(bakery.cache, _mirror()) if push else None  # what is wrong with it is said now, not after an hour
    if polite:
        lower_priority()
    line = ProgressLine()
    try:
        outcome = bakery.bake(wanted, backend, tell=line, keep=pusher or keep_here, force=force)
    finally:
        line.end()
    show_outcome(outcome, pusher, as_json=as_json)
    errors = [engine.error for engine in outcome.failures]
    if errors:
        return EXIT_NO_ROOM if any(isinstance(error, EngineStoreUnavailable) for error in errors) else EXIT_FAILED
    return EXIT_MIRROR if pusher is not None and pusher.failed else 0


@application.command
def verify(
    *,
    profile: ProfileName,
    model: ModelName = None,
    backend: Backend = None,
    sm: Capabilities = None,
    engines: Directory = None,
    onnx: Annotated[bool, Parameter(help="Compare ONNX with torch, too.")] = True,
    as_json: AsJson = False,
) -> int:
    """Compare every byte with its hash, ONNX with torch, and the engine with its plain twin where it can run.

    What was measured goes into the manifest: error, calls a second, memory.
    """
    bakery = _bakery(engines)
    results = [
        result
        for entry in bakery.plan(_profile(profile, model, backend, sm), backend)
        for result in check_plan(entry, bakery.cache, bakery.device, onnx=onnx)
    ]
    show_results(results, as_json=as_json)
    return EXIT_WRONG if any(result.problems for result in results) else 0


@application.command
def fetch(*, profile: ProfileName, model: ModelName = None, backend: Backend = None) -> int:
    """Fetch the files that a profile is made of from the hub into the data directory, as the server fetches its own.

    Only what is not here, and no file that the profile has no use for. HF_TOKEN opens gated models.
    """
    wanted = _profile(profile, model, backend, None)
    half = set(wanted.targets) != {"compiled"} or has_usable_card()
    with DownloadBar() as bar:
        files = _sources().fetch(wanted, bar.tell, half=half)
    parts = (files.taesd, files.tokenizer, *files.loras, *files.controlnets, files.adapter, *files.networks)
    for path in (files.model, *parts):
        if path is not None:
            print(path)
    return 0


@application.command
def push(
    *, engines: Directory = None, name: Annotated[str, Parameter(help="Only names that have this in them.")] = ""
) -> int:
    """Copy engines into the bucket of SDSTREAM_ENGINE_MIRROR. What is there already is not sent again."""
    cache = _cache(engines)
    entries = [entry for entry in cache.entries() if name in entry.name]
    mirror, pushed, faults = _mirror(), 0, 0
    for entry in entries:
        try:
            if mirror.push(cache, entry):
                print(f"pushed  {entry.name}", flush=True)
                pushed += 1
        except EngineBroken as error:
            print(f"builder: {error.message}", file=sys.stderr)
            faults += 1
    there = len(entries) - pushed - faults
    print(f"builder: {pushed} of {len(entries)} engines pushed, {there} were there", file=sys.stderr)
    return EXIT_WRONG if faults else 0


@application.command
def pull(
    *,
    engines: Directory = None,
    profile: Annotated[str | None, Parameter(help="Only what this profile lacks; the model must be here.")] = None,
    model: ModelName = None,
    backend: Backend = None,
    sm: Capabilities = None,
    name: Annotated[str, Parameter(help="Only names that have this in them.")] = "",
) -> int:
    """Copy engines from the bucket of SDSTREAM_ENGINE_MIRROR. Every byte is compared with its hash."""
    cache, mirror = _cache(engines), _mirror()
    if profile is not None:
        found = _missing_in(mirror, _bakery(engines).plan(_profile(profile, model, backend, sm), backend))
    elif model is not None or backend is not None:
        raise ConfigurationError("--model and --backend belong to --profile", hint="Give --profile, too.")
    else:
        wanted = set(_capabilities(sm) or ())
        found = (
            (engine, manifest)
            for engine, manifest in mirror.manifests()
            if not (wanted and engine.capabilities) or wanted & engine.capabilities
        )
    pulled = faults = 0
    for engine, manifest in found:
        if name not in manifest.key.readable:
            continue
        try:
            print(f"pulled  {mirror.pull(engine, cache).name}", flush=True)
            pulled += 1
        except (EngineBroken, EngineMissing):  # reported; the others may be whole
            faults += 1
    print(f"builder: {pulled} engines of {mirror.address} are in {cache.directory}", file=sys.stderr)
    return EXIT_WRONG if faults else 0


def _missing_in(mirror: EngineMirror, plans: list[Plan]) -> Iterator[tuple[RemoteEngine, Manifest]]:
    """What plans lack, as far as the bucket has it."""
    for plan in plans:
        for item in plan.missing:
            for engine, manifest in mirror.manifests(item.key.base):
                if manifest.key.digest == item.key.digest:
                    yield engine, manifest


@application.command(name="list")
def show(
    *, engines: Directory = None, mirror: Annotated[bool, Parameter(negative="", help="Of the bucket.")] = False
) -> int:
    """List engines: their size, and how they are called."""
    if mirror:
        bucket = _mirror()
        for _, manifest in bucket.manifests():
            print(f"{manifest.size / 1e6:10.1f} MB  {manifest.key.readable}")
        return 0
    cache = _cache(engines)
    entries = cache.entries()
    for entry in entries:
        print(f"{entry.manifest.size / 1e6:10.1f} MB  {entry.name}")
    if not entries:
        print(f"builder: no engines in {cache.directory}", file=sys.stderr)
    return 0


@application.command
def gc(
    *,
    engines: Directory = None,
    limit: Annotated[
        float | None,
        Parameter(
            help="Gigabytes that engines may take; else SDSTREAM_ENGINE_VOLUME_LIMIT_GIGABYTES.", validator=NOT_NEGATIVE
        ),
    ] = None,
    hours: Older = 24.0,
) -> int:
    """Remove what dead builders left, and the engines used longest ago until the rest fits the limit, if there is one.

    Who asks for a limit gets it: engines in use may go, too, which stops no stream.
    """
    cache = _cache(engines)
    removed = [str(folder) for folder in collect(cache, hours * 3600)]
    gigabytes = _settings().engine_volume_limit_gigabytes if limit is None else limit
    if gigabytes is not None:
        cache.limit = int(gigabytes * 1e9)
        removed += [entry.name for entry in evict(cache)]
    for each in removed:
        print(f"removed {each}")
    left = cache.entries()
    size = readable_size(sum(entry.manifest.size for entry in left))
    print(f"builder: {len(removed)} removed; {len(left)} engines of {size} are in {cache.directory}", file=sys.stderr)
    return 0


def run(arguments: list[str] | None = None, name: str = "builder") -> int:
    """Run one command line and return its exit code; errors go to stderr, each with its hint. `name` is the program
    that a person has called."""
    errors = Console(stderr=True, highlight=False, soft_wrap=True)
    torch.set_grad_enabled(False)
    try:
        result: Any = application(
            arguments,
            exit_on_error=False,
            print_error=True,
            error_console=errors,
            error_formatter=lambda error: Text(f"{name}: {' '.join(str(error).split())}"),
            result_action="return_value",
        )
    except CycloptsError:
        return EXIT_USAGE
    except SdstreamError as error:
        for line in error.message.splitlines():
            errors.print(Text(f"{name}: {line}"))
        if error.hint:
            errors.print(Text(f"  {error.hint}", "dim"))
        return exit_code(error)
    except KeyboardInterrupt:
        errors.print(Text(f"{name}: interrupted; what was made stays, and the same command goes on"))
        return EXIT_INTERRUPTED
    return result if isinstance(result, int) else 0


def exit_code(error: SdstreamError) -> int:
    """The exit code that an error ends a command with."""
    if isinstance(error, ConfigurationError):
        return EXIT_USAGE
    if isinstance(error, EngineBackendUnavailable | ModelUnavailable):
        return EXIT_NOT_HERE
    if isinstance(error, EngineBroken):
        return EXIT_WRONG
    if isinstance(error, EngineStoreUnavailable):
        return EXIT_MIRROR if error.message.startswith("s3://") else EXIT_NO_ROOM
    return EXIT_FAILED


def _profile(name: str, model: str | None, backend: BackendName | None, sm: str | None) -> Profile:
    profile = find_profile(name, Choice(model, backend, _capabilities(sm)))
    if not profile.targets:
        raise ConfigurationError(f"{profile.name} names no targets", hint=f"Add --backend {BACKENDS[1]} --sm 89.")
    return profile.model_copy(update={"full_vae": profile.full_vae or _settings().full_vae})


def _sources() -> ProfileSources:
    return ProfileSources(ModelTable.from_settings(_settings()))


def _capabilities(sm: str | None) -> tuple[int, ...] | None:
    if sm is None:
        return None
    try:
        return parse_capabilities(sm)
    except ValueError as error:
        raise ConfigurationError(f"--sm: {error}", hint="Several are separated by commas: --sm 89,120.") from None


def _settings() -> Settings:
    return load_settings()


def _cache(directory: Path | None) -> EngineCache:
    own = choose_data_directory(_settings()).absolute_path / "engines"
    return EngineCache(own if directory is None else home_expanded(directory), report=_say)


def _bakery(directory: Path | None) -> Bakery:
    return Bakery(_cache(directory), report=_say, load=partial(load_profile, sources=_sources()))


def _mirror() -> EngineMirror:
    settings = _settings()
    if settings.engine_mirror is None:
        raise ConfigurationError("there is no mirror", hint="Set SDSTREAM_ENGINE_MIRROR to s3://BUCKET/PREFIX.")
    address = MirrorAddress.parse(
        settings.engine_mirror, settings.engine_mirror_endpoint, settings.engine_mirror_region
    )
    return EngineMirror(address, report=_say)


def _say(event: EngineEvent) -> None:
    """Faults are told as they come; all else a command prints itself."""
    if event.kind in ("broken", "lock_broken"):
        print(f"{event.kind.replace('_', ' ')}: {event.name}: {event.detail}", file=sys.stderr)


__all__ = [
    "application",
    "exit_code",
    "run",
]
