"""TensorRT and TensorRT-RTX: two libraries with one Python interface. Found here, imported nowhere else."""

import importlib
import importlib.metadata
import importlib.util
import re
from collections import deque
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from sdstream.engine_errors import EngineBackendUnavailable
from sdstream.platform.libraries import preload_library

TensorrtName = Literal["tensorrt-rtx", "tensorrt"]

RTX_LIBRARY_PACKAGES = ("onnxruntime_ep_nv_tensorrt_rtx", "tensorrt_rtx_libs")
"""Where the shared libraries of TensorRT-RTX are; the first is on PyPI, made for ONNX Runtime."""
RTX_LIBRARIES = ("libcudart.so.*", "libtensorrt_rtx.so.*", "libtensorrt_onnxparser_rtx.so.*")
"""In the order in which they need each other."""
RTX_MODULES = ("tensorrt_rtx_bindings", "tensorrt_rtx")
RTX_HINT = "pip install -c constraints.txt -e '.[bake]' in sdstream's directory   (Linux on x86-64)"
TRT_HINT = "pip install 'tensorrt>=11' --extra-index-url https://pypi.nvidia.com"


@dataclass(frozen=True, slots=True)
class TensorrtLibrary:
    """One of the two, imported. `module` is NVIDIA's, whose names both have alike."""

    name: TensorrtName
    module: Any
    version: str
    cuda: str

    @property
    def is_rtx(self) -> bool:
        return self.name == "tensorrt-rtx"


@cache
def find_library(name: TensorrtName) -> TensorrtLibrary:
    """Import a library. Raises `EngineBackendUnavailable`, naming what is missing."""
    return _find_rtx() if name == "tensorrt-rtx" else _find_tensorrt()


def is_installed(name: TensorrtName) -> bool:
    """Whether a library can be imported here."""
    try:
        find_library(name)
    except EngineBackendUnavailable:
        return False
    return True


def _find_rtx() -> TensorrtLibrary:
    _preload_rtx()
    for module_name in RTX_MODULES:
        if importlib.util.find_spec(module_name) is None:
            continue
        try:
            module: Any = importlib.import_module(module_name)
        except (ImportError, OSError) as error:
            raise EngineBackendUnavailable(f"{module_name} cannot be imported: {error}", hint=RTX_HINT) from error
        return TensorrtLibrary("tensorrt-rtx", module, str(module.__version__), _cuda_of("tensorrt_rtx_{}_bindings"))
    raise EngineBackendUnavailable("TensorRT-RTX is not installed", hint=RTX_HINT)


def _preload_rtx() -> None:
    """Load the libraries by their paths: no search path leads into the wheel that has them."""
    for package in RTX_LIBRARY_PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            continue
        folder = Path(next(iter(spec.submodule_search_locations)))
        for pattern in RTX_LIBRARIES:
            for file in sorted(folder.glob(pattern)):
                try:
                    preload_library(file)
                except OSError as error:
                    raise EngineBackendUnavailable(f"{file} cannot be loaded: {error}", hint=RTX_HINT) from error
        return


def _find_tensorrt() -> TensorrtLibrary:
    if importlib.util.find_spec("tensorrt") is None:
        raise EngineBackendUnavailable("TensorRT is not installed", hint=TRT_HINT)
    try:
        module: Any = importlib.import_module("tensorrt")
    except (ImportError, OSError) as error:
        raise EngineBackendUnavailable(f"tensorrt cannot be imported: {error}", hint=TRT_HINT) from error
    version = str(module.__version__)
    if int(version.partition(".")[0]) < 10:
        raise EngineBackendUnavailable(f"TensorRT {version} is too old; 10 or newer is needed", hint=TRT_HINT)
    return TensorrtLibrary("tensorrt", module, version, _cuda_of("tensorrt_{}_bindings"))


def _cuda_of(pattern: str) -> str:
    for version in ("13", "12"):
        try:
            importlib.metadata.version(pattern.format(f"cu{version}"))
        except importlib.metadata.PackageNotFoundError:
            continue
        return version
    return "unknown"


def make_logger(library: TensorrtLibrary, remembered: int = 20) -> Any:
    """A logger that keeps the newest errors, which the library tells nowhere else: `errors` is a deque of lines."""
    base: Any = library.module.ILogger

    class Logger(base):  # a class of a module that is known only now
        def __init__(self) -> None:
            base.__init__(self)
            self.errors: deque[str] = deque(maxlen=remembered)

        def log(self, severity: Any, message: str) -> None:
            if severity in (base.INTERNAL_ERROR, base.ERROR):
                self.errors.append(re.sub(r"\s+", " ", message).strip())

        def words(self) -> str:
            """What it said, in one line."""
            return "; ".join(self.errors)[:600] or "it did not say why"

    return Logger()


__all__ = ["TensorrtLibrary", "TensorrtName", "find_library", "is_installed", "make_logger"]
