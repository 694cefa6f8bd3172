"""Kernels in the place of memsets in recorded graphs: the same bytes in the same order, or the graph as it was.

The driver is a stand-in that runs the kernels' PTX; on a GPU it is CUDA's.
"""

import importlib
import importlib.util
import logging
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as some

from sdstream.diffusion.capture import CudaCapture
from sdstream.diffusion.graph_editing.editor import GraphEditor, GraphSpoiled, driver_graphs
from sdstream.diffusion.graph_editing.kernel import PTX
from sdstream.diffusion.graph_editing.library import DriverGraphs, are_kinds_kept
from sdstream.diffusion.graph_editing.plan import MOST_BYTES, Edge, Memset, Node, fill_of, plan_of
from sdstream.diffusion.graph_editing.switch import recorded_memsets
from tests.diffusion.graph_driver import BASE, Add, CUgraphNodeType, Driver, EdgeData, Launch, MemsetParams
from tests.diffusion.test_capture import StandInLibrary

CPU = torch.device("cpu")
VERSION = "13.5.0"
SEEDS = range(8)
CALLS = (
    "cuGraphGetNodes",
    "cuGraphGetEdges",
    "cuGraphMemsetNodeGetParams",
    "cuGraphAddKernelNode",
    "cuGraphAddDependencies",
    "cuGraphDestroyNode",
)


def editor_of(driver: Driver, version: str = VERSION) -> GraphEditor:
    return GraphEditor(lambda: DriverGraphs(driver, version))


def line(size: int, width: int, *, at: int = 0, value: int = 0) -> MemsetParams:
    """A memset of a single row. What the driver says of its pitch means nothing."""
    return MemsetParams(BASE + at, 0, value, size, width, 1)


def branching(driver: Driver) -> int:
    """Two memsets behind each other and one beside them, over the same bytes as the kernels around them."""
    graph = driver.graph()
    before = driver.add(graph, Add(BASE, 300))
    first = driver.add(graph, line(1, 256, value=5), before)
    second = driver.add(graph, line(4, 9, at=32, value=0x01020304), first)
    beside = driver.add(graph, MemsetParams(BASE + 262, 6, 0xABCDEF, 2, 2, 5), before)
    between = driver.add(graph, Add(BASE + 40, 40), second)
    last = driver.add(graph, line(4, 4, at=64), between, beside)
    driver.add(graph, Add(BASE, 300), last)
    return graph


@settings(max_examples=60, deadline=None)
@given(
    size=some.sampled_from((1, 2, 4)),
    start=some.integers(0, 40),
    width=some.integers(1, 700),
    height=some.integers(1, 4),
    gap=some.integers(0, 20),
    value=some.integers(0, 2**32 - 1),
)
def test_a_kernel_writes_the_bytes_of_the_memset(
    size: int, start: int, width: int, height: int, gap: int, value: int
) -> None:
    driver = Driver(size=16384)
    graph = driver.graph()
    driver.add(graph, MemsetParams(BASE + size * start, size * (width + gap), value, size, width, height))
    wanted, editor = driver.replay(graph), editor_of(driver)
    assert editor.is_ready()
    assert editor.edit(graph) == 1
    assert driver.graphs[graph].types() == {Launch: 1}
    assert driver.replay(graph) == wanted


def test_an_assembler_takes_the_kernels_for_old_and_new_cards(tmp_path: Path) -> None:
    triton = importlib.util.find_spec("triton")
    if triton is None or triton.origin is None:
        pytest.skip("Triton, which has an assembler, comes with torch for CUDA only")
    assembler = Path(triton.origin).parent / "backends" / "nvidia" / "bin" / "ptxas"
    source = tmp_path / "fill.ptx"
    source.write_text(PTX)
    for card in ("sm_75", "sm_90", "sm_120"):
        command = [assembler, f"-arch={card}", source, "-o", tmp_path / card]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=150)
        assert (done.returncode, done.stderr) == (0, "")


