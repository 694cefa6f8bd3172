"""What NVIDIA's compiler made outlives its process, and what is damaged is as good as none."""

import os
from pathlib import Path
from typing import Any

import pytest

from sdstream.diffusion.convolving.hopper import kept
from sdstream.diffusion.convolving.hopper.kept import SUFFIX, VARIABLE, KeptBinaries, key_of

BINARY = b"\x7fELF" + bytes(range(256))


def test_what_one_process_kept_another_finds(tmp_path: Path) -> None:
    folder = tmp_path / "data/kernels"
    KeptBinaries(folder).put("a", BINARY)
    assert KeptBinaries(folder).get("a") == BINARY
    assert KeptBinaries(folder).get("b") is None
    assert [file.name for file in folder.iterdir()] == [f"a{SUFFIX}"], "nothing is left beside it"


@pytest.mark.parametrize("content", [b"", b"short", None], ids=["empty", "short", "cut"])
def test_a_damaged_file_is_none_and_is_replaced(tmp_path: Path, content: bytes | None) -> None:
    binaries, file = KeptBinaries(tmp_path), tmp_path / f"a{SUFFIX}"
    binaries.put("a", BINARY)
    file.write_bytes(file.read_bytes()[:-1] if content is None else content)
    assert binaries.get("a") is None
    binaries.put("a", BINARY)
    assert binaries.get("a") == BINARY


def test_a_changed_byte_is_seen(tmp_path: Path) -> None:
    binaries, file = KeptBinaries(tmp_path), tmp_path / f"a{SUFFIX}"
    binaries.put("a", BINARY)
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    assert binaries.get("a") is None


def test_a_disk_that_takes_nothing_is_no_failure_and_is_told_of_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept.os, "replace", full)
    binaries = KeptBinaries(tmp_path)
    with pytest.warns(RuntimeWarning, match="No space left"):
        binaries.put("a", BINARY)
    binaries.put("b", BINARY)  # a warning would be an error
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_no_failure(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    binaries = KeptBinaries(tmp_path / "file/kernels")
    assert binaries.get("a") is None
    with pytest.warns(RuntimeWarning, match="are not kept in"):
        binaries.put("a", BINARY)


def test_they_lie_where_triton_keeps_its_own_or_nowhere(tmp_path: Path) -> None:
    KeptBinaries.from_environment({VARIABLE: str(tmp_path)}).put("a", BINARY)
    assert os.listdir(tmp_path) == [f"a{SUFFIX}"]
    nowhere = KeptBinaries.from_environment({})
    nowhere.put("a", BINARY)
    assert nowhere.get("a") is None


def test_whatever_shapes_a_binary_is_in_its_key() -> None:
    assert len({key_of(parts) for parts in (("ab", "c"), ("a", "bc"), ("abc",), ("ab", "c", ""))}) == 4
    assert key_of(("ab", "c")) == key_of(["ab", "c"])
