"""The parts of image processors' networks as what engines are made of."""

from collections.abc import Callable, Mapping

from torch import nn

from sdstream.engines.component import Component, InputList, RowRange, dtype_name
from sdstream.engines.weights import digest_of_weights
from sdstream.worker.annotators.parted import NetworkPart, PartedNetwork, Shapes, shrunk_size

PROCESSORS: Mapping[str, str] = {"depth_tensorrt": "depth", "pose_tensorrt": "pose", "realesrgan_trt": "realesrgan"}
"""The image processors that are asked to run through engines, and the network of each."""
LARGEST = 1024
"""The longer side in pixels at which these look at most; larger pictures are shrunk for them."""


def part_component(
    part: NetworkPart,
    shapes: Shapes,
    streams: RowRange,
    network: str,
    digest: Callable[[nn.Module], str] = digest_of_weights,
) -> Component:
    """One part, for inputs of `shapes` and as many rows as `streams` have pictures. `network` is for people."""
    inputs = InputList(RowRange(1, streams.best, streams.most * part.rows))
    dtype = dtype_name(part.dtype)
    for name, shape in zip(part.inputs, shapes, strict=True):
        inputs.add(name, dtype, *shape)
    return Component(
        name=part.name,
        module=part.module,
        inputs=tuple(inputs.entries),
        outputs=part.outputs,
        config=part.config,
        weights=digest(part.module),
        dtype=dtype,
        model=network,
    )


def network_components(
    network: PartedNetwork, sizes: tuple[tuple[int, int], ...], streams: RowRange, name: str
) -> tuple[Component, ...]:
    """All parts for pictures of these sizes, (width, height) in pixels; what several sizes have in common is there
    once."""
    made: dict[tuple[str, Shapes], Component] = {}
    for width, height in sizes:
        for part, shapes in network.shapes(*shrunk_size(width, height, LARGEST)).items():
            if (part, shapes) not in made:
                made[part, shapes] = part_component(network.parts[part], shapes, streams, name)
    return tuple(made.values())


__all__ = ["LARGEST", "PROCESSORS", "network_components", "part_component"]
