"""Replaces the memset nodes of a recorded graph by kernels, or leaves it as it was."""

import importlib
import logging
from collections.abc import Callable, Iterable
from functools import cache

import torch

from sdstream.diffusion.graph_editing.library import EDITING_FAILURES, DriverGraphs, GraphLibrary
from sdstream.diffusion.graph_editing.plan import Plan, plan_of
from sdstream.diffusion.graph_editing.switch import are_memsets_replaced
from sdstream.errors import first_line

logger = logging.getLogger(__name__)


class GraphSpoiled(RuntimeError):
    """An edit ended half-way: this graph must not be replayed."""


class GraphEditor:
    """Edits the graphs of a process until it fails once. One thread at a time may use it: who records does."""

    def __init__(self, load: Callable[[], GraphLibrary]) -> None:
        """`load` is called when the first graph is recorded. What is not here raises one of `EDITING_FAILURES`."""
        self._load = load
        self._library: GraphLibrary | None = None
        self._failed = False

    def is_ready(self) -> bool:
        """Whether graphs recorded now can be edited and should be: with the device's context current, and before the
        recording begins."""
        if self._failed or not are_memsets_replaced():
            return False
        try:
            library = self._library or self._load()
            library.prepare()
        except EDITING_FAILURES as error:
            self.give_up(error)
            return False
        self._library = library
        return True

    def edit(self, graph: int) -> int:
        """Replace what can be replaced in this graph, not instantiated yet; how many nodes that were.

        Where that fails the graph does as it was recorded to do nevertheless, but for `GraphSpoiled`.
        """
        if self._library is None:
            return 0
        try:
            plan = plan_of(self._library.nodes(graph), self._library.edges(graph))
            return self._carry_out(self._library, graph, plan)
        except GraphSpoiled:
            raise
        except EDITING_FAILURES as error:
            self.give_up(error)
            return 0

    def give_up(self, error: Exception) -> None:
        """Leave all graphs as they are recorded from now on, and say why, once."""
        if not self._failed:
            logger.warning("memsets stay in captured frames: %s: %s", type(error).__name__, first_line(error))
        self._failed = True

    def _carry_out(self, library: GraphLibrary, graph: int, plan: Plan) -> int:
        made: dict[int, int] = {}
        try:
            for memset, fill in plan.fills.items():
                made[memset] = library.add(graph, fill)
            library.connect(
                graph, [(made.get(source, source), made.get(target, target)) for source, target in plan.edges]
            )
        except EDITING_FAILURES:
            # Nobody may wait yet for what was added, which could write at any time. It goes, and its edges with it.
            self._remove(library, made.values())
            raise
        # A memset that stays while one behind it goes would wait for less than it did: all of them go, or it is over.
        self._remove(library, made)
        return len(made)

    def _remove(self, library: GraphLibrary, nodes: Iterable[int]) -> None:
        try:
            for node in nodes:
                library.remove(node)
        except EDITING_FAILURES as error:
            raise GraphSpoiled(first_line(error)) from error


def driver_graphs() -> DriverGraphs:
    """The graphs of the CUDA that torch runs on. Raises one of `EDITING_FAILURES` where there are none."""
    if torch.version.cuda is None:
        raise ImportError("torch is not made for CUDA")
    driver, bindings = (importlib.import_module(name) for name in ("cuda.bindings.driver", "cuda.bindings"))
    return DriverGraphs(driver, bindings.__version__)


@cache
def graph_editor() -> GraphEditor:
    """The one editor of a process."""
    return GraphEditor(driver_graphs)


__all__ = ["GraphEditor", "GraphSpoiled", "driver_graphs", "graph_editor"]
