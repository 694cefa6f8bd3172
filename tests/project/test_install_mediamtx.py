"""`sdstream install-mediamtx` against a made-up release on loopback."""

import errno
import hashlib
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdstream import transfers
from sdstream.cli import EXIT_FAILED, EXIT_USAGE, run
from sdstream.commands import installing
from sdstream.commands.installing import Installed, install_release, source_of
from sdstream.errors import ConfigurationError
from sdstream.install_errors import (
    ArchiveUnusable,
    ChecksumDiffers,
    ChecksumMissing,
    InstallDiskFull,
    InstallFailed,
    ProgramUnusable,
    ReleaseNotFound,
)
from sdstream.media.mediamtx.process import find_program
from sdstream.media.mediamtx.release import CHECKSUMS, VERSION
from sdstream.settings import Settings
from tests.project.commands import environment, sdstream
from tests.support.releases import RELEASE, ReleaseServer, packed, plain, program

OLD = program("v1.20.0")
pytestmark = pytest.mark.skipif(os.name == "nt", reason="the program of the made-up release is a shell script")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ReleaseServer]:
    monkeypatch.setattr(transfers, "PAUSE_SECONDS", 0.0)
    with ReleaseServer().run() as made:
        yield made


def quiet(detail: str, percent: float | None) -> None:
    pass


def install(
    server: ReleaseServer,
    data: Path,
    *,
    sha256: str | None = None,
    force: bool = False,
    progress: Any = quiet,
    **given: Any,
) -> Installed:
    settings, source = Settings(data_dir=data, **given), source_of(RELEASE, server.url)
    return install_release(settings, RELEASE, source, sha256=sha256, force=force, progress=progress)


def put_old(data: Path) -> Path:
    """A program of an older version, where the new one is to be put."""
    target = data / "bin/mediamtx"
    target.parent.mkdir(parents=True)
    target.write_bytes(OLD)
    target.chmod(0o755)
    return target


def left_behind(data: Path) -> set[str]:
    """All files below `bin` but the lock."""
    files = (file.relative_to(data / "bin") for file in (data / "bin").rglob("*") if file.is_file())
    return {file.as_posix() for file in files} - {".install/lock"}


