"""`sdstream install-mediamtx`: the program that takes RTMP, RTSP and SRT, fetched into the data directory."""

import platform
import re
import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sdstream.commands.download_bar import DownloadBar
from sdstream.commands.flags import with_settings
from sdstream.commands.installing import install_release, source_of
from sdstream.errors import ConfigurationError
from sdstream.media.mediamtx.process import find_program, version_problem
from sdstream.media.mediamtx.release import VERSION, release_for
from sdstream.settings import Settings


@with_settings(only=("data_dir", "offline"))
def install_mediamtx(
    *,
    release: Annotated[
        str, Parameter(name="--release", metavar="VERSION", help="Which one; it must be one that sdstream can use.")
    ] = VERSION,
    mirror: Annotated[
        str | None,
        Parameter(
            name="--from",
            metavar="URL",
            help="https folder with the same files as the release on GitHub: the archive and checksums.sha256.",
        ),
    ] = None,
    sha256: Annotated[
        str | None,
        Parameter(
            name="--sha256",
            metavar="HEX",
            help="What the archive must have, from where you trust it; default: what checksums.sha256 beside it says.",
        ),
    ] = None,
    force: Annotated[bool, Parameter(help="Fetch it even if it is there already.", negative=())] = False,
    settings: Settings,
) -> int:
    """Fetch MediaMTX's release for this machine from GitHub into `bin` of the data directory, where `serve` finds it.

    The archive is checked against --sha256, else the release's checksums, and only the program is taken out of it. Goes
    on where an earlier call broke off.
    """
    wanted = release_for(platform.system(), platform.machine(), _version(release))
    source, digest = source_of(wanted, mirror), _digest(sha256)
    with DownloadBar("asking for the release") as bar:
        installed = install_release(settings, wanted, source, sha256=digest, force=force, progress=bar.tell)
    there = "" if installed.fetched else " is here already"
    print(f"MediaMTX {installed.version}{there}: {installed.path}")
    _tell_what_serve_takes(settings, installed.path)
    return 0


def _version(text: str) -> str:
    """`1.20.1` of `1.20.1` or `v1.20.1`. Raises `ConfigurationError` for what is no version, or not one to be used."""
    if re.fullmatch(r"v?\d+\.\d+\.\d+", text) is None:
        raise ConfigurationError(f"--release: {text!r} is not a version such as {VERSION}")
    problem = version_problem(text)
    if problem is not None:
        raise ConfigurationError(f"--release: {problem}")
    return text.removeprefix("v")


def _digest(text: str | None) -> str | None:
    """In lower case. Raises `ConfigurationError` for what is no SHA-256."""
    if text is not None and re.fullmatch(r"[0-9a-fA-F]{64}", text) is None:
        raise ConfigurationError(f"--sha256: {text!r} is not 64 hexadecimal digits")
    return text and text.lower()


def _tell_what_serve_takes(settings: Settings, installed: Path) -> None:
    try:
        taken = find_program(settings)
    except ConfigurationError as error:
        print(f"serve does not take it: {error.message}", file=sys.stderr)
        return
    if taken.path != installed:
        print(f"serve takes {taken.path} instead: {taken.source}", file=sys.stderr)
    elif settings.media_backend != "mediamtx":
        print("To use it: SDSTREAM_MEDIA_BACKEND=mediamtx sdstream serve --mediamtx-rtmp-port 1935", file=sys.stderr)


__all__ = ["install_mediamtx"]
