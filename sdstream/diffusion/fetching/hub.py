"""Files from the hub: listed, fetched on from where a fetch was broken off, and checked against the hub's own hashes.

`HF_ENDPOINT`, `HF_TOKEN` and `HF_HUB_OFFLINE` mean what they mean to every program that uses the hub. The token goes
into requests only, never into a message.
"""

import contextlib
import errno
import hashlib
import json
import shutil
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import filelock
import huggingface_hub
from huggingface_hub import constants, errors

from sdstream.clock import Clock, SystemClock, pause
from sdstream.diffusion.fetching.selection import RemoteFile
from sdstream.errors import first_line
from sdstream.http_clients import CANNOT_BE_OBEYED, describe
from sdstream.model_errors import (
    ModelAccessDenied,
    ModelDiskFull,
    ModelDownloadFailed,
    ModelNotAsPinned,
    ModelUnavailable,
)
from sdstream.pace import LEAST_BYTES, STALL_SECONDS, Pace, Progress

LIST_SECONDS = 20.0
"""How long the hub may take to say what a repository holds."""
ATTEMPTS = 5
"""How often in a row a file is asked for without a byte coming."""
PAUSE_SECONDS = 1.0
"""Between two of those."""
SPARE_BYTES = 256 * 1024 * 1024
"""What a download leaves free on the disk."""
BLOCK = 4 * 1024 * 1024
LEAST_PERCENT = 0.2
"""What must have come since the last report: each goes all the way to those who watch the stream."""
LOCK_SECONDS = 0.5
CLOCK: Clock = SystemClock()

_hub: Any = huggingface_hub
_errors: Any = errors
_constants: Any = constants


class RevisionUnknown(ModelUnavailable):
    """The hub has the repository, and no such revision of it."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What a repository holds at one commit."""

    repository: str
    commit: str
    files: tuple[RemoteFile, ...]


def is_offline() -> bool:
    """Whether the hub's own variable forbids the network."""
    return bool(_constants.is_offline_mode())


def list_repository(repository: str, revision: str | None = None) -> Listing:
    """Ask the hub what `repository` holds. Raises `ModelUnavailable` of the kind that fits."""
    with _understood(repository), _said_plainly(repository, revision):
        found = _hub.HfApi().model_info(repository, revision=revision, files_metadata=True, timeout=LIST_SECONDS)
        files = tuple(
            RemoteFile(
                sibling.rfilename,
                int(sibling.size or 0),
                None if sibling.lfs is None else sibling.lfs.sha256,
                sibling.blob_id if sibling.lfs is None else None,
            )
            for sibling in found.siblings or ()
        )
        return Listing(repository, found.sha, files)


def fetch_files(listing: Listing, files: Sequence[RemoteFile], folder: Path, progress: Progress) -> None:
    """Fetch `files` into `folder`, each under its own name; what is there whole is kept, what is there in part goes on.

    Raises `ModelUnavailable` of the kind that fits, or what `progress` raises; what has come stays for the next time.
    """
    counter = _Counter(listing.repository, sum(file.size for file in files), progress)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _check_room(listing, files, folder)
        for file in files:
            _fetch_file(listing, file, folder, counter)
    except OSError as error:
        raise _disk_error(listing.repository, folder, error) from error


