"""Runs TensorRT plans on torch's stream, in buffers that never move, so that a frame's CUDA graph can hold the call.

Nothing of this has run on a GPU yet (docs/verified.md); the calls are those that the installed library's own signatures
name, which a test compares.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from sdstream.engine_errors import EngineBroken, EngineMismatch
from sdstream.engines.entry import Entry
from sdstream.engines.kernels import file_for, read_kernels, write_kernels
from sdstream.engines.keys import TensorRange
from sdstream.engines.tensorrt_library import TensorrtLibrary, make_logger


class DeviceMemory(Protocol):
    """What the runner needs of torch's device, so that a test can stand in for it."""

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor: ...

    def stream(self) -> int:
        """The handle of the stream that work is put on now."""
        ...

    def wait(self) -> None:
        """Wait until the work of that stream is done."""
        ...


class CudaMemory:
    """Memory and streams of a CUDA device, by torch."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        return torch.empty(shape, dtype=dtype, device=self._device)

    def stream(self) -> int:
        handle: Any = torch.cuda.current_stream(self._device).cuda_stream
        return int(handle)

    def wait(self) -> None:
        torch.cuda.current_stream(self._device).synchronize()


class TensorrtRunner:
    """One loaded plan with buffers of its largest shapes. Inputs are copied in and outputs are views of the buffers, on
    torch's current stream and with no wait for the host, so the whole call can be captured."""

    def __init__(
        self,
        library: TensorrtLibrary,
        plan: bytes,
        name: str,
        inputs: tuple[TensorRange, ...],
        memory: DeviceMemory,
        runtime_file: Path | None = None,
    ) -> None:
        """Raises `EngineMismatch` for a plan of another GPU or version, `EngineBroken` for one that is none."""
        self._name = name
        self._inputs = inputs
        self._memory = memory
        self._runtime_file = runtime_file
        module = library.module
        self._logger = make_logger(library)
        self._runtime: Any = module.Runtime(self._logger)
        self._refuse_foreign(module, library, plan)
        self._engine: Any = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            raise EngineMismatch(f"{name} cannot be loaded here: {self._logger.words()}")
        self._cache: Any = None
        self._kept: bytes | None = None
        """What the driver compiled, as it is kept beside the engine."""
        self._context: Any = self._make_context(module, library)
        if self._context is None:
            raise EngineMismatch(f"{name} cannot be run here: {self._logger.words()}")
        self._buffers = self._make_buffers(module)
        self._output_names = [
            name for name in self._names() if self._engine.get_tensor_mode(name) == module.TensorIOMode.OUTPUT
        ]
        self._rows = -1

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if len(inputs) != len(self._inputs):
            raise EngineMismatch(f"{self._name} takes {len(self._inputs)} inputs and not {len(inputs)}")
        for wanted, given in zip(self._inputs, inputs, strict=True):
            if not wanted.takes(given.shape) or given.shape[0] != inputs[0].shape[0]:
                raise EngineMismatch(
                    f"{self._name} takes {wanted.name} from {wanted.least} to {wanted.most}, not {tuple(given.shape)}"
                )
        rows = inputs[0].shape[0]
        for wanted, given in zip(self._inputs, inputs, strict=True):
            self._buffers[wanted.name][:rows].copy_(given, non_blocking=True)
        self._set_rows(rows)
        if not self._context.execute_async_v3(self._memory.stream()):
            raise EngineMismatch(f"{self._name} did not run: {self._logger.words()}")
        return tuple(self._buffers[name][:rows] for name in self._output_names)

    def compile_for(self, rows: Iterable[int]) -> None:
        """See `kernels.CompilesLater`. Runs on zeros, which no network looks up anything out of range with."""
        least, most = self._inputs[0].least[0], self._inputs[0].most[0]
        for count in sorted(set(rows)):
            if least <= count <= most:
                self(*(self._buffers[entry.name][:count].zero_() for entry in self._inputs))
        self._memory.wait()  # another thread, on another stream, may use the buffers from now on
        self._keep_kernels()

    def _keep_kernels(self) -> None:
        """Write what the driver compiled beside the engine, where there is something that was not kept before."""
        if self._cache is None or self._runtime_file is None:
            return
        blob = self._cache.serialize()
        if blob is not None and bytes(blob) != self._kept and write_kernels(self._runtime_file, bytes(blob)):
            self._kept = bytes(blob)

    def close(self) -> None:
        self._keep_kernels()
        self._context = self._cache = self._engine = self._runtime = None
        self._buffers = {}

    def _refuse_foreign(self, module: Any, library: TensorrtLibrary, plan: bytes) -> None:
        """Ask the library what it thinks of the plan before it loads it; the plain TensorRT has no such question."""
        ask: Any = getattr(self._runtime, "get_engine_validity", None)
        if ask is None:
            return
        validity, diagnostics = ask(plan)
        reasons = diagnostics_of(module, int(diagnostics))
        if "MALFORMED_ENGINE" in reasons:
            raise EngineBroken(f"{self._name} is no plan of {library.name} {library.version}")
        if validity == module.EngineValidity.INVALID and reasons:
            raise EngineMismatch(f"{self._name} cannot run here: {', '.join(reasons).lower().replace('_', ' ')}")

    def _make_context(self, module: Any, library: TensorrtLibrary) -> Any:
        if not library.is_rtx:
            return self._engine.create_execution_context()
        config = self._engine.create_runtime_config()
        # A kernel is compiled when it is first needed and not exchanged later: a captured graph would keep the old one.
        config.dynamic_shapes_kernel_specialization_strategy = module.DynamicShapesKernelSpecializationStrategy.EAGER
        # The frame is captured as a whole, so the library is not to capture its part.
        config.cuda_graph_strategy = module.CudaGraphStrategy.DISABLED
        self._cache = config.create_runtime_cache()
        self._kept = None if self._runtime_file is None else read_kernels(self._runtime_file)
        if self._kept is not None:
            self._cache.deserialize(self._kept)  # refused by itself when it is of another driver or card
        config.set_runtime_cache(self._cache)
        return self._engine.create_execution_context(config)

    def _names(self) -> list[str]:
        return [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]

    def _make_buffers(self, module: Any) -> dict[str, torch.Tensor]:
        known = {entry.name: entry for entry in self._inputs}
        buffers: dict[str, torch.Tensor] = {}
        most = self._inputs[0].most[0]
        for name in self._names():
            dtype = torch_dtype(module, self._engine.get_tensor_dtype(name))
            if self._engine.get_tensor_mode(name) == module.TensorIOMode.INPUT:
                entry = known.get(name)
                if entry is None:
                    raise EngineBroken(f"{self._name} has an input {name} that its manifest does not name")
                shape = entry.most
            else:
                shape = (most, *tuple(self._engine.get_tensor_shape(name))[1:])
            buffers[name] = self._memory.empty(tuple(int(size) for size in shape), dtype)
            if not self._context.set_tensor_address(name, buffers[name].data_ptr()):
                raise EngineMismatch(f"{self._name} does not take a buffer for {name}: {self._logger.words()}")
        missing = sorted(set(known) - set(buffers))
        if missing:
            raise EngineBroken(f"{self._name} has no input {missing[0]}, which its manifest names")
        return buffers

    def _set_rows(self, rows: int) -> None:
        if rows == self._rows:
            return
        self._rows = -1  # until all inputs have so many: a refusal leaves some with others
        for entry in self._inputs:
            if not self._context.set_input_shape(entry.name, (rows, *entry.best[1:])):
                raise EngineMismatch(f"{self._name} does not take {rows} rows of {entry.name}: {self._logger.words()}")
        self._rows = rows


