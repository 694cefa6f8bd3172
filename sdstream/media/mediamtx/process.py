"""MediaMTX as a child process: found, judged by its version, told its configuration, its lines folded into our log."""

import os
import re
import shutil
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import structlog

from sdstream.clock import Clock
from sdstream.errors import ConfigurationError
from sdstream.media.child_program import ChildProgram, write_for_owner
from sdstream.settings import Settings

VARIABLE = "MEDIAMTX_BIN"
NAME = "mediamtx"
RELEASES = "github.com/bluenviron/mediamtx/releases"
LEAST_VERSION = (1, 20, 1)
FOLDER = "sdstream-mediamtx-"
_SECRETS = re.compile(r"\b(in|out)/[A-Za-z0-9_-]+|([?&](?:streamid|token|user|pass|password|jwt)=)[^&\s'\"]+")
_LEVEL = re.compile(r"^\S+ \S+ (DEB|INF|WAR|ERR) ")
_VERSION = re.compile(r"v?(\d+)\.(\d+)\.(\d+)")

log = structlog.get_logger(__name__)


def find_program(settings: Settings, environment: Mapping[str, str] = os.environ) -> Path:
    """MediaMTX's program. Raises `ConfigurationError` when there is none."""
    wanted = settings.mediamtx_program or environment.get(VARIABLE) or NAME
    found = shutil.which(wanted)
    if found is None:
        raise ConfigurationError(
            f"media_backend mediamtx: the program {wanted} is not here",
            hint=f"Install MediaMTX 1.20.1 or a later 1.x ({RELEASES}), name it in SDSTREAM_MEDIAMTX_PROGRAM or "
            f"{VARIABLE}, or take SDSTREAM_MEDIA_BACKEND=embedded.",
        )
    return Path(found)


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
    "RELEASES",
    "VARIABLE",
    "child_environment",
    "find_program",
    "make_child",
    "version_problem",
    "without_secrets",
]
