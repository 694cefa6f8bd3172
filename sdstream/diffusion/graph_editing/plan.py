"""Which memset nodes of a recorded graph a kernel node replaces, and how it writes their bytes: plain arithmetic."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

MOST_BYTES = 1024 * 1024
"""What is larger stays with the driver, which fills it as fast as memory takes it. The wait around it counts little."""
STORES = (16, 4, 2, 1)
"""The bytes that a thread may write at once, most first."""
MOST_THREADS = 256
MOST_BLOCKS = 1024
"""In each direction; a thread goes on to the next place where there are more."""

NodeKind = Literal["memset", "memory", "other"]
"""`memory` allocates or frees some: from a graph that has such a node none can be removed."""


@dataclass(frozen=True, slots=True)
class Memset:
    """What a memset node writes: `height` rows of `width` elements of `element_size` (1, 2 or 4) bytes, `pitch` bytes
    apart. Each element holds the low bytes of `value`; of a single row the pitch means nothing."""

    destination: int
    pitch: int
    value: int
    element_size: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Node:
    """A node by its handle; `memset` is what one of that kind writes."""

    handle: int
    kind: NodeKind
    memset: Memset | None = None


@dataclass(frozen=True, slots=True)
class Edge:
    """`target` waits for `source`, both handles. A `plain` one waits for all of it, as programmatic ones do not."""

    source: int
    target: int
    plain: bool = True


@dataclass(frozen=True, slots=True)
class Fill:
    """A launch that writes what a memset does: `height` rows of `width` stores of `store` bytes, `pitch` bytes apart.

    `pattern` are four bytes, of which each store repeats as many as it takes.
    """

    destination: int
    pitch: int
    width: int
    height: int
    pattern: int
    store: int

    @property
    def threads(self) -> int:
        """Of a block: whole warps."""
        return min(MOST_THREADS, 32 * -(-self.width // 32))

    @property
    def blocks(self) -> tuple[int, int]:
        """Along the rows, and across them."""
        return min(MOST_BLOCKS, -(-self.width // self.threads)), min(MOST_BLOCKS, self.height)


@dataclass(frozen=True, slots=True)
class Plan:
    """The fills by the handles of the nodes that they replace, and the edges that begin or end at these, as handles of
    the graph as it was recorded."""

    fills: dict[int, Fill]
    edges: tuple[tuple[int, int], ...]


def fill_of(memset: Memset) -> Fill | None:
    """The launch that does as this memset, or None for one that should stay."""
    size, height = memset.element_size, memset.height
    row = memset.width * size
    if size not in (1, 2, 4) or not 0 < row * height <= MOST_BYTES:
        return None
    pitch = memset.pitch if height > 1 else row
    if pitch < row or memset.destination % size or pitch % size:
        return None
    if pitch == row:
        row, height = row * height, 1
        pitch = row
    pattern = memset.value % 256**size
    pattern *= {1: 0x01010101, 2: 0x00010001, 4: 1}[size]
    store = next(each for each in STORES if not (memset.destination % each or pitch % each or row % each))
    return Fill(memset.destination, pitch, row // store, height, pattern, store)


def plan_of(nodes: Sequence[Node], edges: Sequence[Edge]) -> Plan:
    """What to replace: each memset that a kernel can do as well, and around which all edges are plain."""
    if any(node.kind == "memory" for node in nodes):
        return Plan({}, ())
    bound = {end for edge in edges if not edge.plain for end in (edge.source, edge.target)}
    fills: dict[int, Fill] = {}
    for node in nodes:
        fill = None if node.memset is None or node.handle in bound else fill_of(node.memset)
        if fill is not None:
            fills[node.handle] = fill
    around = [(edge.source, edge.target) for edge in edges if edge.source in fills or edge.target in fills]
    return Plan(fills, tuple(dict.fromkeys(around)))


__all__ = ["MOST_BYTES", "STORES", "Edge", "Fill", "Memset", "Node", "NodeKind", "Plan", "fill_of", "plan_of"]
