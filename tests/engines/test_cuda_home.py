"""Where packages for a GPU are compiled by, on machines with no developer's installation of CUDA."""

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.utils import cpp_extension

from sdstream.engine_errors import EngineBackendUnavailable, EngineBuildFailed, EngineStoreUnavailable
from sdstream.engines import cuda_home as module
from sdstream.engines.compiled import compiling_for
from sdstream.engines.cuda_home import HEADERS, cuda_home, driver_library, find_headers, make_home, wheel_directories
from sdstream.platform import LINUX
from tests.engines.conftest import make_driver

MAPS = """\
55d0c2a00000-55d0c2a01000 r--p 00000000 08:01 131 /usr/bin/python3.12
7f10a0000000-7f10a0021000 rw-p 00000000 00:00 0 [heap]
7f10b0000000-7f10b0800000 r-xp 00000000 08:01 977 /usr/lib/x86_64-linux-gnu/libcudart.so.13
7f10c0000000-7f10c0800000 r-xp 00000000 08:01 978 /usr/lib/x86_64-linux-gnu/libcuda.so.580.159.04
"""


def put(directory: Path, *names: str, release: str = "13000") -> Path:
    """Empty headers of these names; `cuda.h` says of which release it is."""
    for name in names:
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(f"#define CUDA_VERSION   {release}\n" if name == "cuda.h" else "")
    return directory


def test_headers_are_those_of_the_wheels_first(tmp_path: Path) -> None:
    wheel = put(tmp_path / "nvidia/cu13/include", *HEADERS)
    installed = put(tmp_path / "cuda/include", *HEADERS).parent
    assert find_headers(13, [tmp_path / "nvidia"], installed) == (wheel,)


def test_cuda_12_has_its_headers_in_three_wheels(tmp_path: Path) -> None:
    put(tmp_path / "cuda_runtime/include", "cuda.h", "cuda_runtime.h", "cuda_fp8.h")
    put(tmp_path / "cuda_nvcc/include", "crt/host_config.h")
    put(tmp_path / "cuda_cccl/include", "nv/target")
    assert len(find_headers(12, [tmp_path], None)) == 3


def test_an_installed_cuda_stands_in_for_wheels_that_leave_headers_out(tmp_path: Path) -> None:
    put(tmp_path / "nvidia/cu13/include", *(name for name in HEADERS if name != "nv/target"))
    installed = put(tmp_path / "cuda/include", *HEADERS)
    assert find_headers(13, [tmp_path / "nvidia"], installed.parent) == (installed,)


def test_an_installed_cuda_of_another_release_is_not_taken(tmp_path: Path) -> None:
    installed = put(tmp_path / "cuda/include", *HEADERS, release="12060")
    with pytest.raises(EngineBackendUnavailable, match=r"headers of CUDA 13, and cuda\.h is not here"):
        find_headers(13, [], installed.parent)


@pytest.mark.parametrize("release", [12, 13])
def test_what_is_missing_is_named_with_what_brings_it(tmp_path: Path, release: int) -> None:
    """As in NVIDIA's images for running, which have the directory and nothing in it."""
    (tmp_path / "cuda").mkdir()
    with pytest.raises(EngineBackendUnavailable, match=r"cuda\.h is not here") as caught:
        find_headers(release, [], tmp_path / "cuda")
    assert caught.value.hint is not None
    assert "pip install" in caught.value.hint


def test_the_driver_is_the_file_that_is_loaded() -> None:
    assert driver_library(MAPS) == Path("/usr/lib/x86_64-linux-gnu/libcuda.so.580.159.04")


def test_a_process_without_cuda_has_no_driver() -> None:
    with pytest.raises(EngineBackendUnavailable, match="driver's library"):
        driver_library("\n".join(line for line in MAPS.splitlines() if "libcuda.so" not in line))


def test_a_home_has_all_headers_and_the_driver_by_the_linkers_name(tmp_path: Path) -> None:
    first = put(tmp_path / "first", "cuda.h")
    second = put(tmp_path / "second", "nv/target")
    home = make_home(tmp_path, [first, second], tmp_path / "libcuda.so.1")
    assert (home / "include/cuda.h").is_file()
    assert (home / "include/nv/target").is_file()
    assert os.readlink(home / "lib64/libcuda.so") == str(tmp_path / "libcuda.so.1")


