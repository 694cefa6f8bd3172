"""A stand-in for `cuda.bindings.driver` and its graphs, on bytes of the host: it runs memsets, and the PTX of kernels.

It answers as the bindings of CUDA 13 do: a tuple that begins with the error, Nones behind one that is none.
"""

import random
import re
from collections import Counter
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

BASE = 0x7F00_0000_0000
"""Where the memory begins."""
CONTEXT = 77


class CUresult(IntEnum):
    CUDA_SUCCESS = 0
    CUDA_ERROR_INVALID_VALUE = 1
    CUDA_ERROR_NOT_FOUND = 500


class CUgraphNodeType(IntEnum):
    CU_GRAPH_NODE_TYPE_KERNEL = 0
    CU_GRAPH_NODE_TYPE_MEMSET = 2
    CU_GRAPH_NODE_TYPE_MEM_ALLOC = 10
    CU_GRAPH_NODE_TYPE_MEM_FREE = 11


class Handle:
    """As the bindings' handles and numbers: objects, and no integers."""

    def __init__(self, init_value: int = 0) -> None:
        self._value = int(init_value)

    def __int__(self) -> int:
        return self._value

    def getPtr(self) -> int:  # noqa: N802 - the bindings' name
        return id(self)


class CUDA_KERNEL_NODE_PARAMS:  # noqa: N801 - the bindings' name
    func: Any = None
    gridDimX = gridDimY = gridDimZ = 0  # noqa: N815
    blockDimX = blockDimY = blockDimZ = 0  # noqa: N815
    sharedMemBytes = 0  # noqa: N815
    kernelParams: Any = None  # noqa: N815


@dataclass
class MemsetParams:
    dst: int
    pitch: int
    value: int
    elementSize: int  # noqa: N815
    width: int
    height: int

    def write(self, memory: bytearray) -> None:
        element = (self.value % 256**self.elementSize).to_bytes(self.elementSize, "little")
        row = element * self.width
        for number in range(self.height):
            start = self.dst - BASE + number * self.pitch
            memory[start : start + len(row)] = row


@dataclass
class EdgeData:
    from_port: int = 0
    to_port: int = 0
    type: int = 0


class Kernel:
    """One entry of PTX, as far as the project's kernels go: all its threads, one after the other."""

    def __init__(self, text: str) -> None:
        self.parameters = re.findall(r"\.param \.u64 (\w+)", text.partition("{")[0])
        self._lines: list[tuple[str | None, str, list[str]]] = []
        self._labels: dict[str, int] = {}
        for line in text.partition("{")[2].splitlines():
            line = line.strip()
            if line.endswith(":"):
                self._labels[line[:-1]] = len(self._lines)
            elif line.endswith(";") and not line.startswith(".reg"):
                guard, operation, operands = re.fullmatch(r"(?:@(%\w+) )?([\w.]+) ?(.*);", line).groups()  # type: ignore[union-attr]
                self._lines.append((guard, operation, re.findall(r"[%\w.]+", operands)))

    def run(self, memory: bytearray, grid: tuple[int, int], threads: int, values: list[int]) -> None:
        for line in range(grid[1]):
            for block in range(grid[0]):
                for thread in range(threads):
                    special = {"ctaid.x": block, "ctaid.y": line, "nctaid.x": grid[0], "nctaid.y": grid[1]}
                    special |= {"tid.x": thread, "ntid.x": threads}
                    self._thread(memory, {f"%{name}": value for name, value in special.items()}, values)

    def _thread(self, memory: bytearray, registers: dict[str, int], values: list[int]) -> None:
        given = dict(zip(self.parameters, values, strict=True))

        def value(name: str) -> int:
            return registers[name] if name.startswith("%") else int(name)

        at = 0
        while True:
            guard, operation, operands = self._lines[at]
            at += 1
            if guard is not None and not registers[guard]:
                continue
            kind, _, width = operation.rpartition(".")
            match kind or width:
                case "ret":
                    return
                case "bra":
                    at = self._labels[operands[0]]
                case "ld.param":
                    registers[operands[0]] = given[operands[1]]
                case "st.global" | "st.global.v4":
                    size = int(width[1:]) // 8
                    stored = b"".join((value(name) % 256**size).to_bytes(size, "little") for name in operands[1:])
                    place = value(operands[0]) - BASE
                    assert place >= 0
                    assert place + len(stored) <= len(memory), "a store outside of memory"
                    assert place % len(stored) == 0, "a store that is not aligned"
                    memory[place : place + len(stored)] = stored
                case "mov" | "cvta.to.global" | "cvt.u32" | "cvt.u64":
                    bits = 32 if operation.startswith(("cvt.u32", "mov.u32")) else 64
                    registers[operands[0]] = value(operands[1]) % 2**bits
                case "add":
                    registers[operands[0]] = (value(operands[1]) + value(operands[2])) % 2**64
                case "mul.wide":
                    registers[operands[0]] = value(operands[1]) * value(operands[2])
                case "mad.lo":
                    total = value(operands[1]) * value(operands[2]) + value(operands[3])
                    registers[operands[0]] = total % 2**64
                case "setp.ge":
                    registers[operands[0]] = value(operands[1]) >= value(operands[2])
                case _:
                    raise NotImplementedError(operation)


