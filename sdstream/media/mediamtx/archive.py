"""The archive of a release: one plain file is read out of it, and no path, link or mode in it is followed."""

import gzip
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from sdstream.install_errors import ArchiveUnusable

MOST_BYTES = 512 * 1024**2
"""Of the program, and of all that is unpacked on the way to it."""
BLOCK = 1024 * 1024


def read_program(archive: Path, name: str) -> Iterator[bytes]:
    """The bytes, in blocks, of the plain file `name` at the top of a `.zip` or, by its first bytes, a `.tar.gz`.

    Raises `ArchiveUnusable`: the archive is damaged, has no such file or something else of that name, or unpacks to
    more than `MOST_BYTES`.
    """
    try:
        with archive.open("rb") as file:
            is_zip = file.read(2) == b"PK"
        yield from (_read_zip if is_zip else _read_tar)(archive, name)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as error:
        raise ArchiveUnusable(f"the archive is damaged: {error or type(error).__name__}") from error


def _read_tar(archive: Path, name: str) -> Iterator[bytes]:
    with gzip.open(archive) as unpacked:
        bounded = cast("IO[bytes]", _Bounded(unpacked))
        with tarfile.open(fileobj=bounded, mode="r|") as members:
            for member in members:
                if member.name.removeprefix("./") != name:
                    continue
                content = members.extractfile(member) if member.isreg() else None
                if content is None:
                    raise _no_file(name)
                yield from _blocks(content)
                return
    raise _not_there(name)


def _read_zip(archive: Path, name: str) -> Iterator[bytes]:
    with zipfile.ZipFile(archive) as members:
        found = [member for member in members.infolist() if member.filename.rstrip("/") == name]
        if not found:
            raise _not_there(name)
        kind = stat.S_IFMT(found[0].external_attr >> 16)
        if len(found) > 1 or found[0].is_dir() or kind not in (0, stat.S_IFREG):
            raise _no_file(name)
        with members.open(found[0]) as content:
            yield from _blocks(_Bounded(content))


def _blocks(content: "IO[bytes] | _Bounded") -> Iterator[bytes]:
    while block := content.read(BLOCK):
        yield block


class _Bounded:
    """A stream that may give `MOST_BYTES` and no more: a few bytes can unpack to more than any disk holds."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._left = MOST_BYTES

    def read(self, size: int) -> bytes:
        block: bytes = self._stream.read(min(size, self._left + 1))
        self._left -= len(block)
        if self._left < 0:
            raise ArchiveUnusable(f"the archive unpacks to more than {MOST_BYTES // 2**20} MiB")
        return block


def _not_there(name: str) -> ArchiveUnusable:
    return ArchiveUnusable(f"the archive has no {name}")


def _no_file(name: str) -> ArchiveUnusable:
    return ArchiveUnusable(f"what the archive calls {name} is not one plain file")


__all__ = ["MOST_BYTES", "read_program"]
