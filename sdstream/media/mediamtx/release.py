"""MediaMTX's releases: which one sdstream is made for, what its files are called, and what its checksums promise."""

import re
from dataclasses import dataclass

from sdstream.install_errors import ChecksumMissing, PlatformUnsupported

VERSION = "1.20.1"
"""The release that this version of sdstream is made for; the image has the same."""
DOWNLOADS = "https://github.com/bluenviron/mediamtx/releases/download"
CHECKSUMS = "checksums.sha256"

_PROCESSORS = {
    "x86_64": "amd64",
    "amd64": "amd64",
    "aarch64": "arm64",
    "arm64": "arm64",
    "armv8l": "armv7",  # a 64-bit processor that runs a 32-bit system
    "armv7l": "armv7",
    "armv6l": "armv6",
}
_BUILT = {
    "linux": ("amd64", "arm64", "armv7", "armv6"),
    "darwin": ("amd64", "arm64"),
    "windows": ("amd64",),
}


@dataclass(frozen=True, slots=True)
class Release:
    """One version, such as `1.20.1`, built for one system and processor, in the words that its files are named by."""

    version: str
    system: str
    processor: str

    @property
    def folder(self) -> str:
        """The URL of the folder that has its files."""
        return f"{DOWNLOADS}/v{self.version}"

    @property
    def archive(self) -> str:
        """The name of the file that the program is packed in."""
        ending = "zip" if self.system == "windows" else "tar.gz"
        return f"mediamtx_v{self.version}_{self.system}_{self.processor}.{ending}"

    @property
    def program(self) -> str:
        """The name of the program, in the archive and where it is put."""
        return "mediamtx.exe" if self.system == "windows" else "mediamtx"


def release_for(system: str, machine: str, version: str = VERSION) -> Release:
    """The release for `platform.system()` and `platform.machine()`. Raises `PlatformUnsupported` where none is made."""
    processor = _PROCESSORS.get(machine.lower(), "")
    if processor not in _BUILT.get(system.lower(), ()):
        known = ", ".join(f"{name} {processor}" for name, processors in _BUILT.items() for processor in processors)
        raise PlatformUnsupported(
            f"MediaMTX has no release for {system or 'this system'} on {machine or 'this processor'}: it has {known}"
        )
    return Release(version, system.lower(), processor)


def promised_hash(checksums: str, name: str) -> str:
    """The SHA-256, in lower-case hexadecimal, that the text of a release's checksums has for the file `name`.

    Raises `ChecksumMissing` when there is none, or two that differ.
    """
    lines = (re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line.rstrip()) for line in checksums.splitlines())
    found = {line[1].lower() for line in lines if line is not None and line[2] == name}
    if len(found) != 1:
        raise ChecksumMissing(f"{CHECKSUMS} has {'more than one line' if found else 'no line'} for {name}")
    return found.pop()


__all__ = ["CHECKSUMS", "DOWNLOADS", "VERSION", "Release", "promised_hash", "release_for"]
