"""The errors of putting another program onto this machine. `sdstream.errors` draws the tree.

None of them changes a program that is here already.
"""

from sdstream.errors import CommandFailed


class InstallFailed(CommandFailed):
    """The program could not be fetched or put in its place: no network, a server that fails, a file in use."""

    code = "INSTALL/FAILED"
    hint = "Try again: what has come is kept, and the same command goes on from there."


class PlatformUnsupported(InstallFailed):
    """There is no release for this system or processor."""

    code = "INSTALL/PLATFORM_UNSUPPORTED"
    hint = "Build the program from its sources, and name it in MEDIAMTX_BIN."


class ReleaseNotFound(InstallFailed):
    """The server has no such release, or the release has not this file."""

    code = "INSTALL/RELEASE_NOT_FOUND"
    hint = "Check --release and --from: the folder must hold the archive and its checksums."


class ChecksumMissing(InstallFailed):
    """The release's checksums do not tell the one of the archive, so nothing of it is used."""

    code = "INSTALL/CHECKSUM_MISSING"
    hint = "Check --from: the folder must be that of the release."


class ChecksumDiffers(InstallFailed):
    """What came is not what the release's checksums promise; nothing of it was kept."""

    code = "INSTALL/CHECKSUM_DIFFERS"
    hint = "Try again; if it stays so, what the server gives is not the release: use it in no other way either."


class ArchiveUnusable(InstallFailed):
    """The archive is damaged, or the program is not in it as a plain file."""

    code = "INSTALL/ARCHIVE_UNUSABLE"
    hint = "Check --release and --from."


class ProgramUnusable(InstallFailed):
    """The program came as promised and does not run here, or is of a version that is not used."""

    code = "INSTALL/PROGRAM_UNUSABLE"
    hint = "A data directory on a file system that lets no programs run is a usual reason: see SDSTREAM_DATA_DIR."


class InstallDiskFull(InstallFailed):
    """There is no room for the archive or the program; what had come is gone again."""

    code = "INSTALL/DISK_FULL"
    hint = "Free some space, or set SDSTREAM_DATA_DIR to a directory on another disk."
