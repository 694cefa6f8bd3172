"""Builds TensorRT plans from ONNX: TensorRT-RTX ones on any CPU, TensorRT ones on a card of their kind."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

from sdstream.engine_errors import EngineBackendUnavailable, EngineBuildFailed
from sdstream.engines.backend import Progress
from sdstream.engines.keys import TensorRange, capabilities_of
from sdstream.engines.targets import capability_text
from sdstream.engines.tensorrt_library import TensorrtLibrary, make_logger


def build_plan(
    library: TensorrtLibrary,
    onnx_file: Path,
    inputs: tuple[TensorRange, ...],
    target: str,
    plan_file: Path,
    options: Mapping[str, Any],
    progress: Progress,
) -> None:
    """Build `onnx_file` for the GPUs of `target`, with the ranges of `inputs`, into `plan_file`.

    Raises `EngineBuildFailed` with what the library said, `EngineBackendUnavailable` where it cannot build at all.
    """
    module = library.module
    logger = make_logger(library)
    try:
        builder = module.Builder(logger)
    except (TypeError, RuntimeError) as error:  # without a GPU the plain TensorRT makes none
        raise EngineBackendUnavailable(
            f"{library.name} {library.version} cannot build here: {logger.words()}",
            hint="TensorRT builds on a card of the kind that the engine is for.",
        ) from error
    network = builder.create_network(1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = module.OnnxParser(network, logger)
    progress("reading the graph", None)
    if not parser.parse_from_file(str(onnx_file)):
        problems = "; ".join(str(parser.get_error(index)) for index in range(parser.num_errors))[:600]
        raise EngineBuildFailed(f"{library.name} cannot read {onnx_file.name}: {problems or logger.words()}")
    config = builder.create_builder_config()
    config.builder_optimization_level = int(options["optimization_level"])
    _choose_targets(library, config, target)
    config.add_optimization_profile(_profile(builder, network, inputs))
    monitor = _make_monitor(module, progress)
    config.progress_monitor = monitor
    with plan_file.open("wb") as file:
        writer = _make_writer(module, file)
        # To the file as it is made: the plan beside all that it is made of would be the most memory that baking needs.
        built = builder.build_serialized_network_to_stream(network, config, writer)
    if writer.error is not None:
        raise writer.error
    if not built or plan_file.stat().st_size == 0:
        raise EngineBuildFailed(f"{library.name} {library.version} built nothing for {target}: {logger.words()}")


def _choose_targets(library: TensorrtLibrary, config: Any, target: str) -> None:
    module = library.module
    capabilities = sorted(capabilities_of(target))
    if not capabilities:
        raise EngineBuildFailed(f"{library.name} builds for GPUs, and {target} names none")
    if not library.is_rtx:
        # One engine for all cards of this generation, instead of the very model it is built on.
        config.hardware_compatibility_level = module.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
        return
    config.num_compute_capabilities = len(capabilities)
    for index, capability in enumerate(capabilities):
        kind = getattr(module.ComputeCapability, f"SM{capability}", None)
        if kind is None or not config.set_compute_capability(kind, index):
            raise EngineBuildFailed(
                f"{library.name} {library.version} has no engines for SM {capability_text(capability)}"
            )


def _profile(builder: Any, network: Any, inputs: tuple[TensorRange, ...]) -> Any:
    profile = builder.create_optimization_profile()
    known = {entry.name: entry for entry in inputs}
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        entry = known.get(tensor.name)
        if entry is None:
            raise EngineBuildFailed(f"the graph has an input {tensor.name} that the component does not have")
        profile.set_shape(tensor.name, entry.least, entry.best, entry.most)
    return profile


def _make_writer(module: Any, file: BinaryIO) -> Any:
    """Writes what the builder gives; an error cannot pass through the library, so it is kept in `error`."""
    base: Any = module.IStreamWriter

    class Writer(base):  # a class of a module that is known only now
        def __init__(self) -> None:
            base.__init__(self)
            self.error: OSError | None = None

        def write(self, data: bytes) -> int:
            try:
                return file.write(data)
            except OSError as error:
                self.error = error
                return 0

    return Writer()


def _make_monitor(module: Any, progress: Progress) -> Any:
    """Passes the builder's outermost phase on; the phases inside it are not known beforehand."""
    base: Any = module.IProgressMonitor

    class Monitor(base):  # a class of a module that is known only now
        def __init__(self) -> None:
            base.__init__(self)
            self._outermost = ""
            self._steps = 1

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            if parent is None:
                self._outermost, self._steps = name, max(1, steps)

        def step_complete(self, name: str, step: int) -> bool:
            if name == self._outermost:
                progress("building the engine", (step + 1) / self._steps)
            return True

        def phase_finish(self, name: str) -> None:
            if name == self._outermost:
                progress("building the engine", 1.0)

    return Monitor()


__all__ = ["build_plan"]
