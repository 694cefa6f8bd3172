"""The work of `sdstream install-mediamtx`: a release fetched, checked, and its program put into the data directory."""

import asyncio
import hashlib
import ipaddress
import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from sdstream.diffusion.fetching.hub import only_one
from sdstream.directories import choose_data_directory, prove_writable
from sdstream.errors import ConfigurationError
from sdstream.fetching import FetchNotFound, FetchProblem, PublicFetcher
from sdstream.file_errors import NO_ROOM
from sdstream.install_errors import ChecksumDiffers, InstallDiskFull, InstallFailed, ProgramUnusable, ReleaseNotFound
from sdstream.media.mediamtx.archive import read_program
from sdstream.media.mediamtx.process import BIN, RELEASES, ask_version, version_problem
from sdstream.media.mediamtx.release import CHECKSUMS, Release, promised_hash
from sdstream.pace import Progress
from sdstream.settings import Settings
from sdstream.transfers import Part, bring_whole

MAX_BYTES = 256 * 1024**2
"""Of the archive."""
MAX_CHECKSUM_BYTES = 64 * 1024
MAX_SECONDS = 1800.0
"""For one file."""
WORK = ".install"
"""In the directory of programs: what has not come whole yet, and who fetches it."""


@dataclass(frozen=True, slots=True)
class Source:
    """The folder that a release's files are fetched from, and who may be asked for them."""

    folder: str
    make_fetcher: Callable[[], PublicFetcher]


@dataclass(frozen=True, slots=True)
class Installed:
    """A program in its place, and the version that it says it is; `fetched` unless it was there before."""

    path: Path
    version: str
    fetched: bool


def source_of(release: Release, mirror: str | None) -> Source:
    """Where the files of `release` are: at `mirror`, else where the project publishes them.

    Raises `ConfigurationError` when `mirror` is not https, or http on this machine's loopback.
    """
    if mirror is None:
        return Source(release.folder, partial(PublicFetcher, None, MAX_SECONDS, ("https",)))
    try:
        url = httpx.URL(mirror)
    except httpx.InvalidURL:
        raise ConfigurationError(f"--from: {mirror!r} is not a URL") from None
    if url.query or url.fragment or not url.host:
        raise ConfigurationError("--from: must be the URL of a folder, without ? and #")
    # The user names the mirror, and nobody else is fetched for: it may be in the user's own network.
    is_allowed: Callable[[str], bool] = _is_loopback if url.scheme == "http" else lambda address: True
    if url.scheme != "https" and not (url.scheme == "http" and (url.host == "localhost" or _is_loopback(url.host))):
        raise ConfigurationError("--from: must be an https URL", hint="http is for servers of this machine only.")
    return Source(mirror.rstrip("/"), partial(PublicFetcher, is_allowed, MAX_SECONDS, (url.scheme,)))


def install_release(
    settings: Settings, release: Release, source: Source, *, force: bool, progress: Progress, sha256: str | None = None
) -> Installed:
    """Have the program of `release` in `bin` of the data directory; fetched when it is not there, or with `force`.

    The archive must have this `sha256`, in lower-case hexadecimal; None: the one that the source itself promises.
    Raises `ConfigurationError` when nothing may be fetched or the directory cannot be written, else `InstallFailed`.
    A program that is there already stays as it is unless all went well.
    """
    data = choose_data_directory(settings)
    folder = data.absolute_path / BIN
    target = folder / release.program
    if not force and (said := _version_here(target, release)):
        return Installed(target, said, fetched=False)
    if settings.offline:
        raise ConfigurationError(
            f"MediaMTX {release.version} is not in {folder}, and SDSTREAM_OFFLINE forbids to fetch it",
            hint=f"Copy the program there as {release.program}, or name one in MEDIAMTX_BIN.",
        )
    data.prepare()
    work = folder / WORK
    try:
        work.mkdir(parents=True, exist_ok=True)
        prove_writable(folder)
    except OSError as error:
        raise ConfigurationError(f"{folder} cannot be written: {error.strerror or error}") from None
    if target.is_dir():
        raise ConfigurationError(f"{target} is a directory", hint="Move it away: the program is put there.")
    part, staged = Part(work / "archive.part"), work / release.program
    try:
        with only_one(work / "lock", release.archive, progress):
            if not force and (said := _version_here(target, release)):  # another process was quicker
                return Installed(target, said, fetched=False)
            promised = sha256 or promised_hash(_fetch_checksums(source, work, progress), release.archive)
            _fetch(source, release.archive, part, MAX_BYTES, progress)
            _compare(part, release.archive, promised, "--sha256" if sha256 else CHECKSUMS)
            progress(f"unpacking {release.archive}", None)
            try:
                _unpack(part.path, staged)
            finally:
                part.drop()
            said = _try_out(staged)
            staged.replace(target)
    except OSError as error:
        if error.errno in NO_ROOM:
            part.drop()
            raise InstallDiskFull(f"there is no room for {release.archive} in {folder}") from error
        raise InstallFailed(
            f"{target} cannot be put in its place: {error.strerror or error}", hint="Is it running, or write-protected?"
        ) from error
    finally:
        staged.unlink(missing_ok=True)
    return Installed(target, said, fetched=True)


def _version_here(program: Path, release: Release) -> str:
    """What the program says it is, when that is the version of `release`; else empty."""
    try:
        said = ask_version(program) if program.is_file() else ""
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return said if said.partition(" ")[0].removeprefix("v") == release.version else ""


def _fetch_checksums(source: Source, work: Path, progress: Progress) -> str:
    part = Part(work / "checksums.part")
    _fetch(source, CHECKSUMS, part, MAX_CHECKSUM_BYTES, progress)
    text = part.path.read_text("utf-8", "replace")
    part.drop()
    return text


def _fetch(source: Source, name: str, part: Part, max_bytes: int, progress: Progress) -> None:
    url = f"{source.folder}/{name}"
    shown = str(httpx.URL(url).copy_with(userinfo=b""))
    try:
        asyncio.run(
            bring_whole(source.make_fetcher(), url, part, name, progress, max_bytes=max_bytes, max_seconds=MAX_SECONDS)
        )
    except FetchNotFound as problem:
        raise ReleaseNotFound(f"{shown} {problem}") from problem
    except FetchProblem as problem:
        raise InstallFailed(
            f"{shown} {problem}",
            hint="Try again: what has come is kept. Where only a proxy leads out, put the program from "
            f"{RELEASES} into PATH by hand.",
        ) from problem


def _compare(part: Part, name: str, promised: str, promise: str) -> None:
    with part.path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != promised:
        part.drop()
        raise ChecksumDiffers(f"{name} came with the SHA-256 {found}, and {promise} has {promised}")


def _unpack(archive: Path, staged: Path) -> None:
    with staged.open("wb") as file:
        for block in read_program(archive, staged.name):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    staged.chmod(0o755)


def _try_out(program: Path) -> str:
    """What a program says it is that is not in its place yet: one that does not run shall not replace one that does."""
    try:
        said = ask_version(program)
    except OSError as error:
        raise ProgramUnusable(f"MediaMTX came and cannot be run here: {error.strerror or error}") from error
    except subprocess.TimeoutExpired as error:
        raise ProgramUnusable(f"MediaMTX came and did not tell its version within {error.timeout:g} s") from error
    problem = version_problem(said)
    if problem is not None:
        raise ProgramUnusable(f"MediaMTX came and is not used: {problem}", hint="Check --release and --from.")
    return said


def _is_loopback(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


__all__ = ["Installed", "Source", "install_release", "source_of"]