def test_the_program_is_put_where_serve_finds_it(
    server: ReleaseServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[tuple[str, float | None]] = []
    found = install(server, tmp_path, progress=lambda detail, percent: told.append((detail, percent)))
    assert found == Installed(tmp_path / "bin/mediamtx", f"v{VERSION}", fetched=True)
    assert found.path.read_bytes() == program()
    assert os.access(found.path, os.X_OK)
    assert left_behind(tmp_path) == {"mediamtx"}
    assert (f"downloading {RELEASE.archive}", 100.0) in told
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert find_program(Settings(data_dir=tmp_path), {}).path == found.path


def test_one_that_is_there_is_not_fetched_again_unless_it_is_forced(server: ReleaseServer, tmp_path: Path) -> None:
    install(server, tmp_path)
    server.asked.clear()
    assert not install(server, tmp_path, offline=True).fetched, "what is here is had offline, too"
    assert server.asked == []
    assert install(server, tmp_path, force=True).fetched
    assert server.names == [CHECKSUMS, RELEASE.archive]


def test_a_digest_from_elsewhere_counts_and_what_the_server_says_of_itself_does_not(
    server: ReleaseServer, tmp_path: Path
) -> None:
    trusted = hashlib.sha256(server.files[RELEASE.archive]).hexdigest()
    server.put(packed(plain("mediamtx", program(f"v{VERSION} of somebody"))))  # with the checksums to it
    with pytest.raises(ChecksumDiffers, match=f"--sha256 has {trusted}"):
        install(server, tmp_path, sha256=trusted)
    assert left_behind(tmp_path) == set()
    assert server.names == [RELEASE.archive]
    forged = hashlib.sha256(server.files[RELEASE.archive]).hexdigest()
    assert install(server, tmp_path, sha256=forged).fetched


@pytest.mark.parametrize("there", [OLD, program("v2.0.0"), b"no program"])
def test_another_version_or_a_broken_one_is_replaced(there: bytes, server: ReleaseServer, tmp_path: Path) -> None:
    put_old(tmp_path).write_bytes(there)
    assert install(server, tmp_path).path.read_bytes() == program()


def test_a_download_that_breaks_off_goes_on_in_the_same_call(server: ReleaseServer, tmp_path: Path) -> None:
    server.cuts = [50, 60]
    install(server, tmp_path)
    assert server.asked[1:] == [(RELEASE.archive, bytes) for bytes in (None, "bytes=50-", "bytes=110-")]


def test_and_in_a_later_call(server: ReleaseServer, tmp_path: Path) -> None:
    server.cuts = [50, *[0] * transfers.ATTEMPTS]
    with pytest.raises(InstallFailed, match="cannot be fetched") as caught:
        install(server, tmp_path)
    assert "what has come is kept" in caught.value.hint
    assert not (tmp_path / "bin/mediamtx").exists()
    server.cuts = []
    server.asked.clear()
    install(server, tmp_path)
    assert server.asked == [(CHECKSUMS, None), (RELEASE.archive, "bytes=50-")]
    assert left_behind(tmp_path) == {"mediamtx"}


def test_ctrl_c_keeps_what_has_come_and_installs_nothing(server: ReleaseServer, tmp_path: Path) -> None:
    def interrupt(detail: str, percent: float | None) -> None:
        if detail == f"downloading {RELEASE.archive}" and percent is None:  # between two tries
            raise KeyboardInterrupt

    server.cuts = [50]
    with pytest.raises(KeyboardInterrupt):
        install(server, tmp_path, progress=interrupt)
    assert not (tmp_path / "bin/mediamtx").exists()
    install(server, tmp_path)
    assert server.asked[-1] == (RELEASE.archive, "bytes=50-")


def test_another_archive_in_its_place_is_fetched_from_its_beginning(server: ReleaseServer, tmp_path: Path) -> None:
    server.cuts = [50, *[0] * transfers.ATTEMPTS]
    with pytest.raises(InstallFailed):
        install(server, tmp_path)
    server.cuts = []
    server.put(packed(plain("mediamtx", program(f"v{VERSION} again"))))
    assert install(server, tmp_path).version == f"v{VERSION} again"


# What goes wrong changes nothing


def without_checksum(server: ReleaseServer) -> None:
    server.files[CHECKSUMS] = server.files[CHECKSUMS].replace(RELEASE.archive.encode(), b"another")


def with_another_checksum(server: ReleaseServer) -> None:
    server.files[RELEASE.archive] = packed(plain("mediamtx", program("v1.20.1 of somebody")))


def without(name: str) -> Any:
    return lambda server: server.files.pop(name)


def with_program(content: bytes) -> Any:
    return lambda server: server.put(packed(plain("mediamtx", content)))


@pytest.mark.parametrize(
    ("spoil", "error", "said"),
    [
        (without(CHECKSUMS), ReleaseNotFound, f"v{VERSION}/{CHECKSUMS} is answered with 404"),
        (without(RELEASE.archive), ReleaseNotFound, f"{RELEASE.archive} is answered with 404"),
        (without_checksum, ChecksumMissing, f"no line for {RELEASE.archive}"),
        (with_another_checksum, ChecksumDiffers, f"{RELEASE.archive} came with the SHA-256 "),
        (lambda server: server.put(packed(plain("../mediamtx", program()))), ArchiveUnusable, "has no mediamtx"),
        (lambda server: server.put(b"no archive"), ArchiveUnusable, "the archive is damaged"),
        (with_program(b"\x7fELF of another processor"), ProgramUnusable, "cannot be run here"),
        (with_program(program("v1.19.3")), ProgramUnusable, r"it is v1\.19\.3, and 1\.20\.1 to 1\.x is needed"),
        (with_program(b"#!/bin/sh\nexit 3\n"), ProgramUnusable, "does not tell its version"),
    ],
    ids=["no checksums", "no archive", "no line", "other bytes", "hostile", "damaged", "not run", "older", "mute"],
)
def test_what_is_not_right_is_told_and_the_program_that_is_there_stays(
    spoil: Any, error: type[InstallFailed], said: str, server: ReleaseServer, tmp_path: Path
) -> None:
    target = put_old(tmp_path)
    spoil(server)
    with pytest.raises(error, match=said) as caught:
        install(server, tmp_path)
    assert type(caught.value) is error
    assert target.read_bytes() == OLD
    assert left_behind(tmp_path) == {"mediamtx"}
    assert [path.name for path in tmp_path.rglob("mediamtx")] == ["mediamtx"], "nothing lies at another place"


@pytest.mark.parametrize("moment", ["downloading", "unpacking"])
def test_a_full_disk_is_told_and_given_back_what_had_come(
    moment: str, server: ReleaseServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = OSError(errno.ENOSPC, "No space left on device")

    def unpack(archive: Path, name: str) -> Iterator[bytes]:
        yield b"the beginning"
        raise full

    def download(detail: str, percent: float | None) -> None:
        if moment == "downloading" and detail == f"downloading {RELEASE.archive}":
            raise full

    target = put_old(tmp_path)
    monkeypatch.setattr(installing, "read_program", unpack)
    with pytest.raises(InstallDiskFull, match="there is no room"):
        install(server, tmp_path, progress=download)
    assert left_behind(tmp_path) == {"mediamtx"}
    assert target.read_bytes() == OLD


def test_a_place_that_cannot_be_written_is_told_before_anything_is_asked(server: ReleaseServer, tmp_path: Path) -> None:
    (tmp_path / "bin").write_text("a file")
    with pytest.raises(ConfigurationError, match=f"{tmp_path / 'bin'} cannot be written"):
        install(server, tmp_path)
    with pytest.raises(ConfigurationError, match="cannot be used"):
        install(server, tmp_path / "bin/data")
    assert server.asked == []


def test_a_place_that_is_read_only_is_told_before_anything_is_asked(
    server: ReleaseServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(directory: Path) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(installing, "prove_writable", refuse)  # the tests may run as root, who writes anywhere
    with pytest.raises(ConfigurationError, match="bin cannot be written: Read-only"):
        install(server, tmp_path)
    assert server.asked == []


def test_a_directory_in_its_place_is_left_alone(server: ReleaseServer, tmp_path: Path) -> None:
    (tmp_path / "bin/mediamtx/mine").mkdir(parents=True)
    with pytest.raises(ConfigurationError, match="is a directory"):
        install(server, tmp_path)
    assert (tmp_path / "bin/mediamtx/mine").is_dir()
    assert server.asked == []


def test_nothing_is_fetched_offline(server: ReleaseServer, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="SDSTREAM_OFFLINE forbids") as caught:
        install(server, tmp_path / "data", offline=True)
    assert "MEDIAMTX_BIN" in caught.value.hint
    assert server.asked == []
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    "mirror",
    [
        "",
        "mirror.example/mediamtx",
        "http://mirror.example/mediamtx",
        "http://192.0.2.7/mediamtx",
        "ftp://mirror.example/mediamtx",
        "file:///srv/mediamtx",
        "https://mirror.example/mediamtx?token=x",
        "https://mirror.example:port/",
    ],
)
def test_a_mirror_is_https_or_on_this_machine(mirror: str) -> None:
    with pytest.raises(ConfigurationError, match="--from"):
        source_of(RELEASE, mirror)
    assert source_of(RELEASE, "https://mirror.example/mediamtx/").folder == "https://mirror.example/mediamtx"


def test_a_password_of_a_mirror_is_not_told(server: ReleaseServer, tmp_path: Path) -> None:
    source = source_of(RELEASE, server.url.replace("//", "//me:secret@"))
    server.files.clear()
    with pytest.raises(ReleaseNotFound) as caught:
        install_release(Settings(data_dir=tmp_path), RELEASE, source, force=False, progress=quiet)
    assert "secret" not in caught.value.message


# The command line


def test_the_whole_command(server: ReleaseServer, tmp_path: Path) -> None:
    data = tmp_path / "data"
    around = environment(data) | {"PATH": "/usr/bin:/bin"}
    around.pop("MEDIAMTX_BIN", None)
    first = sdstream("install-mediamtx", "--from", server.url, environment=around)
    assert (first.returncode, first.stdout) == (0, f"MediaMTX v{VERSION}: {data / 'bin/mediamtx'}\n"), first.stderr
    assert f"downloading {RELEASE.archive}" in first.stderr
    assert "To use it: SDSTREAM_MEDIA_BACKEND=mediamtx" in first.stderr
    again = sdstream("install-mediamtx", environment=around | {"MEDIAMTX_BIN": "/bin/sh"})
    assert (again.returncode, again.stdout) == (0, f"MediaMTX v{VERSION} is here already: {data / 'bin/mediamtx'}\n")
    assert "serve takes /bin/sh instead: MEDIAMTX_BIN names it" in again.stderr


@pytest.mark.parametrize(
    ("machine", "arguments", "code", "said"),
    [
        ("riscv64", [], EXIT_FAILED, "MediaMTX has no release for Linux on riscv64"),
        ("x86_64", ["--release", "1.19.3"], EXIT_USAGE, "--release: it is 1.19.3, and 1.20.1 to 1.x is needed"),
        ("x86_64", ["--release", "2.0.0"], EXIT_USAGE, "--release: it is 2.0.0"),
        ("x86_64", ["--release", "../1.20.1"], EXIT_USAGE, "--release: '../1.20.1' is not a version"),
        ("x86_64", ["--sha256", "abc"], EXIT_USAGE, "--sha256: 'abc' is not 64 hexadecimal digits"),
        ("x86_64", ["--from", "http://192.0.2.7/"], EXIT_USAGE, "--from: must be an https URL"),
        ("x86_64", ["--offline"], EXIT_USAGE, f"MediaMTX {VERSION} is not in "),
    ],
)
def test_what_cannot_be_had_is_told_and_nothing_is_made(
    machine: str,
    arguments: list[str],
    code: int,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert run(["install-mediamtx", "--data-dir", str(tmp_path / "data"), *arguments]) == code
    captured = capsys.readouterr()
    assert (captured.out, said in captured.err) == ("", True), captured.err
    assert not (tmp_path / "data").exists()
