"""The variables that the worker's process is started with."""

from pathlib import Path

import pytest

from sdstream.settings import Settings
from sdstream.worker.server_end.child import child_environment


def test_compiled_kernels_are_kept_with_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRITON_CACHE_DIR", raising=False)
    environment = child_environment(Settings(data_dir=tmp_path / "data"))
    assert environment["TRITON_CACHE_DIR"] == str(tmp_path / "data" / "kernels")


@pytest.mark.parametrize("name", ["TRITON_CACHE_DIR", "OMP_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_"])
def test_what_the_operator_has_set_stays(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "7")
    assert child_environment(Settings(data_dir=tmp_path))[name] == "7"
