"""The data directory: which one is taken, why, and whether it can be written.

    SDSTREAM_DATA_DIR, else a writable /runpod-volume or /workspace, else the user's data directory

It holds `models/ engines/ loras/ trials/ kernels/ recordings/ bin/ state.sqlite keys.json`. Streams and keys must
outlive a clean-up of caches, so the last resort is the user's data directory and not the cache directory.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from sdstream.errors import ConfigurationError
from sdstream.settings import Settings

SUBDIRECTORIES = ("models", "engines", "loras", "recordings")
NETWORK_VOLUMES = (Path("/runpod-volume"), Path("/workspace"))
"""Where RunPod mounts a volume: on serverless workers and on pods."""

LEAST_FREE_BYTES = 64 * 1024 * 1024
"""Below this the server does not start: SQLite and its journal could fail at any write."""


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """A directory and the reason it was taken, for people."""

    path: Path
    reason: str

    @property
    def absolute_path(self) -> Path:
        """Without `~`, and whatever the working directory will be.

        Raises `ConfigurationError` for the home directory of a user who has none or is not known here.
        """
        return _without_tilde(self.path, "data_dir")

    def prepare(self) -> Path:
        """Make the directory and its parts, and prove that it can be written.

        Returns the absolute path. Raises `ConfigurationError` when it cannot be made or written, or is nearly full.
        """
        path = self.absolute_path
        try:
            self._refuse_full_disk(path)
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
            for name in SUBDIRECTORIES:
                (path / name).mkdir(exist_ok=True)
            prove_writable(path)
        except OSError as error:
            place = "" if error.filename in (None, str(path)) else f" ({error.filename})"
            raise ConfigurationError(
                f"the data directory {path} cannot be used: {error.strerror or error}{place}",
                hint="Set SDSTREAM_DATA_DIR to a directory that can be written.",
            ) from None
        return path

    @staticmethod
    def _refuse_full_disk(path: Path) -> None:
        total, _, free = shutil.disk_usage(next(place for place in (path, *path.parents) if place.exists()))
        if total and free < LEAST_FREE_BYTES:  # what is no disk, such as /proc, has no room to tell
            least = LEAST_FREE_BYTES // 2**20
            raise ConfigurationError(
                f"the data directory {path} has {free // 2**20} MiB free; at least {least} are needed",
                hint="Free some space, or set SDSTREAM_DATA_DIR to a directory on another disk.",
            )


@dataclass(frozen=True, slots=True)
class ModelPlaces:
    """Where models and LoRAs are looked for and put, and whether they may be fetched; fetched is only into a place."""

    models: Path | None = None
    loras: Path | None = None
    offline: bool = False
    full_vae: bool = False
    """A model's own VAE is wanted, not the small one."""
    shipped_pins: bool = False
    """What is fetched is held to the pins that sdstream ships, too. Settings have it on."""

    @classmethod
    def from_settings(cls, settings: Settings) -> "ModelPlaces":
        """The data directory's `models` and `loras`; nothing is made."""
        path = choose_data_directory(settings).absolute_path
        return cls(path / "models", path / "loras", settings.offline, settings.full_vae, settings.shipped_pins)


def choose_data_directory(
    settings: Settings,
    *,
    volumes: Sequence[Path] = NETWORK_VOLUMES,
    is_writable: Callable[[Path], bool] | None = None,
    user_directory: Path | None = None,
) -> DataDirectory:
    """Decide where data is kept; nothing is made or written."""
    if settings.data_dir is not None:
        return DataDirectory(settings.data_dir, "the setting data_dir names it")
    writable = is_writable or looks_writable
    for volume in volumes:
        # A volume may belong to root and only our place on it to this user, as the image's entrypoint arranges.
        if writable(volume / "sdstream") or writable(volume):
            return DataDirectory(volume / "sdstream", f"{volume} is there and writable")
    directory = user_directory or _own_directory(platformdirs.user_data_path)
    return DataDirectory(directory, "no directory was set, so the user's data directory")


def local_engines(settings: Settings) -> Path:
    """Where engines are on the local disk, absolute.

    Raises `ConfigurationError` where that would be in a home directory that nobody has.
    """
    if settings.engine_local_dir is not None:
        return _without_tilde(settings.engine_local_dir, "engine_local_dir")
    return _own_directory(platformdirs.user_cache_path) / "engines"


def _without_tilde(path: Path, setting: str) -> Path:
    try:
        return path.expanduser().absolute()
    except RuntimeError:
        raise ConfigurationError(
            f"{setting}: {path} is in a home directory that is not known here",
            hint=f"Set SDSTREAM_{setting.upper()} to a path without ~.",
        ) from None


def _own_directory(find: Callable[..., Path]) -> Path:
    """A directory of this user for sdstream; `find` is one of `platformdirs`' functions."""
    try:
        return find("sdstream", appauthor=False)
    except RuntimeError:
        raise ConfigurationError(
            "this user has no home directory",
            hint="Set HOME, or SDSTREAM_DATA_DIR and SDSTREAM_ENGINE_LOCAL_DIR.",
        ) from None


def home_expanded(path: str | Path) -> Path:
    """`path` with the home directory in the place of its `~`; as it is where that is not known, such as for a user that
    the system has no name for."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def looks_writable(directory: Path) -> bool:
    """Whether this user may make files in `directory`; false when it is not there."""
    return directory.is_dir() and os.access(directory, os.W_OK | os.X_OK)


def prove_writable(directory: Path) -> None:
    """Write, flush and remove a small file; raises `OSError` on a read-only or full disk."""
    handle, name = tempfile.mkstemp(prefix=".write-test-", dir=directory)
    try:
        os.write(handle, bytes(65536))
        os.fsync(handle)
    finally:
        os.close(handle)
        os.unlink(name)


__all__ = [
    "LEAST_FREE_BYTES",
    "NETWORK_VOLUMES",
    "SUBDIRECTORIES",
    "DataDirectory",
    "ModelPlaces",
    "choose_data_directory",
    "local_engines",
    "looks_writable",
    "prove_writable",
]
