"""The TensorRT back end: one implementation for TensorRT-RTX, baked on any CPU, and TensorRT, built on its own card."""

import gc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from sdstream.engine_errors import EngineBackendUnavailable, EngineBroken, EngineMismatch
from sdstream.engines.backend import Progress
from sdstream.engines.component import Component
from sdstream.engines.entry import Entry
from sdstream.engines.export import OPSET
from sdstream.engines.exports import exported
from sdstream.engines.keys import BackendName, capabilities_of
from sdstream.engines.targets import bake_command, capability_text, refuse_capabilities
from sdstream.engines.tensorrt_build import build_plan
from sdstream.engines.tensorrt_library import TensorrtName, find_library
from sdstream.engines.tensorrt_run import TensorrtRunner, diagnostics_of, load_runner

PLAN = "engine.plan"
OPTIMIZATION_LEVEL = 3


class TensorrtBackend:
    """Plans built from strongly typed ONNX."""

    def __init__(self, name: TensorrtName, *, optimization_level: int = OPTIMIZATION_LEVEL) -> None:
        """Raises `EngineBackendUnavailable` when the library is not here."""
        self._library = find_library(name)
        self._level = optimization_level

    @property
    def name(self) -> BackendName:
        return self._library.name

    @property
    def version(self) -> str:
        return self._library.version

    @property
    def cuda(self) -> str:
        return self._library.cuda

    @property
    def options(self) -> Mapping[str, Any]:
        return {"optimization_level": self._level, "opset": OPSET}

    def build(
        self, component: Component, target: str, folder: Path, work: Path, progress: Progress
    ) -> Mapping[str, Any]:
        """See `Backend.build`."""
        refusal = refuse_capabilities(self.name, capabilities_of(target))
        if refusal:
            raise EngineMismatch(refusal)
        if not self._library.is_rtx:
            self._refuse_other_card(target)
        progress(f"exporting {component.name}", None)
        onnx_file, is_old = exported(component, work)
        if is_old:
            progress(f"{component.name} was exported before", None)
        gc.collect()  # what exporting leaves behind is as large as the weights, and circular
        component.release()  # the weights are in the graph's file now, and building takes all the memory it can get
        self.build_from_onnx(onnx_file, component, target, folder, progress)
        return {"torch": torch.__version__, "resumed": is_old}

    def build_from_onnx(
        self, onnx_file: Path, component: Component, target: str, folder: Path, progress: Progress
    ) -> None:
        """Build the plan of a graph that was exported before."""
        build_plan(self._library, onnx_file, component.inputs, target, folder / PLAN, self.options, progress)

    def load(self, entry: Entry, device: torch.device) -> TensorrtRunner:
        """See `Backend.load`."""
        if device.type != "cuda":
            raise EngineBackendUnavailable(f"{self.name} engines run on NVIDIA GPUs, and not on {device}")
        major, minor = torch.cuda.get_device_capability(device)
        refusal = refuse_entry(entry, self.name, self.version, 10 * major + minor)
        if refusal:
            raise EngineMismatch(refusal)
        return load_runner(self._library, entry, PLAN, device)

    def look_at(self, entry: Entry) -> None:
        """What can be told of a plan without a GPU: raises `EngineBroken` when the library does not know it as one."""
        module = self._library.module
        ask: Any = getattr(module.Runtime(make_silent(module)), "get_engine_validity", None)
        if ask is None:
            return
        _, diagnostics = ask(entry.file(PLAN).read_bytes())
        if "MALFORMED_ENGINE" in diagnostics_of(module, int(diagnostics)):
            raise EngineBroken(f"{entry.name} is no plan of {self.name} {self.version}")

    def _refuse_other_card(self, target: str) -> None:
        asked = sorted(capabilities_of(target))
        if not torch.cuda.is_available():
            raise EngineBackendUnavailable(
                "TensorRT engines are built on a card of their kind, and this machine has none",
                hint="Bake with --backend tensorrt-rtx on a CPU, or run this on the card, or in a bake job there.",
            )
        major, minor = torch.cuda.get_device_capability()
        if asked != [10 * major + minor]:
            raise EngineMismatch(
                f"TensorRT builds for the card it runs on, SM {major}.{minor}, and not for "
                f"{', '.join(map(capability_text, asked))}"
            )


def refuse_entry(entry: Entry, name: BackendName, version: str, capability: int) -> str | None:
    """Why an engine cannot run on a card under a version of the library, with both names; None when it can."""
    key = entry.key
    profile = entry.manifest.facts.get("profile")
    command = bake_command(profile if isinstance(profile, str) else None, name, capability)
    if (key.backend, key.backend_version) != (name, version):
        return f"{entry.name} is of {key.backend} {key.backend_version}, and here is {name} {version}; `{command}`"
    if capability not in capabilities_of(key.target):
        known = ", ".join(capability_text(number) for number in sorted(capabilities_of(key.target)))
        return f"{entry.name} is for SM {known}, and this card is SM {capability_text(capability)}; `{command}`"
    return None


def make_silent(module: Any) -> Any:
    """A logger that says nothing: without a GPU each question is an error to the library."""
    base: Any = module.ILogger

    class Silent(base):  # a class of a module that is known only now
        def __init__(self) -> None:
            base.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            """Nothing."""

    return Silent()


__all__ = ["OPTIMIZATION_LEVEL", "PLAN", "TensorrtBackend", "refuse_entry"]
