"""The compiled back end: torch's AOTInductor, on CPUs and on GPUs, with nothing but torch where it runs."""

import hashlib
import platform as system
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from sdstream.engine_errors import EngineBroken, EngineBuildFailed, EngineMismatch
from sdstream.engines.backend import Progress
from sdstream.engines.component import DTYPES, Component, dtype_name
from sdstream.engines.cuda_home import cuda_home
from sdstream.engines.entry import Entry
from sdstream.engines.export import export_program, first_lines, quiet
from sdstream.engines.keys import BackendName, target_of
from sdstream.platform.cores import processor_features, processor_name

PACKAGE = "package.pt2"
ANY_PROCESSOR: Mapping[str, Any] = {"cpp.march": "", "cpp.simdlen": 0}
"""torch's options for host code that every processor of the architecture runs. What a package for a GPU does on the
host is to launch kernels, and machines with that GPU and other processors load it from a shared cache."""


class CompiledBackend:
    """Packages of native code and weights, each tied to torch's version and to the CPU's features or the GPU's kind."""

    name: BackendName = "compiled"

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @property
    def version(self) -> str:
        return torch.__version__.partition("+")[0]

    @property
    def cuda(self) -> str:
        version = torch.version.cuda
        return "none" if self._device.type == "cpu" or version is None else version.partition(".")[0]

    @property
    def options(self) -> Mapping[str, Any]:
        """For a GPU the host's architecture: some cards are in machines with processors of either kind."""
        return {} if self._device.type == "cpu" else {"host": system.machine().lower()}

    def target(self) -> str:
        """What packages made on this machine are for."""
        if self._device.type == "cuda":
            major, minor = torch.cuda.get_device_capability(self._device)
            return target_of([10 * major + minor])
        return processor_target().replace("cpu", self._device.type, 1)

    def build(
        self, component: Component, target: str, folder: Path, work: Path, progress: Progress
    ) -> Mapping[str, Any]:
        """See `Backend.build`. Needs a C++ compiler, and for a GPU CUDA's headers (`sdstream.engines.cuda_home`). Takes
        one to two minutes of one core for a tiny network.
        """
        if target != self.target():
            raise EngineMismatch(f"packages made here are for {self.target()}, and {target} was asked for")
        compile_package: Any = getattr(torch, "_inductor").aoti_compile_and_package  # noqa: B009 - as torch documents it
        with compiling_for(self._device):
            progress(f"exporting {component.name}", None)
            component.module.to(self._device)
            program = export_program(component)
            progress(f"compiling {component.name}", None)
            with quiet(), torch.no_grad():
                try:
                    compile_package(program, package_path=str(folder / PACKAGE))
                except Exception as error:
                    raise EngineBuildFailed(f"{component.name} cannot be compiled: {compiler_words(error)}") from error
        return {"torch": torch.__version__, "processor": processor_name()}

    def load(self, entry: Entry, device: torch.device) -> "CompiledRunner":
        """See `Backend.load`."""
        key = entry.key
        if (key.backend_version, key.target) != (self.version, self.target()):
            raise EngineMismatch(
                f"{entry.name} is for torch {key.backend_version} on {key.target}; "
                f"here are torch {self.version} and {self.target()}"
            )
        return CompiledRunner(entry, device)


class CompiledRunner:
    """A package, loaded without Inductor, which takes seconds to import: inputs and outputs are flat lists anyway."""

    def __init__(self, entry: Entry, device: torch.device) -> None:
        self._name = entry.name
        self._inputs = entry.key.inputs
        self._dtypes = tuple(DTYPES[wanted.dtype] for wanted in self._inputs)
        loader: Any = getattr(torch, "_C")._aoti.AOTIModelPackageLoader  # noqa: B009 - what aoti_load_package wraps
        index = -1 if device.type == "cpu" else (device.index or 0)
        try:
            # By itself a package asks an event whether its last run is over, which nothing may while a graph is
            # captured. Used by one thread, on one stream, it need not.
            self._loader: Any = loader(str(entry.file(PACKAGE)), "model", device.type == "cuda", 1, index)
        except RuntimeError as error:
            raise EngineBroken(f"{entry.name} cannot be loaded: {first_lines(error)}") from error

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if len(inputs) != len(self._inputs) or any(
            not wanted.takes(given.shape) or given.shape[0] != inputs[0].shape[0]
            for wanted, given in zip(self._inputs, inputs, strict=True)
        ):
            # Checked here, because a package with one size for an axis does not look, and reads past the end.
            raise EngineMismatch(f"{self._name} does not take {[tuple(given.shape) for given in inputs]}")
        dtypes = tuple(given.dtype for given in inputs)
        if dtypes != self._dtypes:  # nor does it look at these, and takes bytes for what they are not
            raise EngineMismatch(f"{self._name} does not take {', '.join(map(dtype_name, dtypes))}")
        return tuple(self._loader.run([given.contiguous() for given in inputs]))

    def close(self) -> None:
        self._loader = None


@contextmanager
def compiling_for(device: torch.device) -> Generator[None]:
    """Within it torch compiles packages that are for this kind of device. Raises as `cuda_home` does."""
    if device.type != "cuda":
        yield
        return
    from torch._inductor import config  # takes seconds

    options: Any = config
    with cuda_home(), options.patch(dict(ANY_PROCESSOR)):
        yield


def compiler_words(error: BaseException) -> str:
    """An exception in one line. Of what a C++ compiler said only its errors: torch puts the whole command before them,
    which is longer than any line that tells of it."""
    _, compiled, said = str(error).partition("Output:\n")
    told = [line.strip() for line in said.splitlines() if "error" in line or "cannot find" in line]
    return " ".join(told[:3]) if compiled and told else first_lines(error)


def processor_target() -> str:
    """This CPU as a target: packages use every instruction it has, so they are for CPUs with the same ones only."""
    flags = processor_features()
    machine = system.machine().lower().replace("_", "-")
    level = torch.backends.cpu.get_cpu_capability().lower().replace("_", "-").replace(" ", "")
    return f"cpu-{machine}-{level}-{hashlib.sha256(' '.join(flags).encode()).hexdigest()[:8]}"


__all__ = ["PACKAGE", "CompiledBackend", "CompiledRunner", "compiler_words", "compiling_for", "processor_target"]