def test_blocks_that_do_not_reach_go_on_to_what_is_left() -> None:
    driver = Driver(size=4096)
    graph = driver.graph()
    memset = driver.add(graph, MemsetParams(BASE, 200, 7, 1, 130, 20))
    wanted = driver.replay(graph)
    assert editor_of(driver).is_ready()  # the kernels are there
    library = DriverGraphs(driver, VERSION)
    launch = driver.graphs[graph].nodes[library.add(graph, fill_of(Memset(BASE, 200, 7, 1, 130, 20)))]  # type: ignore[arg-type]
    launch.grid, launch.threads = (2, 3), 16
    library.remove(memset)
    assert driver.replay(graph) == wanted


@pytest.mark.parametrize(
    ("memset", "store", "width", "threads", "blocks"),
    [
        (Memset(4096, 0, 0, 1, 64, 1), 16, 4, 32, (1, 1)),
        (Memset(4096, 0, 0, 4, 4096, 1), 16, 1024, 256, (4, 1)),
        (Memset(4100, 0, 0, 1, 64, 1), 4, 16, 32, (1, 1)),
        (Memset(4096, 32, 0, 1, 32, 8), 16, 16, 32, (1, 1)),
        (Memset(4096, 48, 0, 1, 32, 8), 16, 2, 32, (1, 8)),
        (Memset(4097, 0, 0, 1, MOST_BYTES, 1), 1, MOST_BYTES, 256, (1024, 1)),
        (Memset(4096, 2, 0, 1, 1, MOST_BYTES), 1, 1, 32, (1, 1024)),
    ],
)
def test_a_fill_stores_as_much_at_once_as_all_of_its_rows_allow(
    memset: Memset, store: int, width: int, threads: int, blocks: tuple[int, int]
) -> None:
    fill = fill_of(memset)
    assert fill is not None
    assert (fill.store, fill.width, fill.threads, fill.blocks) == (store, width, threads, blocks)


@pytest.mark.parametrize(
    "memset",
    [
        Memset(4096, 0, 0, 1, MOST_BYTES + 1, 1),
        Memset(4096, 0, 0, 1, 0, 1),
        Memset(4096, 4, 0, 1, 8, 2),
        Memset(4098, 0, 0, 4, 8, 1),
        Memset(4096, 0, 0, 8, 8, 1),
    ],
    ids=("large", "empty", "overlapping", "unaligned", "of eight bytes"),
)
def test_a_memset_that_is_large_or_makes_no_sense_stays(memset: Memset) -> None:
    assert plan_of([Node(1, "memset", memset)], []).fills == {}


def test_a_memset_at_a_programmatic_edge_stays_and_others_go() -> None:
    small = Memset(4096, 0, 0, 1, 64, 1)
    nodes = [Node(1, "memset", small), Node(2, "other"), Node(3, "memset", small)]
    plan = plan_of(nodes, [Edge(1, 2, plain=False), Edge(2, 3)])
    assert list(plan.fills) == [3]
    assert plan.edges == ((2, 3),)


def test_a_graph_that_allocates_memory_stays_as_it_is() -> None:
    driver = Driver()
    graph = driver.graph()
    driver.add(graph, line(1, 64), driver.add(graph, CUgraphNodeType.CU_GRAPH_NODE_TYPE_MEM_ALLOC))
    editor = editor_of(driver)
    assert editor.is_ready()
    assert editor.edit(graph) == 0
    assert driver.graphs[graph].types()[MemsetParams] == 1
    assert editor.is_ready(), "which is no failure"


def test_an_edited_graph_writes_in_the_order_that_was_recorded() -> None:
    driver = Driver()
    graph, editor = branching(driver), editor_of(driver)
    wanted = driver.replay(graph)
    assert all(driver.replay(graph, seed) == wanted for seed in SEEDS)
    assert editor.is_ready()
    assert editor.edit(graph) == 4
    assert driver.graphs[graph].types() == {Add: 3, Launch: 4}
    assert all(driver.replay(graph, seed) == wanted for seed in SEEDS)


def test_a_graph_of_more_edges_than_are_asked_for_at_first_is_edited_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sdstream.diffusion.graph_editing.library.ROOM", 2)
    test_an_edited_graph_writes_in_the_order_that_was_recorded()