def load_runner(library: TensorrtLibrary, entry: Entry, plan_name: str, device: torch.device) -> TensorrtRunner:
    """The runner of a stored engine on a GPU; what the driver compiles is kept beside it, one file for each card."""
    try:
        plan = entry.file(plan_name).read_bytes()
    except OSError as error:
        raise EngineBroken(f"{entry.name} cannot be read: {error.strerror}") from error
    runtime_file = file_for(entry.runtime_folder, torch.cuda.get_device_name(device))
    with torch.cuda.device(device):
        return TensorrtRunner(library, plan, entry.name, entry.key.inputs, CudaMemory(device), runtime_file)


def diagnostics_of(module: Any, bits: int) -> list[str]:
    """The names of the reasons in a bit set of the library."""
    kinds: Mapping[str, Any] = module.EngineInvalidityDiagnostics.__members__
    return sorted(name for name, kind in kinds.items() if int(kind) & bits)


def torch_dtype(module: Any, dtype: Any) -> torch.dtype:
    """torch's type for one of the library's. Raises `EngineMismatch` for one that no component has."""
    kinds = module.DataType
    known = {
        kinds.FLOAT: torch.float32,
        kinds.HALF: torch.float16,
        kinds.BF16: torch.bfloat16,
        kinds.INT32: torch.int32,
        kinds.INT64: torch.int64,
        kinds.BOOL: torch.bool,
    }
    if dtype not in known:
        raise EngineMismatch(f"tensors of {dtype} are not known here")
    return known[dtype]


__all__ = [
    "CudaMemory",
    "DeviceMemory",
    "TensorrtRunner",
    "diagnostics_of",
    "load_runner",
    "torch_dtype",
]
