"""A stand-in for TensorRT's Python module where there is no GPU: the same calls, answered by a function of tensors.

It holds the caller to the library's rules: addresses and shapes are set before a run, every answer is a bool, a plan is
bytes. `test_tensorrt_run.py` compares the names and signatures used here with those of the real module.
"""

import enum
import pickle
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import torch

Compute = Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]


class Plan:
    """What a fake plan says of itself; `bytes` of it are what is deserialised."""

    def __init__(
        self, inputs: dict[str, tuple[str, Sequence[int]]], outputs: dict[str, tuple[str, Sequence[int]]]
    ) -> None:
        self.tensors = {**inputs, **outputs}
        self.inputs = set(inputs)

    def dump(self) -> bytes:
        return b"PLAN" + pickle.dumps((self.tensors, self.inputs))


def make_module(compute: Compute, memory: "FakeMemory", *, validity: tuple[str, str] = ("VALID", "")) -> Any:
    """A module whose engines answer with `compute`. `validity` is what it says of every plan."""
    names = ("FLOAT", "HALF", "BF16", "INT32", "INT64", "BOOL", "FP8")
    data_type = enum.Enum("DataType", names)
    mode = enum.Enum("TensorIOMode", ("NONE", "INPUT", "OUTPUT"))
    diagnostics = enum.IntFlag(
        "EngineInvalidityDiagnostics", ("VERSION_MISMATCH", "UNSUPPORTED_CC", "MALFORMED_ENGINE")
    )
    engine_validity = enum.Enum("EngineValidity", ("VALID", "SUBOPTIMAL", "INVALID"))
    log: list[str] = []

    class ILogger:
        INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

        def log(self, severity: Any, message: str) -> None:
            raise NotImplementedError

    class Context:
        def __init__(self, engine: "Engine") -> None:
            self.engine = engine
            self.addresses: dict[str, int] = {}
            self.shapes: dict[str, tuple[int, ...]] = {}

        def set_tensor_address(self, name: str, address: int) -> bool:
            self.addresses[name] = address
            return name in self.engine.plan.tensors

        def set_input_shape(self, name: str, shape: Any) -> bool:
            log.append(f"shape {name} {tuple(shape)}")
            self.shapes[name] = tuple(shape)
            return True

        def execute_async_v3(self, stream: int) -> bool:
            log.append(f"execute {stream}")
            inputs = {name: memory.at(self.addresses[name], self.shapes[name]) for name in self.engine.plan.inputs}
            for name, answer in compute(inputs).items():
                memory.at(self.addresses[name], tuple(answer.shape)).copy_(answer)
            return True

    class RuntimeCache:
        def __init__(self) -> None:
            self.blob = b""

        def deserialize(self, blob: bytes) -> bool:
            log.append(f"runtime cache {bytes(blob)!r}")
            self.blob = bytes(blob)
            return True

        def serialize(self) -> bytes:
            return self.blob + b"kernels"

    class RuntimeConfig:
        cuda_graph_strategy: Any = None
        dynamic_shapes_kernel_specialization_strategy: Any = None

        def __init__(self) -> None:
            self.cache: RuntimeCache | None = None

        def create_runtime_cache(self) -> RuntimeCache:
            return RuntimeCache()

        def set_runtime_cache(self, cache: RuntimeCache) -> bool:
            self.cache = cache
            return True

    class Engine:
        def __init__(self, plan: Plan) -> None:
            self.plan = plan

        @property
        def num_io_tensors(self) -> int:
            return len(self.plan.tensors)

        def get_tensor_name(self, index: int) -> str:
            return list(self.plan.tensors)[index]

        def get_tensor_mode(self, name: str) -> Any:
            return mode["INPUT" if name in self.plan.inputs else "OUTPUT"]

        def get_tensor_dtype(self, name: str) -> Any:
            return data_type[self.plan.tensors[name][0]]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return tuple(self.plan.tensors[name][1])

        def create_runtime_config(self) -> RuntimeConfig:
            return RuntimeConfig()

        def create_execution_context(self, runtime_config: RuntimeConfig | None = None) -> Context:
            log.append(f"context {runtime_config is not None}")
            return Context(self)

    class Runtime:
        def __init__(self, logger: ILogger) -> None:
            self.logger = logger

        def get_engine_validity(self, buffer: bytes) -> tuple[Any, int]:
            if not buffer.startswith(b"PLAN"):
                return engine_validity.INVALID, int(diagnostics["MALFORMED_ENGINE"])
            bits = int(diagnostics[validity[1]]) if validity[1] else 0
            return engine_validity[validity[0]], bits

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
            if not serialized_engine.startswith(b"PLAN"):
                self.logger.log(ILogger.ERROR, "the magic number is wrong")
                return None
            plan = Plan({}, {})
            plan.tensors, plan.inputs = pickle.loads(serialized_engine[4:])
            return Engine(plan)

    return SimpleNamespace(
        CudaGraphStrategy=enum.Enum("CudaGraphStrategy", ("DISABLED", "WHOLE_GRAPH_CAPTURE")),
        DataType=data_type,
        DynamicShapesKernelSpecializationStrategy=enum.Enum("Strategy", ("LAZY", "EAGER", "NONE")),
        EngineInvalidityDiagnostics=diagnostics,
        EngineValidity=engine_validity,
        ICudaEngine=Engine,
        IExecutionContext=Context,
        ILogger=ILogger,
        IRuntimeCache=RuntimeCache,
        IRuntimeConfig=RuntimeConfig,
        Runtime=Runtime,
        TensorIOMode=mode,
        log=log,
    )


class FakeMemory:
    """Device memory on the host: buffers are found again by their addresses, as a driver would."""

    def __init__(self) -> None:
        self.buffers: dict[int, torch.Tensor] = {}
        self.current = 7
        self.waits = 0

    def empty(self, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
        made = torch.full(shape, -1).to(dtype)
        self.buffers[made.data_ptr()] = made
        return made

    def stream(self) -> int:
        return self.current

    def wait(self) -> None:
        self.waits += 1

    def at(self, address: int, shape: tuple[int, ...]) -> torch.Tensor:
        """What lies at an address, seen as `shape`."""
        return self.buffers[address].view(-1)[: torch.Size(shape).numel()].view(shape)