@pytest.mark.parametrize(("version", "replaced"), [("12.9.6", 1), ("12.9.7", 0), ("13.2.0", 1), ("13.5.0", 0)])
def test_kinds_of_edges_count_where_the_bindings_give_them_back(version: str, replaced: int) -> None:
    driver = Driver()
    graph = driver.graph()
    driver.add(graph, line(1, 64), driver.add(graph, Add(BASE, 64)), data=EdgeData(from_port=1))
    editor = editor_of(driver, version)
    assert editor.is_ready()
    assert editor.edit(graph) == replaced
    assert are_kinds_kept(version) is not bool(replaced)


@pytest.mark.parametrize("number", [1, 2, 4])
@pytest.mark.parametrize("call", CALLS)
def test_a_failure_at_any_step_leaves_the_graph_as_it_was_recorded_or_says_that_it_is_spoiled(
    call: str, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    driver = Driver()
    graph, editor = branching(driver), editor_of(driver)
    wanted, types, edges = driver.replay(graph), driver.graphs[graph].types(), dict(driver.graphs[graph].edges)
    driver.fail(call, number)
    assert editor.is_ready()
    try:
        replaced = editor.edit(graph)
    except GraphSpoiled:
        assert call == "cuGraphDestroyNode"
        return
    assert driver.replay(graph) == wanted
    if number <= driver.calls[call]:
        assert replaced == 0
        assert (driver.graphs[graph].types(), driver.graphs[graph].edges) == (types, edges)
        assert not editor.is_ready(), "it is not tried again"
        editor.give_up(RuntimeError("again"))
        (record,) = caplog.records
        assert (record.levelno, call in record.getMessage()) == (logging.WARNING, True)
    else:
        assert replaced == 4


def test_a_failure_that_cannot_be_taken_back_spoils_the_graph() -> None:
    driver = Driver()
    graph, editor = branching(driver), editor_of(driver)
    driver.fail("cuGraphAddDependencies", 1)
    driver.fail("cuGraphDestroyNode", 2)
    assert editor.is_ready()
    with pytest.raises(GraphSpoiled):
        editor.edit(graph)


def absent() -> DriverGraphs:
    return DriverGraphs(importlib.import_module("cuda_bindings_that_nobody_has"), VERSION)


def too_old() -> DriverGraphs:
    return DriverGraphs(object(), VERSION)


def refusing() -> DriverGraphs:
    driver = Driver()
    driver.fail("cuModuleLoadData", 1)
    return DriverGraphs(driver, VERSION)


@pytest.mark.parametrize("load", [absent, too_old, refusing], ids=lambda load: load.__name__)
def test_without_a_library_that_works_nothing_is_edited(
    load: Callable[[], DriverGraphs], caplog: pytest.LogCaptureFixture
) -> None:
    editor = GraphEditor(load)
    assert not editor.is_ready()
    assert not editor.is_ready()
    assert len(caplog.records) == 1


class EditedLibrary(StandInLibrary):
    """`torch.cuda` whose graphs are those of a driver. It may refuse to instantiate those that were edited."""

    def __init__(self, driver: Driver, *, refuses_edited: bool = False) -> None:
        super().__init__()
        self.driver = driver
        self.refuses_edited = refuses_edited
        self.graphs: list[TorchGraph] = []

    def CUDAGraph(self, keep_graph: bool = False) -> Any:  # noqa: N802 - torch's name
        graph = TorchGraph(self, keep_graph)
        self.graphs.append(graph)
        return graph


class TorchGraph:
    def __init__(self, library: EditedLibrary, keep_graph: bool) -> None:
        self._library = library
        self._driver = library.driver
        self._kept = keep_graph
        self._raw = branching(self._driver)
        self.is_ready = not keep_graph
        self.is_reset = False

    def raw_cuda_graph(self) -> int:
        assert self._kept
        return self._raw

    def instantiate(self) -> None:
        assert self._kept
        if self._library.refuses_edited and self.types()[Launch]:
            raise RuntimeError("CUDA error: invalid argument")
        self.is_ready = True

    def replay(self) -> None:
        assert self.is_ready
        assert not self.is_reset
        self._driver.memory[:] = self._driver.replay(self._raw)

    def reset(self) -> None:
        self.is_reset = True

    def types(self) -> Any:
        return self._driver.graphs[self._raw].types()


def recorded(library: EditedLibrary) -> TorchGraph:
    """The graph of a capture, which was replayed and did as was recorded."""
    driver = library.driver
    editor = editor_of(driver)
    recording = CudaCapture(CPU, library, editor).record(lambda: 5)
    assert recording.result == 5
    wanted = driver.replay(branching(driver))
    recording.replay()
    assert driver.memory == wanted
    return library.graphs[-1]


def test_a_capture_edits_its_graph_before_it_is_instantiated() -> None:
    assert recorded(EditedLibrary(Driver())).types() == {Add: 3, Launch: 4}


def test_switched_off_a_capture_keeps_its_memsets() -> None:
    with recorded_memsets():
        assert recorded(EditedLibrary(Driver())).types() == {Add: 3, MemsetParams: 4}


def test_a_graph_that_was_spoiled_is_recorded_again_as_it_is(caplog: pytest.LogCaptureFixture) -> None:
    driver = Driver()
    driver.fail("cuGraphDestroyNode", 2)
    library = EditedLibrary(driver)
    assert recorded(library).types() == {Add: 3, MemsetParams: 4}
    assert [graph.is_reset for graph in library.graphs] == [False, True, False], "after the one that holds the pool"
    assert len(caplog.records) == 1


def test_a_graph_that_cannot_be_instantiated_as_it_was_edited_is_recorded_again_as_it_is(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert recorded(EditedLibrary(Driver(), refuses_edited=True)).types() == {Add: 3, MemsetParams: 4}
    assert len(caplog.records) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("kind", ["bytes", "halves", "words", "rows"])
@pytest.mark.parametrize("count", [3, 4096, 100_000])
def test_on_a_gpu_kernels_do_as_memsets_did_between_the_kernels_around_them(kind: str, count: int) -> None:
    driver: Any = pytest.importorskip("cuda.bindings.driver", reason="needs cuda-bindings")
    device = torch.device("cuda", torch.cuda.current_device())
    buffer = torch.zeros(4 * count + 64, dtype=torch.uint8, device=device)
    source, seen = torch.ones_like(buffer), torch.zeros_like(buffer)
    place = driver.CUdeviceptr(buffer.data_ptr() + 4)

    def clear() -> tuple[Any, ...]:
        stream = driver.CUstream(torch.cuda.current_stream().cuda_stream)
        match kind:
            case "bytes":
                return driver.cuMemsetD8Async(place, 0, count, stream)
            case "halves":
                return driver.cuMemsetD16Async(place, 0x0102, count, stream)
            case "words":
                return driver.cuMemsetD32Async(place, 0x01020304, count, stream)
            case _:
                return driver.cuMemsetD2D8Async(place, count + 5, 7, count, 3, stream)

    def step() -> torch.Tensor:
        torch.add(source, 1, out=buffer)
        assert clear() == (driver.CUresult.CUDA_SUCCESS,)
        torch.add(buffer, 3, out=seen)
        return seen

    def replayed(capture: CudaCapture) -> torch.Tensor:
        recording = capture.record(step)
        made: list[torch.Tensor] = []
        for value in (1, 7):
            source.fill_(value)
            seen.zero_()
            recording.replay()
            made.append(seen.cpu())
        recording.forget()
        return torch.stack(made)

    kinds: list[list[str]] = []

    class Watched(GraphEditor):
        def edit(self, graph: int) -> int:
            replaced = super().edit(graph)
            version: str = importlib.import_module("cuda.bindings").__version__
            kinds.append([node.kind for node in DriverGraphs(driver, version).nodes(graph)])
            return replaced

    edited = replayed(CudaCapture(device, editor=Watched(driver_graphs)))
    assert kinds == [["other"] * 3]
    with recorded_memsets():
        plain = replayed(CudaCapture(device))
    assert torch.equal(edited, plain)
    assert not torch.equal(edited[0], edited[1])
    assert (edited[:, 4:7] == edited[:1, 4:7]).all(), "what was cleared does not depend on what came before"
