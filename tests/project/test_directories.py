"""Which data directory is taken, and what is said when it cannot be used."""

import errno
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from sdstream import directories
from sdstream.directories import SUBDIRECTORIES, choose_data_directory, local_engines, prove_writable
from sdstream.errors import ConfigurationError
from sdstream.settings import Settings

VOLUMES = (Path("/first"), Path("/second"))


def choose(settings: Settings, *writable: str) -> Path:
    return choose_data_directory(
        settings, volumes=VOLUMES, is_writable=lambda path: str(path) in writable, user_directory=Path("/home/data")
    ).path


def test_the_setting_comes_first() -> None:
    assert choose(Settings(data_dir=Path("/mine")), "/first") == Path("/mine")


def test_then_a_writable_volume_in_a_folder_of_its_own() -> None:
    assert choose(Settings(), "/first", "/second") == Path("/first/sdstream")
    assert choose(Settings(), "/second") == Path("/second/sdstream")


def test_a_volume_of_another_user_is_taken_when_our_place_on_it_is_writable() -> None:
    assert choose(Settings(), "/second/sdstream") == Path("/second/sdstream")


def test_then_the_users_own() -> None:
    assert choose(Settings()) == Path("/home/data")


def test_a_home_directory_that_nobody_has_is_told() -> None:
    with pytest.raises(ConfigurationError, match="home directory that is not known here"):
        choose_data_directory(Settings(data_dir=Path("~nobody-of-this-name/data"))).prepare()


def test_a_user_without_a_home_directory_is_told_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    def find(name: str, *, appauthor: bool) -> Path:
        raise RuntimeError("could not determine the home directory")

    for function in ("user_data_path", "user_cache_path"):
        monkeypatch.setattr(directories.platformdirs, function, find)
    with pytest.raises(ConfigurationError, match="no home directory"):
        choose_data_directory(Settings(), is_writable=lambda path: False)
    with pytest.raises(ConfigurationError, match="no home directory"):
        local_engines(Settings())


def test_engines_on_the_local_disk_may_be_under_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ann")
    assert local_engines(Settings(engine_local_dir=Path("~/engines"))) == Path("/home/ann/engines")


def test_choosing_makes_nothing(tmp_path: Path) -> None:
    choose_data_directory(Settings(data_dir=tmp_path / "new"))
    assert not (tmp_path / "new").exists()


def test_preparing_makes_every_part_for_this_user_only(tmp_path: Path) -> None:
    path = choose_data_directory(Settings(data_dir=tmp_path / "new")).prepare()
    assert sorted(entry.name for entry in path.iterdir()) == sorted(SUBDIRECTORIES)
    if os.name == "posix":
        assert path.stat().st_mode & 0o077 == 0


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="file/data cannot be used"):
        choose_data_directory(Settings(data_dir=tmp_path / "file" / "data")).prepare()


def test_a_file_in_the_place_of_a_part_is_named(tmp_path: Path) -> None:
    (tmp_path / "models").write_text("")
    with pytest.raises(ConfigurationError, match=r"cannot be used: .*\(.*models\)"):
        choose_data_directory(Settings(data_dir=tmp_path)).prepare()


def test_a_full_disk_is_told_before_anything_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=10 * 2**20)
    monkeypatch.setattr(directories.shutil, "disk_usage", lambda _path: usage)
    with pytest.raises(ConfigurationError, match="10 MiB free"):
        choose_data_directory(Settings(data_dir=tmp_path / "new" / "data")).prepare()
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(directories.os, "write", full)
    with pytest.raises(OSError, match="No space"):
        prove_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []
