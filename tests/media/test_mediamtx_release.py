"""MediaMTX's releases: names, checksums, and what is read out of an archive that may be hostile."""

import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest

from sdstream.install_errors import ArchiveUnusable, ChecksumMissing, PlatformUnsupported
from sdstream.media.mediamtx import archive as archive_module
from sdstream.media.mediamtx.archive import read_program
from sdstream.media.mediamtx.release import promised_hash, release_for
from tests.support.releases import packed, plain

ONE, TWO = "0123456789abcdef" * 4, "fedcba9876543210" * 4
NAME = "mediamtx_v1.20.1_linux_amd64.tar.gz"


@pytest.mark.parametrize(
    ("system", "machine", "archive", "program"),
    [
        ("Linux", "x86_64", "mediamtx_v1.20.1_linux_amd64.tar.gz", "mediamtx"),
        ("Linux", "aarch64", "mediamtx_v1.20.1_linux_arm64.tar.gz", "mediamtx"),
        ("Linux", "armv7l", "mediamtx_v1.20.1_linux_armv7.tar.gz", "mediamtx"),
        ("Linux", "armv6l", "mediamtx_v1.20.1_linux_armv6.tar.gz", "mediamtx"),
        ("Darwin", "arm64", "mediamtx_v1.20.1_darwin_arm64.tar.gz", "mediamtx"),
        ("Darwin", "x86_64", "mediamtx_v1.20.1_darwin_amd64.tar.gz", "mediamtx"),
        ("Windows", "AMD64", "mediamtx_v1.20.1_windows_amd64.zip", "mediamtx.exe"),
    ],
)
def test_files_are_named_as_the_project_names_them(system: str, machine: str, archive: str, program: str) -> None:
    release = release_for(system, machine, "1.20.1")
    assert (release.archive, release.program) == (archive, program)
    assert release.folder == "https://github.com/bluenviron/mediamtx/releases/download/v1.20.1"


@pytest.mark.parametrize(
    ("system", "machine"),
    [("Linux", "riscv64"), ("Windows", "ARM64"), ("FreeBSD", "amd64"), ("Darwin", "armv7l"), ("", "")],
)
def test_a_platform_without_a_release_is_told_with_those_that_have_one(system: str, machine: str) -> None:
    with pytest.raises(PlatformUnsupported, match="linux amd64, linux arm64") as caught:
        release_for(system, machine)
    assert system in caught.value.message


@pytest.mark.parametrize("between", [" *", "  "])
def test_the_checksum_is_that_of_the_file(between: str) -> None:
    text = f"{TWO}{between}x{NAME}\n{ONE.upper()}{between}{NAME}\r\n{TWO}{between}{NAME}.sig\n"
    assert promised_hash(text, NAME) == ONE


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no line"),
        (f"{ONE[:-1]} *{NAME}\n", "no line"),
        (f"{ONE} *other.tar.gz\n", "no line"),
        ("<html>\n", "no line"),
        (f"{ONE} *{NAME}\n{TWO} *{NAME}\n", "more than one line"),
    ],
)
def test_no_checksum_or_two_are_refused(text: str, said: str) -> None:
    with pytest.raises(ChecksumMissing, match=said):
        promised_hash(text, NAME)


# Archives


def read(folder: Path, content: bytes, name: str = "mediamtx") -> bytes:
    archive = folder / "archive"
    archive.write_bytes(content)
    return b"".join(read_program(archive, name))


def zipped(*members: tuple[zipfile.ZipInfo, bytes]) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for member, content in members:
            archive.writestr(member, content)
    return made.getvalue()


def other(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member, b""


@pytest.mark.parametrize("name", ["mediamtx", "./mediamtx"])
def test_only_the_program_is_read_out_of_a_tar(name: str, tmp_path: Path) -> None:
    content = packed(plain("mediamtx.yml", b"settings"), plain(name, b"program" * 500_000), plain("LICENSE", b"MIT"))
    assert read(tmp_path, content) == b"program" * 500_000
    assert [file.name for file in tmp_path.iterdir()] == ["archive"]


def test_only_the_program_is_read_out_of_a_zip(tmp_path: Path) -> None:
    content = zipped((zipfile.ZipInfo("mediamtx.yml"), b"settings"), (zipfile.ZipInfo("mediamtx.exe"), b"program"))
    assert read(tmp_path, content, "mediamtx.exe") == b"program"
    assert [file.name for file in tmp_path.iterdir()] == ["archive"]


@pytest.mark.parametrize(
    "member",
    [
        other("mediamtx", tarfile.DIRTYPE),
        other("mediamtx", tarfile.SYMTYPE, "/bin/sh"),
        other("mediamtx", tarfile.LNKTYPE, "mediamtx.yml"),
        other("mediamtx", tarfile.CHRTYPE),
        other("mediamtx", tarfile.FIFOTYPE),
    ],
    ids=["directory", "symbolic link", "hard link", "device", "fifo"],
)
def test_what_is_no_plain_file_is_no_program(member: tuple[tarfile.TarInfo, bytes], tmp_path: Path) -> None:
    with pytest.raises(ArchiveUnusable, match="mediamtx is not one plain file"):
        read(tmp_path, packed(plain("mediamtx.yml", b"settings"), member))


@pytest.mark.parametrize("name", ["../mediamtx", "/mediamtx", "bin/mediamtx", "mediamtx/x", "MEDIAMTX"])
def test_a_file_at_another_place_is_no_program(name: str, tmp_path: Path) -> None:
    with pytest.raises(ArchiveUnusable, match="has no mediamtx"):
        read(tmp_path, packed(plain(name, b"program")))
    with pytest.raises(ArchiveUnusable, match="has no mediamtx"):
        read(tmp_path, zipped((zipfile.ZipInfo(name), b"program")))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_link_a_directory_or_two_programs_in_a_zip_are_refused(tmp_path: Path) -> None:
    link, folder, good = (zipfile.ZipInfo(name) for name in ("mediamtx.exe", "mediamtx.exe/", "mediamtx.exe"))
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    for content in (zipped((link, b"/bin/sh")), zipped((folder, b"")), zipped((good, b"a"), (good, b"b"))):
        with pytest.raises(ArchiveUnusable, match=r"mediamtx\.exe is not one plain file"):
            read(tmp_path, content, "mediamtx.exe")


@pytest.mark.parametrize("cut", [0, 1, 12, 60, -20])
def test_a_damaged_archive_is_told_as_one(cut: int, tmp_path: Path) -> None:
    content = packed(plain("mediamtx", bytes(range(256)) * 100))
    with pytest.raises(ArchiveUnusable, match="the archive"):
        read(tmp_path, content[:cut])
    with pytest.raises(ArchiveUnusable, match="the archive is damaged"):
        read(tmp_path, b"PK" + content)


@pytest.mark.parametrize("before", [(), (plain("other", bytes(4 * 2**20)),)], ids=["the program", "what is before it"])
def test_what_unpacks_to_more_than_a_program_has_is_given_up(
    before: tuple[tuple[tarfile.TarInfo, bytes], ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = packed(*before, plain("mediamtx", bytes(4 * 2**20)))
    assert len(content) < 2**16
    assert len(read(tmp_path, content)) == 4 * 2**20
    monkeypatch.setattr(archive_module, "MOST_BYTES", 2 * 2**20)
    with pytest.raises(ArchiveUnusable, match="unpacks to more than 2 MiB"):
        read(tmp_path, content)
    with pytest.raises(ArchiveUnusable, match="unpacks to more than 2 MiB"):
        read(tmp_path, zipped((zipfile.ZipInfo("mediamtx"), bytes(4 * 2**20))))