def test_a_home_that_is_there_is_left_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    include = put(tmp_path / "include", "cuda.h")
    home = make_home(tmp_path, [include], tmp_path / "libcuda.so.1")
    monkeypatch.delattr(Path, "symlink_to")
    assert make_home(tmp_path, [include], tmp_path / "libcuda.so.1") == home


def test_a_home_that_was_half_cleaned_away_is_made_anew(tmp_path: Path) -> None:
    """Systems clean up the directory for temporary files, where torch keeps what it makes."""
    include = put(tmp_path / "include", "cuda.h")
    home = make_home(tmp_path, [include], tmp_path / "libcuda.so.1")
    (home / "include/cuda.h").unlink()
    assert make_home(tmp_path, [include], tmp_path / "libcuda.so.1") == home
    assert (home / "include/cuda.h").is_file()


def test_a_home_that_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    include = put(tmp_path / "include", "cuda.h")

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(EngineStoreUnavailable, match="No space left on device"):
        make_home(tmp_path, [include], tmp_path / "libcuda.so.1")


def test_another_driver_has_a_home_of_its_own(tmp_path: Path) -> None:
    include = put(tmp_path / "include", "cuda.h")
    homes = {make_home(tmp_path, [include], tmp_path / name) for name in ("libcuda.so.1", "libcuda.so.580")}
    assert len(homes) == 2


def test_a_process_that_was_quicker_is_right_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    include = put(tmp_path / "include", "cuda.h")
    rename = Path.rename

    def be_late(self: Path, target: Path) -> Path:
        shutil.copytree(self, target, symlinks=True)
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", be_late)
    home = make_home(tmp_path, [include], tmp_path / "libcuda.so.1")
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("sdstream-cuda")] == [home.name]


@pytest.fixture
def as_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Path]:
    """torch as one for CUDA 13, beside a driver that has been put where the returned function says."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    driver = tmp_path / "libcuda.so.1"
    monkeypatch.setattr(module, "driver_library", lambda: driver)
    return lambda: driver


@pytest.mark.usefixtures("as_on_a_gpu")
def test_torch_has_its_own_home_back_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpp_extension, "CUDA_HOME", "/usr/local/cuda")
    within: list[str | None] = []

    def fail() -> None:
        within.append(cpp_extension.CUDA_HOME)
        raise EngineBuildFailed("in the middle")

    with pytest.raises(EngineBuildFailed), cuda_home() as home:
        fail()
    assert within == [str(home)]
    assert cpp_extension.CUDA_HOME == "/usr/local/cuda"


@pytest.mark.skipif(not LINUX or shutil.which("g++") is None, reason="NVIDIA's wheels are for Linux, and it needs g++")
def test_torchs_header_for_packages_compiles_and_links(as_on_a_gpu: Callable[[], Path], tmp_path: Path) -> None:
    """With the options that torch itself compiles packages with, the wheels of the extra `bake`, and a library in the
    driver's place."""
    from torch._inductor import config
    from torch._inductor.cpp_builder import CppBuilder, CppTorchDeviceOptions

    assert wheel_directories()
    make_driver(as_on_a_gpu())
    source = tmp_path / "package.cpp"
    source.write_text(
        '#include <torch/csrc/inductor/aoti_include/cuda.h>\nextern "C" int start() { return int(cuInit(0)); }\n'
    )
    # torch's libraries for CUDA are not here, and are not asked for then.
    with compiling_for(torch.device("cuda")), config.patch({"aot_inductor.link_libtorch": False}):
        options = CppTorchDeviceOptions(device_type="cuda", aot_mode=True)
        builder = CppBuilder(name="package", sources=str(source), BuildOption=options, output_dir=str(tmp_path))
        builder.build()
    assert "-march=" not in builder.get_command_line(), "machines with other processors load it, too"
    assert b"libcuda.so.1" in Path(builder.get_target_file_path()).read_bytes()
