"""Compiling CUDA C++ at run time, and launching it: by NVIDIA's own bindings, which come with torch for CUDA."""

# The bindings have no types, and are installed only where torch is for CUDA.
# pyright: basic, reportMissingModuleSource=false

import ctypes
import threading
from collections.abc import Sequence
from typing import Any

import torch
from cuda.bindings import driver, nvrtc

from sdstream.diffusion.convolving.hopper.boxes import Boxes
from sdstream.diffusion.convolving.hopper.calls import Told
from sdstream.diffusion.convolving.hopper.kept import KeptBinaries, key_of

ARCHITECTURE = "sm_90a"
"""Hopper with the instructions that no other card has."""
OPTIONS = (f"--gpu-architecture={ARCHITECTURE}", "--std=c++17")
KERNEL = b"hopper_convolution"
_KINDS = {
    torch.float16: driver.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
    torch.bfloat16: driver.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_BFLOAT16,
    torch.float8_e4m3fn: driver.CUtensorMapDataType.CU_TENSOR_MAP_DATA_TYPE_UINT8,
}
"""Of values: they are moved, and none is looked at."""


class KernelRefused(RuntimeError):
    """NVIDIA's compiler or driver refused to make or to launch one; the message has its words."""


class CompiledKernel:
    """A kernel on one device."""

    def __init__(self, binary: bytes, device: int, shared_bytes: int) -> None:
        """Of a module for `device`, with so much shared memory for each block. Raises `KernelRefused`."""
        _enter(device)
        self._device = device
        self._module = _checked(driver.cuModuleLoadData(binary))  # lives as long as the process
        self._function = _checked(driver.cuModuleGetFunction(self._module, KERNEL))
        self._shared_bytes = shared_bytes
        most = driver.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        _checked(driver.cuFuncSetAttribute(self._function, most, shared_bytes))

    def launch(self, grid: tuple[int, int, int], threads: int, told: Sequence[Told]) -> None:
        """On torch's current stream of the device, which is the current one. Numbers have 32 bits, of a tensor its
        address is told, and of boxes their map. Raises `KernelRefused`."""
        _enter(self._device)
        stream: Any = torch.cuda.current_stream().cuda_stream
        kept = [_as_parameter(each) for each in told]
        addresses = (ctypes.c_void_p * len(kept))(*(address for address, _ in kept))
        place = ctypes.addressof(addresses)
        _checked(driver.cuLaunchKernel(self._function, *grid, threads, 1, 1, self._shared_bytes, stream, place, 0))


def _as_parameter(told: Told) -> tuple[int, object]:
    """Where a parameter lies, and what is to be kept until it was read."""
    if isinstance(told, Boxes):
        made = _map_of(told)
        return int(made.getPtr()), made
    number = ctypes.c_int(told) if isinstance(told, int) else ctypes.c_void_p(None if told is None else told.data_ptr())
    return ctypes.addressof(number), number


def _map_of(boxes: Boxes) -> Any:
    """As the driver writes it down."""
    return _checked(
        driver.cuTensorMapEncodeTiled(
            _KINDS[boxes.tensor.dtype],
            len(boxes.sizes),
            boxes.tensor.data_ptr(),
            [driver.cuuint64_t(size) for size in boxes.sizes],
            [driver.cuuint64_t(stride) for stride in boxes.strides],
            [driver.cuuint32_t(size) for size in boxes.box],
            [driver.cuuint32_t(1)] * len(boxes.sizes),
            driver.CUtensorMapInterleave.CU_TENSOR_MAP_INTERLEAVE_NONE,
            driver.CUtensorMapSwizzle.CU_TENSOR_MAP_SWIZZLE_128B,
            driver.CUtensorMapL2promotion.CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
            driver.CUtensorMapFloatOOBfill.CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
        )
    )


def compile_source(source: str) -> bytes:
    """The module of a program in CUDA C++, for Hopper. Needs no card. Raises `KernelRefused`."""
    program = _checked(nvrtc.nvrtcCreateProgram(source.encode(), b"convolution.cu", 0, [], []))
    try:
        options = [option.encode() for option in OPTIONS]
        done = nvrtc.nvrtcCompileProgram(program, len(options), options)
        if done[0] != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            said = b" " * (_checked(nvrtc.nvrtcGetProgramLogSize(program)) + 1)  # of one byte Python has only one
            _checked(nvrtc.nvrtcGetProgramLog(program, said))
            raise KernelRefused(said.decode(errors="replace").strip("\0 \n"))
        binary = b" " * _checked(nvrtc.nvrtcGetCUBINSize(program))
        _checked(nvrtc.nvrtcGetCUBIN(program, binary))
        return binary
    finally:
        nvrtc.nvrtcDestroyProgram(program)


def key_of_source(source: str) -> str:
    """What decides the module of a program, as one hash. Raises `KernelRefused`."""
    code, *version = nvrtc.nvrtcVersion()
    _checked((code,))
    return key_of((source, *OPTIONS, *map(str, version)))


class KernelShelf:
    """Kernels by their programs, compiled in this process or `kept` from one before; from any thread."""

    def __init__(self, kept: KeptBinaries | None = None) -> None:
        """`kept` is by default where the environment says."""
        self._kept = kept or KeptBinaries.from_environment()
        self._binaries: dict[str, bytes] = {}
        self._kernels: dict[tuple[str, int], CompiledKernel] = {}
        self._lock = threading.Lock()

    def prepare(self, source: str) -> None:
        """Compile a program, unless it is already. Raises `KernelRefused`."""
        if source in self._binaries:
            return
        key = key_of_source(source)
        binary = self._kept.get(key)
        if binary is None:
            binary = compile_source(source)  # two threads may; the answers are the same
            self._kept.put(key, binary)
        self._binaries[source] = binary

    def get(self, source: str, device: int, shared_bytes: int) -> CompiledKernel:
        """The kernel on a device. Raises `KernelRefused`."""
        found = self._kernels.get((source, device))
        if found is None:
            self.prepare(source)
            with self._lock:
                found = self._kernels.get((source, device))
                if found is None:
                    found = self._kernels[source, device] = CompiledKernel(self._binaries[source], device, shared_bytes)
        return found


def _enter(device: int) -> None:
    """Have this thread use the context that torch has for a device: a thread's first call may be this one."""
    if int(_checked(driver.cuCtxGetCurrent())) == 0:
        context = _checked(driver.cuDevicePrimaryCtxRetain(_checked(driver.cuDeviceGet(device))))
        _checked(driver.cuCtxSetCurrent(context))


def _checked(answer: tuple[Any, ...]) -> Any:
    code, *values = answer
    if code.name == "CUDA_ERROR_OUT_OF_MEMORY":
        raise torch.OutOfMemoryError("CUDA out of memory: for a kernel")
    if code.value:
        raise KernelRefused(f"CUDA's driver or compiler answered {code.name}")
    return values[0] if values else None


__all__ = ["CompiledKernel", "KernelRefused", "KernelShelf", "compile_source", "key_of_source"]