@dataclass
class Graph:
    """Nodes by their handles, in any order: what each does, or the type of one that does nothing here."""

    nodes: dict[int, Any] = field(default_factory=dict)
    edges: dict[tuple[int, int], EdgeData] = field(default_factory=dict)

    def types(self) -> Counter[type]:
        return Counter(type(node) for node in self.nodes.values())


@dataclass
class Launch:
    kernel: Kernel
    grid: tuple[int, int]
    threads: int
    values: list[int]

    def write(self, memory: bytearray) -> None:
        self.kernel.run(memory, self.grid, self.threads, self.values)


@dataclass
class Add:
    """A kernel of somebody else's, which adds one to each of these bytes, so that it shows when it came."""

    start: int
    count: int

    def write(self, memory: bytearray) -> None:
        for place in range(self.start - BASE, self.start - BASE + self.count):
            memory[place] = (3 * memory[place] + 1) % 256


class Driver:
    """The module, with memory of so many bytes. `fail` makes the n-th call, from 1, of a function fail."""

    CUresult = CUresult
    CUgraphNodeType = CUgraphNodeType
    CUgraph = CUgraphNode = cuuint64_t = Handle
    CUDA_KERNEL_NODE_PARAMS = CUDA_KERNEL_NODE_PARAMS

    def __init__(self, size: int = 4096) -> None:
        self.memory = bytearray(random.Random(0).randbytes(size))
        self.graphs: dict[int, Graph] = {}
        self.calls: Counter[str] = Counter()
        self.failures: dict[str, range] = {}
        self._last = 1000
        self._kernels: dict[int, Kernel] = {}

    def fail(self, call: str, number: int, *, times: int = 1) -> None:
        self.failures[call] = range(number, number + times)

    def graph(self) -> int:
        handle = self._new()
        self.graphs[handle] = Graph()
        return handle

    def add(self, graph: int, node: Any, *after: int, data: EdgeData | None = None) -> int:
        handle = self._new()
        self.graphs[graph].nodes[handle] = node
        self.graphs[graph].edges |= {(each, handle): data or EdgeData() for each in after}
        return handle

    def replay(self, graph: int, seed: int = 0) -> bytes:
        """What memory holds after all nodes wrote, in an order that edges allow."""
        chance, found, memory = random.Random(seed), self.graphs[graph], bytearray(self.memory)
        waiting = dict(found.nodes)
        while waiting:
            blocked = {target for source, target in found.edges if source in waiting}
            handle = chance.choice([each for each in waiting if each not in blocked])
            node = waiting.pop(handle)
            if hasattr(node, "write"):
                node.write(memory)
        return bytes(memory)

    def _new(self) -> int:
        self._last += 1
        return self._last

    def _fails(self, call: str) -> bool:
        self.calls[call] += 1
        return self.calls[call] in self.failures.get(call, range(0))

    def _holder(self, node: Handle) -> Graph:
        return next(graph for graph in self.graphs.values() if int(node) in graph.nodes)

    def cuCtxGetCurrent(self) -> tuple[Any, ...]:  # noqa: N802
        return (CUresult.CUDA_SUCCESS, Handle(CONTEXT))

    def cuModuleLoadData(self, image: bytes) -> tuple[Any, ...]:  # noqa: N802
        if self._fails("cuModuleLoadData") or not image.endswith(b"\0"):
            return (CUresult.CUDA_ERROR_INVALID_VALUE, None)
        self._names = {}
        for text in image[:-1].decode().split(".visible .entry ")[1:]:
            handle = self._new()
            self._names[text.partition("(")[0]] = handle
            self._kernels[handle] = Kernel(text)
        return (CUresult.CUDA_SUCCESS, Handle(self._new()))

    def cuModuleGetFunction(self, module: Handle, name: bytes) -> tuple[Any, ...]:  # noqa: N802
        handle = self._names.get(name.decode())
        if handle is None:
            return (CUresult.CUDA_ERROR_NOT_FOUND, None)
        return (CUresult.CUDA_SUCCESS, Handle(handle))

    def cuGraphGetNodes(self, graph: Handle, count: int = 0) -> tuple[Any, ...]:  # noqa: N802
        if self._fails("cuGraphGetNodes"):
            return (CUresult.CUDA_ERROR_INVALID_VALUE, None, None)
        nodes = [Handle(each) for each in self.graphs[int(graph)].nodes]
        return (CUresult.CUDA_SUCCESS, nodes[:count], min(count, len(nodes)) if count else len(nodes))

    def cuGraphNodeGetType(self, node: Handle) -> tuple[Any, ...]:  # noqa: N802
        kinds = CUgraphNodeType
        match self._holder(node).nodes[int(node)]:
            case CUgraphNodeType() as kind:
                return (CUresult.CUDA_SUCCESS, kind)
            case MemsetParams():
                return (CUresult.CUDA_SUCCESS, kinds.CU_GRAPH_NODE_TYPE_MEMSET)
            case _:
                return (CUresult.CUDA_SUCCESS, kinds.CU_GRAPH_NODE_TYPE_KERNEL)

    def cuGraphMemsetNodeGetParams(self, node: Handle) -> tuple[Any, ...]:  # noqa: N802
        if self._fails("cuGraphMemsetNodeGetParams"):
            return (CUresult.CUDA_ERROR_INVALID_VALUE, None)
        return (CUresult.CUDA_SUCCESS, self._holder(node).nodes[int(node)])

    def cuGraphGetEdges(self, graph: Handle, room: int = 0) -> tuple[Any, ...]:  # noqa: N802
        if self._fails("cuGraphGetEdges"):
            return (CUresult.CUDA_ERROR_INVALID_VALUE, None, None, None, None)
        edges = self.graphs[int(graph)].edges
        rows = [(Handle(source), Handle(target), data) for (source, target), data in edges.items()][:room]
        rows += [(Handle(), Handle(), EdgeData())] * (room - len(rows))
        lists = [list(column) for column in zip(*rows, strict=True)] or [[], [], []]
        return (CUresult.CUDA_SUCCESS, *lists, min(room, len(edges)) if room else len(edges))

    def cuGraphAddKernelNode(  # noqa: N802
        self, graph: Handle, after: Any, count: int, wanted: CUDA_KERNEL_NODE_PARAMS
    ) -> tuple[Any, ...]:
        values, types = wanted.kernelParams
        kernel = self._kernels[int(wanted.func)]
        grid = (wanted.gridDimX, wanted.gridDimY, wanted.gridDimZ)
        block = (wanted.blockDimX, wanted.blockDimY, wanted.blockDimZ)
        right = types == (None,) * len(kernel.parameters) == (None,) * len(values) and not (after or count)
        right = right and grid[2:] + block[1:] == (1, 1, 1) and min(grid + block) > 0
        if self._fails("cuGraphAddKernelNode") or not right:
            return (CUresult.CUDA_ERROR_INVALID_VALUE, None)
        launch = Launch(kernel, grid[:2], block[0], [int(value) for value in values])
        return (CUresult.CUDA_SUCCESS, Handle(self.add(int(graph), launch)))

    def cuGraphAddDependencies(  # noqa: N802
        self, graph: Handle, sources: list[Handle], targets: list[Handle], data: Any, count: int
    ) -> tuple[Any, ...]:
        found = self.graphs[int(graph)]
        new = [(int(source), int(target)) for source, target in zip(sources, targets, strict=True)]
        known = all(end in found.nodes for edge in new for end in edge)
        broken = self._fails("cuGraphAddDependencies")
        if len(new) != count or not known or len(set(new)) < count or any(edge in found.edges for edge in new):
            return (CUresult.CUDA_ERROR_INVALID_VALUE,)
        # One that fails may have done a part of it.
        found.edges |= {edge: EdgeData() for edge in (new[: count // 2] if broken else new)}
        return (CUresult.CUDA_ERROR_INVALID_VALUE if broken else CUresult.CUDA_SUCCESS,)

    def cuGraphDestroyNode(self, node: Handle) -> tuple[Any, ...]:  # noqa: N802
        graph = self._holder(node)
        memory = {CUgraphNodeType.CU_GRAPH_NODE_TYPE_MEM_ALLOC, CUgraphNodeType.CU_GRAPH_NODE_TYPE_MEM_FREE}
        holds = any(isinstance(each, CUgraphNodeType) and each in memory for each in graph.nodes.values())
        if self._fails("cuGraphDestroyNode") or holds:
            return (CUresult.CUDA_ERROR_INVALID_VALUE,)
        del graph.nodes[int(node)]
        graph.edges = {edge: data for edge, data in graph.edges.items() if int(node) not in edge}
        return (CUresult.CUDA_SUCCESS,)
