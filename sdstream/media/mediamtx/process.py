"""MediaMTX as a child process: found, judged by its version, told its configuration, its lines folded into our log."""

import os
import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from sdstream.clock import Clock
from sdstream.directories import choose_data_directory
from sdstream.errors import ConfigurationError
from sdstream.media.child_program import ChildProgram, write_for_owner
from sdstream.media.mediamtx.release import VERSION
from sdstream.settings import Settings

VARIABLE = "MEDIAMTX_BIN"
NAME = "mediamtx"
VERB = "sdstream install-mediamtx"
BIN = "bin"
"""Of the data directory."""
RELEASES = "github.com/bluenviron/mediamtx/releases"
LEAST_VERSION = (1, 20, 1)
VERSION_SECONDS = 10.0
FOLDER = "sdstream-mediamtx-"
_SECRETS = re.compile(r"\b(in|out|vp8)/[A-Za-z0-9_-]+|([?&](?:streamid|token|user|pass|password|jwt)=)[^&\s'\"]+")
_LEVEL = re.compile(r"^\S+ \S+ (DEB|INF|WAR|ERR) ")
_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Program:
    """MediaMTX's program, and for people where it is from."""

    path: Path
    source: str


def installed_program(settings: Settings) -> Path:
    """Where `sdstream install-mediamtx` puts the program; Windows adds the ending."""
    return choose_data_directory(settings).absolute_path / BIN / NAME


def find_program(settings: Settings, environment: Mapping[str, str] = os.environ) -> Program:
    """MediaMTX's program: the one that is named, else that of PATH, else that of the data directory.

    Raises `ConfigurationError` when there is none. One that is named and not there is not replaced by another.
    """
    for named, source in (
        (settings.mediamtx_program, "the setting mediamtx_program names it"),
        (environment.get(VARIABLE), f"{VARIABLE} names it"),
    ):
        if named:
            if (found := shutil.which(named)) is not None:
                return Program(Path(found), source)
            raise ConfigurationError(
                f"media_backend mediamtx: the program {named} is not here ({source})",
                hint=f"Correct SDSTREAM_MEDIAMTX_PROGRAM or {VARIABLE}, or set neither: `{VERB}` fetches MediaMTX.",
            )
    installed = installed_program(settings)
    for wanted, source in ((NAME, "found in PATH"), (str(installed), f"installed by `{VERB}`")):
        if (found := shutil.which(wanted)) is not None:
            return Program(Path(found), source)
    raise ConfigurationError(
        f"media_backend mediamtx: the program {NAME} is not here, neither in PATH nor in {installed.parent}",
        hint=f"`{VERB}` fetches it. Or install MediaMTX {VERSION} or a later 1.x ({RELEASES}) yourself, name it in "
        f"SDSTREAM_MEDIAMTX_PROGRAM or {VARIABLE}, or take SDSTREAM_MEDIA_BACKEND=embedded.",
    )


def ask_version(program: Path) -> str:
    """What the program says its version is, such as `v1.20.1`; empty when it says nothing.

    Raises `OSError` or `subprocess.TimeoutExpired` when it cannot be run.
    """
    done = subprocess.run(
        [program, "--version"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=VERSION_SECONDS,
        env=child_environment(os.environ),
        check=False,
    )
    return done.stdout.strip()


def version_problem(said: str) -> str | None:
    """Why a MediaMTX that says it is of this version is not used; None when it is."""
    match = _VERSION.search(said)
    if match is None:
        return f"it does not tell its version ({said[:40]!r})"
    version = tuple(int(part) for part in match.groups())
    if version < LEAST_VERSION or version[0] != LEAST_VERSION[0]:
        return f"it is {match[0]}, and 1.20.1 to 1.x is needed"
    return None


def without_secrets(line: str) -> str:
    """A line of MediaMTX's log without the keys of streams."""
    return _SECRETS.sub(lambda match: f"{match[1]}/..." if match[1] else f"{match[2]}...", line)


def child_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """MediaMTX's variables.

    Its settings can come from them too, by the older prefix `RTSP_` as well; those of the user must not open what ours
    closes.
    """
    kept = {name: value for name, value in environment.items() if not name.startswith(("MTX_", "RTSP_", "SDSTREAM_"))}
    # SRTLA is on its way into MediaMTX, on by default. 1.20 refuses a file that names it, and passes a variable over.
    return kept | {"MTX_SRTLA": "no"}


def make_child(program: Path, text: str, answers: Callable[[], Awaitable[bool]], clock: Clock) -> ChildProgram:
    """MediaMTX with `text` for its configuration."""

    def prepare(folder: Path) -> list[str]:
        file = folder / "mediamtx.yml"
        write_for_owner(file, text)
        return [str(program), str(file)]

    return ChildProgram(
        "MediaMTX",
        FOLDER,
        prepare,
        answers,
        clock,
        hint="A port in use is the usual reason: see the mediamtx_ settings.",
        environment=child_environment(os.environ),
        clean=without_secrets,
        on_line=_log,
    )


def _log(line: str) -> None:
    level = _LEVEL.match(line)
    if level is not None and level[1] in ("WAR", "ERR"):
        log.warning("MediaMTX says", line=line)
    else:
        log.debug("MediaMTX says", line=line)


__all__ = [
    "BIN",
    "RELEASES",
    "VARIABLE",
    "VERB",
    "Program",
    "ask_version",
    "child_environment",
    "find_program",
    "installed_program",
    "make_child",
    "version_problem",
    "without_secrets",
]
