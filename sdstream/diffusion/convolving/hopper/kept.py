"""What NVIDIA's compiler made, kept from process to process beside what Triton keeps.

A file holds the SHA-256 of a binary and the binary. It is named after the hash of all that the binary was made from.
One that does not hold what its hash says is as good as none: it is made anew. Processes may share a folder.
"""

import hashlib
import os
import tempfile
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path

VARIABLE = "TRITON_CACHE_DIR"
"""The worker has it from its parent: `kernels` of the data directory, or what the operator named."""
SUFFIX = ".hopper"
HASH_BYTES = hashlib.sha256().digest_size


class KeptBinaries:
    """A folder of binaries; without one nothing is kept. From any thread, and never a failure."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "KeptBinaries":
        """Where Triton keeps its own."""
        named = environment.get(VARIABLE)
        return cls(Path(named) if named else None)

    def get(self, key: str) -> bytes | None:
        """The binary, whole; None where there is none."""
        if self._folder is None:
            return None
        try:
            content = self._file(self._folder, key).read_bytes()
        except OSError:
            return None
        told, binary = content[:HASH_BYTES], content[HASH_BYTES:]
        return binary if hashlib.sha256(binary).digest() == told else None

    def put(self, key: str, binary: bytes) -> None:
        """Keep it. Where the disk does not let it be kept, that is said once and nothing more is kept."""
        folder = self._folder
        if folder is None:
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _replace(self._file(folder, key), hashlib.sha256(binary).digest() + binary)
        except OSError as error:
            is_first, self._folder = self._folder is not None, None  # a read-only or full volume, most likely
            if is_first:
                warnings.warn(f"compiled kernels are not kept in {folder}: {error}", RuntimeWarning, stacklevel=2)

    @staticmethod
    def _file(folder: Path, key: str) -> Path:
        return folder / f"{key}{SUFFIX}"


def key_of(parts: Iterable[str]) -> str:
    """The hash of what a binary is made from: the program, options, the compiler's version. Each part counts apart."""
    made = hashlib.sha256()
    for part in parts:
        text = part.encode()
        made.update(len(text).to_bytes(8, "little") + text)
    return made.hexdigest()


def _replace(file: Path, content: bytes) -> None:
    # Not flushed to the disk: a loss of power leaves a file that its hash gives away.
    handle, name = tempfile.mkstemp(prefix=f".{file.stem[:8]}-", suffix=SUFFIX, dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as target:
            target.write(content)
        os.replace(name, file)
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise


__all__ = ["SUFFIX", "VARIABLE", "KeptBinaries", "key_of"]