@contextlib.contextmanager
def only_one(path: Path, what: str, progress: Progress) -> Generator[None]:
    """Keep other processes from fetching the same thing; waits for one that does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock: Any = filelock.FileLock(path)
    while True:
        try:
            lock.acquire(timeout=LOCK_SECONDS)
            break
        except filelock.Timeout:
            progress(f"waiting for another process that fetches {what}", None)
    try:
        yield
    finally:
        lock.release()


class _Counter:
    """How many bytes of all have come."""

    def __init__(self, repository: str, total: int, progress: Progress) -> None:
        self._repository = repository
        self._total = max(total, 1)
        self._progress = progress
        self._told: tuple[str, float] = ("", 0.0)
        self.done = 0
        """Bytes of the files that are whole."""

    def tell(self, name: str, came: int, *, always: bool = False) -> None:
        """`came` bytes of the file `name` are there now; `always` tells of it even if that is next to nothing new."""
        there = min(self.done + came, self._total)
        percent = 100.0 * there / self._total
        if not always and name == self._told[0] and percent < 100.0 and abs(percent - self._told[1]) < LEAST_PERCENT:
            return
        self._told = (name, percent)
        size = (
            f"{there / 1e9:.2f} of {self._total / 1e9:.2f} GB" if self._total >= 1e8 else f"{self._total / 1e6:.1f} MB"
        )
        self._progress(f"downloading {self._repository}: {name}, {size}", percent)


def _fetch_file(listing: Listing, file: RemoteFile, folder: Path, counter: _Counter) -> None:
    target = folder / file.name
    part = target.with_name(target.name + ".part")
    if not (target.is_file() and target.stat().st_size == file.size):
        target.parent.mkdir(parents=True, exist_ok=True)
        for attempt in (1, 2):
            _fetch_bytes(listing, file, part, counter)
            if _is_right(part, file, lambda: counter.tell(file.name, file.size)):
                break
            part.unlink()
            if attempt == 2:
                hint = "A proxy or a mirror changes files on their way; HF_ENDPOINT says which hub is asked."
                if file.pinned:
                    raise ModelNotAsPinned(
                        f"{listing.repository}: {file.name} came twice with bytes that are not those pinned", hint=hint
                    )
                raise ModelDownloadFailed(
                    f"{listing.repository}: {file.name} came twice with bytes that are not those the hub promises",
                    hint=hint,
                )
        part.replace(target)
    counter.done += file.size
    counter.tell(file.name, 0)


def _fetch_bytes(listing: Listing, file: RemoteFile, part: Path, counter: _Counter) -> None:
    """Append to `part` what it lacks; a try goes on from what came, and only tries that bring nothing are counted.

    All tries together must keep pace: a fetch that does not has others wait for its place."""
    with part.open("ab") as stream:
        if stream.tell() > file.size:
            stream.truncate(0)
        failures = 0
        pace = Pace(CLOCK.monotonic(), stream.tell())
        while (start := stream.seek(0, 2)) < file.size:
            if pace.is_stalled(CLOCK.monotonic(), start):
                raise ModelDownloadFailed(
                    f"{listing.repository}: {file.name} stalls; {start} of {file.size} bytes are here, and fewer than "
                    f"{LEAST_BYTES} came within {STALL_SECONDS:g} s"
                )
            counter.tell(file.name, start)
            try:
                with _said_plainly(listing.repository, listing.commit):
                    pace = _get(listing, file, stream, start, counter, pace)
            except ModelDownloadFailed as error:
                failures = failures + 1 if stream.seek(0, 2) <= start else 1
                if failures == ATTEMPTS:
                    raise ModelDownloadFailed(
                        f"{file.name} cannot be fetched whole; {ATTEMPTS} times: {error.message}"
                    ) from error
                counter.tell(file.name, start, always=True)
                pause(PAUSE_SECONDS)


def _get(listing: Listing, file: RemoteFile, stream: BinaryIO, start: int, counter: _Counter, pace: Pace) -> Pace:
    """One try, from `start` on, until the file is whole or the fetch has stalled."""
    url = _hub.hf_hub_url(listing.repository, file.name, revision=listing.commit, endpoint=_constants.ENDPOINT)
    headers: dict[str, str] = _hub.utils.build_hf_headers()
    headers["accept-encoding"] = "identity"  # a compressed answer has no ranges
    if start:
        headers["range"] = f"bytes={start}-"
    # The session follows redirects, and takes the token out of requests to other hosts.
    session = _hub.utils.get_session()
    with session.stream("GET", url, headers=headers, timeout=_constants.HF_HUB_DOWNLOAD_TIMEOUT) as response:
        _hub.utils.hf_raise_for_status(response)
        if start and response.status_code != 206:  # it gives the whole again
            start = 0
            stream.truncate(0)
        for piece in response.iter_bytes():
            if start + len(piece) > file.size:
                raise ModelDownloadFailed(f"{listing.repository}: {file.name} is longer than the hub says")
            stream.write(piece)
            start += len(piece)
            counter.tell(file.name, start)
            pace = pace.after(now := CLOCK.monotonic(), start)
            if pace.is_stalled(now, start):
                break
    return pace


def _is_right(part: Path, file: RemoteFile, alive: Callable[[], None]) -> bool:
    """Whether the bytes are those that the hub promised, by the hash it gave; by size where it gave none."""
    size = part.stat().st_size
    if size != file.size:
        return False
    if file.sha256 is not None:
        digest, wanted = hashlib.sha256(), file.sha256
    elif file.git_blob is not None:
        digest, wanted = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False), file.git_blob
    else:
        return True
    with part.open("rb") as stream:
        while block := stream.read(BLOCK):
            digest.update(block)
            alive()
    return digest.hexdigest() == wanted


def _check_room(listing: Listing, files: Sequence[RemoteFile], folder: Path) -> None:
    there = 0
    for file in files:
        for path in (folder / file.name, folder / f"{file.name}.part"):
            if path.is_file():
                there += min(path.stat().st_size, file.size)
                break
    needed = sum(file.size for file in files) - there
    free = shutil.disk_usage(folder).free
    if needed + SPARE_BYTES > free:
        raise ModelDiskFull(
            f"{listing.repository} needs {needed / 1e9:.2f} GB more and {folder} has {free / 1e9:.2f} GB free; "
            f"{SPARE_BYTES / 1e9:.2f} GB must stay free"
        )


def _disk_error(repository: str, folder: Path, error: OSError) -> ModelUnavailable:
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return ModelDiskFull(f"{repository}: the disk of {folder} is full")
    return ModelDownloadFailed(f"{repository}: {folder} cannot be written: {error.strerror or error}")


@contextlib.contextmanager
def _understood(repository: str) -> Generator[None]:
    """Around the first question to the hub. Whatever answers in its place, such as a network's page for signing in, has
    the hub's library raise anything; and the library makes its client only now, as the system's variables say."""
    try:
        yield
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError, LookupError, TypeError, AttributeError) as error:
        raise ModelDownloadFailed(
            f"{repository}: what answers in the hub's place is no hub",
            hint="Look at HF_ENDPOINT, and whether this network wants a sign-in first.",
        ) from error
    except CANNOT_BE_OBEYED as error:
        problem, hint = describe(error)
        raise ModelDownloadFailed(f"{repository}: {problem}", hint=hint) from error


@contextlib.contextmanager
def _said_plainly(repository: str, revision: str | None) -> Generator[None]:
    """Turns the errors of the hub's library into ours, without URLs, tokens and tracebacks."""
    try:
        yield
    except _errors.GatedRepoError as error:
        raise ModelAccessDenied(
            f"{repository} is gated: the hub gives it to people who have accepted its licence",
            hint=f"Accept the licence on the page of {repository} and set HF_TOKEN to a token that may read it.",
        ) from error
    except _errors.RepositoryNotFoundError as error:
        raise ModelAccessDenied(
            f"the hub has no repository {repository}, or it is private",
            hint="Check the name; for a private one set HF_TOKEN to a token that may read it.",
        ) from error
    except _errors.RevisionNotFoundError as error:
        raise RevisionUnknown(f"{repository} has no revision {revision}", hint="Check what follows the @.") from error
    except _errors.RemoteEntryNotFoundError as error:
        raise ModelDownloadFailed(f"{repository}: the hub no longer has a file that it listed") from error
    except _errors.OfflineModeIsEnabled as error:
        raise ModelUnavailable(
            f"{repository} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it"
        ) from error
    except _errors.HFValidationError as error:
        raise ModelUnavailable(f"{repository} is not the id of a hub repository") from error
    except _errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise ModelAccessDenied(
                f"the hub does not give {repository} to this token: it answered {status}"
            ) from error
        raise ModelDownloadFailed(f"{repository}: the hub answered {status}") from error
    except _errors.HTTPError as error:
        raise ModelDownloadFailed(
            f"{repository}: the hub cannot be reached: {first_line(error)}",
            hint="Check the network of this machine, or put the files there by hand and name them in SDSTREAM_MODELS.",
        ) from error


__all__ = ["Listing", "Progress", "RevisionUnknown", "fetch_files", "is_offline", "list_repository", "only_one"]
