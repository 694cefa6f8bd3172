"""As much of CUDA's driver as an edit of a graph needs, by way of cuda-bindings, which torch's CUDA wheels bring."""

import re
from collections.abc import Sequence
from typing import Any, Protocol

from sdstream.diffusion.graph_editing.kernel import PTX, name_of
from sdstream.diffusion.graph_editing.plan import STORES, Edge, Fill, Memset, Node

ROOM = 2048
"""For so many edges a graph is asked at first."""


class GraphRefused(RuntimeError):
    """The driver would not do what was asked of a graph."""


class GraphLibrary(Protocol):
    """Reads and changes graphs, which are known by their handles. What fails raises one of `EDITING_FAILURES`."""

    def prepare(self) -> None:
        """Make the kernels of fills ready in the context that is current. Must not be called while that records."""
        ...

    def nodes(self, graph: int) -> list[Node]: ...

    def edges(self, graph: int) -> list[Edge]: ...

    def add(self, graph: int, fill: Fill) -> int:
        """A node that does this in the context that is current, without edges; its handle."""
        ...

    def connect(self, graph: int, edges: Sequence[tuple[int, int]]) -> None:
        """Let the second node of each pair wait for all of the first. No pair may be there before."""
        ...

    def remove(self, node: int) -> None:
        """Take a node away, and all edges at it."""
        ...


EDITING_FAILURES = (ImportError, AttributeError, RuntimeError, TypeError, ValueError, OSError)
"""What comes of a driver that refuses, of bindings that are made for another driver, and of a torch that is too old."""


def are_kinds_kept(version: str) -> bool:
    """Whether these bindings give back the kinds of edges: before 12.9.7, and from 13.0 to 13.2, what they give lies in
    memory that they have freed.

    There all edges at memsets pass for plain ones. By CUDA's manual only kernels have ports and programmatic edges lead
    from kernels to kernels, so at the worst a memset's kernel waits for all of another where the memset did not.
    """
    major, minor, patch = (int(part) for part in (re.findall(r"\d+", version) + ["0"] * 3)[:3])
    return (major, minor) >= (13, 3) or (12, 9, 7) <= (major, minor, patch) < (13, 0, 0)


