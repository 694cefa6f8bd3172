"""Recording what a function launches on a GPU, and launching all of it again at once: CUDA graphs behind two calls."""

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import cache
from typing import Any, Generic, Protocol, TypeVar

import torch

from sdstream.diffusion.graph_editing.editor import GraphEditor, graph_editor

WARM_UP = 3
"""Runs before a capture: libraries choose their algorithms and make their workspaces then, which cannot be captured."""
CAPTURE_ERRORS = range(900, 910)
"""CUDA's errors of a capture that met something which cannot be captured; the device is well after them."""

_capturing = threading.RLock()

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


def one_at_a_time() -> AbstractContextManager[object]:
    """Within it no other thread captures or tries anything: torch records one graph of a process at a time, and whoever
    waits for the whole device meanwhile, as every recording and every trial does, fails and spoils the other."""
    return _capturing


class Recording(Protocol[T_co]):
    """A recorded step."""

    @property
    def result(self) -> T_co:
        """The tensors that each replay writes."""
        ...

    def replay(self) -> None:
        """Do it again, on whatever the tensors it was recorded over hold now. Does not wait for the device."""
        ...

    def forget(self) -> None:
        """Let go of the device's side of it; it is never replayed after."""
        ...


class Capture(Protocol):
    """A way to record."""

    name: str

    def record(self, step: Callable[[], T]) -> Recording[T]:
        """Run `step` until it is warm, and record it. Raises `RuntimeError` when that cannot be."""
        ...

    def upload(self, source: torch.Tensor, target: torch.Tensor) -> None:
        """Copy a small tensor of the host to the device without waiting for it."""
        ...

    def is_refusal(self, error: RuntimeError) -> bool:
        """Whether `record` raised this because the step cannot be recorded here, and not because the device is lost."""
        ...


class CudaCapture:
    """CUDA graphs of one device, all in one pool of memory: they must be replayed on one stream, one after another.

    A graph keeps its results and nothing else of the pool to itself, so that the next one may use the rest. Threads may
    record at any time: models are tried while they are loaded, beside streams whose frames are captured.

    Small memsets that libraries make become kernels, where that can be (`sdstream.diffusion.graph_editing`).
    """

    name = "cuda_graph"

    def __init__(self, device: torch.device, library: Any = None, editor: GraphEditor | None = None) -> None:
        """`library` is `torch.cuda` by default, and `editor` then that of the process. Graphs of another library are
        no other editor's to touch: without one of its own they stay as they are recorded."""
        self._device = device
        self._editor = graph_editor() if library is None and editor is None else editor
        cuda: Any = library or torch.cuda
        self._cuda = cuda
        self._pool = cuda.graph_pool_handle()
        self._holder: Any = None

    def record(self, step: Callable[[], T]) -> "_CudaRecording[T]":
        cuda = self._cuda
        with one_at_a_time(), cuda.device(self._device):
            # A capture that fails leaves its stream the current one, unless there is another context around it.
            with cuda.stream(cuda.current_stream()):
                graph, result = self._record(step)
        return _CudaRecording(graph, result)

    def _record(self, step: Callable[[], T]) -> tuple[Any, T]:
        cuda = self._cuda
        if self._holder is None:
            self._holder = self._hold_pool()
        side = cuda.Stream()
        side.wait_stream(cuda.current_stream())
        with cuda.stream(side):
            for _ in range(WARM_UP):
                step()
        cuda.current_stream().wait_stream(side)
        cuda.synchronize()
        if self._editor is not None and self._editor.is_ready():
            edited = self._captured_and_edited(step, self._editor)
            if edited is not None:
                return edited
        graph = cuda.CUDAGraph()
        return graph, self._captured(graph, step)

    def _captured(self, graph: Any, step: Callable[[], T]) -> T:
        cuda = self._cuda
        try:
            # Of this thread only: another one may ask for the device's memory meanwhile.
            with cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                return step()
        except RuntimeError:
            # Torch takes a pool whose capture failed for one that is still being recorded into.
            self._pool, self._holder = cuda.graph_pool_handle(), None
            raise

    def _captured_and_edited(self, step: Callable[[], T], editor: GraphEditor) -> tuple[Any, T] | None:
        """None where the graph that was made can no longer be replayed, and should be recorded again as it is."""
        graph = self._cuda.CUDAGraph(keep_graph=True)  # its nodes, until it is let go
        result = self._captured(graph, step)
        try:
            editor.edit(graph.raw_cuda_graph())
            graph.instantiate()
        except RuntimeError as error:  # GraphSpoiled is one
            editor.give_up(error)
            graph.reset()
            return None
        return graph, result

    def _hold_pool(self) -> Any:
        """A graph that is never let go: torch ends a pool with its last graph, and knows it no more then."""
        cuda = self._cuda
        graph = cuda.CUDAGraph()
        with cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            kept = torch.zeros(1, device=self._device)
        return graph, kept

    def upload(self, source: torch.Tensor, target: torch.Tensor) -> None:
        # Pinned memory that is freed at once is given out again only when the copy is done: torch keeps count.
        target.copy_(source.pin_memory(), non_blocking=True)

    def is_refusal(self, error: RuntimeError) -> bool:
        if isinstance(error, torch.OutOfMemoryError):
            return True
        if isinstance(error, torch.AcceleratorError):
            return getattr(error, "error_code", None) in CAPTURE_ERRORS
        return True


class _CudaRecording(Generic[T]):
    def __init__(self, graph: Any, result: T) -> None:
        self._graph = graph
        self._result = result

    @property
    def result(self) -> T:
        return self._result

    def replay(self) -> None:
        self._graph.replay()

    def forget(self) -> None:
        self._graph.reset()


@cache
def cuda_capture(device: torch.device) -> CudaCapture:
    """The one capture of a device: all graphs of it share their pool."""
    return CudaCapture(device)


__all__ = ["Capture", "CudaCapture", "Recording", "cuda_capture", "one_at_a_time"]
