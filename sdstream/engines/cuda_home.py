"""CUDA's headers and the driver's library, where torch's compiler of packages for a GPU looks for them.

torch wants a developer's installation of CUDA in one directory, `CUDA_HOME`. Machines that only run have none: NVIDIA's
images for running and torch's own wheels leave headers out, and the driver's library goes by a name that no linker
looks for. So a directory of links is made, to the headers of NVIDIA's wheels (or of an installed CUDA) and to the
driver that is loaded.
"""

import hashlib
import importlib.util
import os
import shutil
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sdstream.engine_errors import EngineBackendUnavailable, EngineStoreUnavailable
from sdstream.platform.libraries import mapped_files

HEADERS = ("cuda.h", "cuda_runtime.h", "cuda_fp8.h", "crt/host_config.h", "nv/target")
"""One of each part that torch's header for packages includes, itself or by another one: the driver's interface, the
runtime's, its types of numbers, what NVIDIA's compiler shares with others, CCCL."""
DRIVER = "libcuda.so"


@contextmanager
def cuda_home() -> Generator[Path]:
    """Within it torch compiles for the GPU by what it yields, the directory that stands for `CUDA_HOME`.

    It lies beside what torch keeps of its compilations, where it is found unchanged the next time. Raises
    `EngineBackendUnavailable` where headers or the driver's library are not to be found. Not for two threads at once.
    """
    # Both take seconds to import, and only who compiles needs them.
    from torch._inductor.runtime.cache_dir_utils import cache_dir
    from torch.utils import cpp_extension

    release = int((torch.version.cuda or "0").partition(".")[0])
    installed = cpp_extension.CUDA_HOME
    include = find_headers(release, wheel_directories(), None if installed is None else Path(installed))
    home = make_home(Path(cache_dir()), include, driver_library())
    namespace: Any = cpp_extension
    namespace.CUDA_HOME = str(home)
    try:
        yield home
    finally:
        namespace.CUDA_HOME = installed


def find_headers(release: int, wheels: Iterable[Path], installed: Path | None) -> tuple[Path, ...]:
    """The directories that have all of `HEADERS` together, for CUDA `release` (13).

    `wheels` are directories `nvidia` of installed wheels, whose headers are those of torch's own release, so they come
    first. `installed` is a CUDA on this machine, taken if it is of that release. Raises
    `EngineBackendUnavailable`.
    """
    names = (f"cu{release}",) if release >= 13 else ("cuda_runtime", "cuda_nvcc", "cuda_cccl")
    found = tuple(path for root in wheels for name in names if (path := root / name / "include").is_dir())
    missing = missing_headers(found)
    if not missing:
        return found
    if installed is not None and not missing_headers([installed / "include"]) and is_of_release(installed, release):
        return (installed / "include",)
    hint = (
        "pip install -c constraints.txt -e '.[bake]' in sdstream's directory"
        if release >= 13
        else f"pip install 'nvidia-cuda-nvcc-cu{release}' 'nvidia-cuda-cccl-cu{release}', of torch's own CUDA version"
    )
    raise EngineBackendUnavailable(
        f"packages for a GPU need the headers of CUDA {release}, and {missing[0]} is not here", hint=hint
    )


def missing_headers(directories: Sequence[Path]) -> list[str]:
    """Those of `HEADERS` that none of the directories has."""
    return [name for name in HEADERS if not any((directory / name).is_file() for directory in directories)]


def is_of_release(installed: Path, release: int) -> bool:
    """Whether an installed CUDA's own header says that it is of this major version."""
    text = (installed / "include" / "cuda.h").read_text("utf-8", errors="replace")
    return f"#define CUDA_VERSION {release}" in " ".join(text.split())


def wheel_directories() -> list[Path]:
    """The directories `nvidia` that wheels of NVIDIA's were installed into."""
    spec = importlib.util.find_spec("nvidia")
    return [] if spec is None else [Path(place) for place in spec.submodule_search_locations or ()]


def driver_library(maps: str | None = None) -> Path:
    """The file of the driver's library that this process has loaded, by the kernel's list of what is mapped (`maps`).

    Loaded it is, since CUDA was used before anything is compiled for it. Raises `EngineBackendUnavailable`.
    """
    for line in (mapped_files() if maps is None else maps).splitlines():
        _, slash, path = line.partition("/")
        if slash and path.rpartition("/")[2].startswith(DRIVER):
            return Path(slash + path)
    raise EngineBackendUnavailable("packages for a GPU need the driver's library, and CUDA is not in use here")


def make_home(within: Path, include: Sequence[Path], driver: Path) -> Path:
    """A directory in `within` that has the entries of all `include` directories in one, and the driver's library by the
    name that linkers look for.

    Its name tells what is linked; one that has lost links, as systems clean up such places, is made anew. It is made
    beside its place and renamed into it, as other processes may look for it at the same time. Raises
    `EngineStoreUnavailable`.
    """
    links = {f"include/{entry.name}": entry for directory in reversed(include) for entry in directory.iterdir()}
    links[f"lib64/{DRIVER}"] = driver
    told = "\n".join(f"{name} {entry}" for name, entry in sorted(links.items()))
    home = within / f"sdstream-cuda-{hashlib.sha256(told.encode()).hexdigest()[:16]}"
    if all((home / name).is_symlink() for name in links):
        return home
    fresh = within / f"{home.name}-{os.getpid()}"
    for left in (home, fresh):  # the second by a process of the same number that was ended
        shutil.rmtree(left, ignore_errors=True)
    try:
        for name, entry in links.items():
            (fresh / name).parent.mkdir(parents=True, exist_ok=True)
            (fresh / name).symlink_to(entry)
        fresh.rename(home)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        if not home.is_dir():  # else another process was quicker
            raise EngineStoreUnavailable(f"{within}: {error.strerror or error}") from error
    return home


__all__ = [
    "HEADERS",
    "cuda_home",
    "driver_library",
    "find_headers",
    "make_home",
    "missing_headers",
    "wheel_directories",
]