class DriverGraphs:
    """The driver's graphs. The context of the graphs must be the current one of the thread that asks."""

    def __init__(self, driver: Any, version: str) -> None:
        """`driver` is the module `cuda.bindings.driver`, of CUDA 12.3 or newer, and `version` that of the bindings."""
        self._driver = driver
        self._kinds_are_kept = are_kinds_kept(version)
        self._modules: dict[int, dict[int, Any]] = {}
        """The kernels by the bytes that they store at once, by context. They are never unloaded: graphs use them."""
        # Until CUDA 13 the calls that know of programmatic edges had names of their own.
        self._get_edges: Any = getattr(driver, "cuGraphGetEdges_v2", None) or driver.cuGraphGetEdges
        self._add_edges: Any = getattr(driver, "cuGraphAddDependencies_v2", None) or driver.cuGraphAddDependencies

    def prepare(self) -> None:
        self._kernels()

    def nodes(self, graph: int) -> list[Node]:
        driver = self._driver
        handle = driver.CUgraph(graph)
        _, count = self._done("cuGraphGetNodes", driver.cuGraphGetNodes(handle))
        if not count:
            return []
        found, count = self._done("cuGraphGetNodes", driver.cuGraphGetNodes(handle, count))
        return [self._node(each) for each in found[:count]]

    def _node(self, handle: Any) -> Node:
        driver = self._driver
        kinds = driver.CUgraphNodeType
        (kind,) = self._done("cuGraphNodeGetType", driver.cuGraphNodeGetType(handle))
        if kind in (kinds.CU_GRAPH_NODE_TYPE_MEM_ALLOC, kinds.CU_GRAPH_NODE_TYPE_MEM_FREE):
            return Node(int(handle), "memory")
        if kind != kinds.CU_GRAPH_NODE_TYPE_MEMSET:
            return Node(int(handle), "other")
        (found,) = self._done("cuGraphMemsetNodeGetParams", driver.cuGraphMemsetNodeGetParams(handle))
        memset = Memset(
            destination=int(found.dst),
            pitch=int(found.pitch),
            value=int(found.value),
            element_size=int(found.elementSize),
            width=int(found.width),
            height=int(found.height),
        )
        return Node(int(handle), "memset", memset)

    def edges(self, graph: int) -> list[Edge]:
        # Not for their number first: without room for their kinds the driver may refuse to speak of programmatic ones.
        handle, room = self._driver.CUgraph(graph), ROOM
        while True:
            sources, targets, kinds, count = self._done("cuGraphGetEdges", self._get_edges(handle, room))
            if count < room:
                break
            room *= 2
        plain = [
            not self._kinds_are_kept or not (kind.from_port or kind.to_port or kind.type) for kind in kinds[:count]
        ]
        ends = zip(sources[:count], targets[:count], plain, strict=True)
        return [Edge(int(source), int(target), is_plain) for source, target, is_plain in ends]

    def add(self, graph: int, fill: Fill) -> int:
        driver = self._driver
        # The node takes the values when it is made; until then these own them.
        values = tuple(
            driver.cuuint64_t(value) for value in (fill.destination, fill.pitch, fill.width, fill.height, fill.pattern)
        )
        wanted = driver.CUDA_KERNEL_NODE_PARAMS()
        wanted.func = self._kernels()[fill.store]
        wanted.gridDimX, wanted.gridDimY = fill.blocks
        wanted.gridDimZ = wanted.blockDimY = wanted.blockDimZ = 1
        wanted.blockDimX = fill.threads
        wanted.sharedMemBytes = 0
        wanted.kernelParams = (values, (None,) * len(values))
        made = driver.cuGraphAddKernelNode(driver.CUgraph(graph), None, 0, wanted)
        (node,) = self._done("cuGraphAddKernelNode", made)
        return int(node)

    def connect(self, graph: int, edges: Sequence[tuple[int, int]]) -> None:
        if not edges:
            return
        driver = self._driver
        sources = [driver.CUgraphNode(source) for source, _ in edges]
        targets = [driver.CUgraphNode(target) for _, target in edges]
        made = self._add_edges(driver.CUgraph(graph), sources, targets, None, len(edges))
        self._done("cuGraphAddDependencies", made)

    def remove(self, node: int) -> None:
        driver = self._driver
        self._done("cuGraphDestroyNode", driver.cuGraphDestroyNode(driver.CUgraphNode(node)))

    def _kernels(self) -> dict[int, Any]:
        driver = self._driver
        (context,) = self._done("cuCtxGetCurrent", driver.cuCtxGetCurrent())
        if not int(context):
            raise GraphRefused("no context is current")
        kernels = self._modules.get(int(context))
        if kernels is None:
            (module,) = self._done("cuModuleLoadData", driver.cuModuleLoadData(PTX.encode() + b"\0"))
            kernels = {store: self._kernel(module, store) for store in STORES}
            self._modules[int(context)] = kernels
        return kernels

    def _kernel(self, module: Any, store: int) -> Any:
        found = self._driver.cuModuleGetFunction(module, name_of(store).encode())
        return self._done("cuModuleGetFunction", found)[0]

    def _done(self, call: str, answer: tuple[Any, ...]) -> tuple[Any, ...]:
        """What a call gave back besides its error."""
        error, *rest = answer
        if error != self._driver.CUresult.CUDA_SUCCESS:
            raise GraphRefused(f"{call}: {getattr(error, 'name', error)}")
        return tuple(rest)


__all__ = ["EDITING_FAILURES", "DriverGraphs", "GraphLibrary", "GraphRefused"]
