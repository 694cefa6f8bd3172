"""What image processors cost, how large a picture they look at and how often: declared, and kept true by tests."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sdstream.params.processors import IMAGE_PROCESSORS

LARGEST_SIDE = 4096
"""Of any picture on the wire, in pixels: what is looked at whole."""


@dataclass(frozen=True, slots=True)
class ProcessorCost:
    """Of a picture of 512x512 under the parameters' defaults, as often as it is looked at.

    `gigaflops` are billions of operations on the device: with a network those of its products and convolutions, as
    torch counts them; without one each number that is made counts as one. `milliseconds` are what a library takes on
    one core of the host instead; 0 where none does. `largest` is the longer side in pixels of the picture that is
    looked at: larger ones are shrunk for it. `extra` gigaflops come with a switch that is on, for one person.
    """

    gigaflops: float = 0.0
    milliseconds: float = 0.0
    largest: int = 1024
    sees: str = ""
    """How large its network is given that picture, in words for people; empty for as it is."""
    has_network: bool = True
    extra: Mapping[str, float] = field(default_factory=dict[str, float])

    def at(self, params: Mapping[str, Any]) -> float:
        """Gigaflops for each picture of the stream under these parameters, held maps counted."""
        told = sum(more for switch, more in self.extra.items() if params.get(switch))
        return (self.gigaflops + told) / interval_of(params)


DEPTH_SEES = "its network gets at most 518 on the shorter side"


def _plain(gigaflops: float) -> ProcessorCost:
    return ProcessorCost(gigaflops, largest=LARGEST_SIDE, has_network=False)


COSTS: Mapping[str, ProcessorCost] = {
    "blur": _plain(0.0252),
    "canny": _plain(0.0268),
    "depth": ProcessorCost(115.3, sees=DEPTH_SEES),
    "depth_tensorrt": ProcessorCost(115.3, sees=DEPTH_SEES),
    "external": _plain(0.0),
    "feedback": _plain(0.0008),
    "hed": ProcessorCost(160.4),
    "lineart": ProcessorCost(161.2),
    "mediapipe_pose": ProcessorCost(milliseconds=66.0),
    "mediapipe_segmentation": ProcessorCost(milliseconds=10.0),
    "openpose": ProcessorCost(
        271.9,
        sees="its network gets it 368 pixels high",
        extra={"include_hands": 2 * 206.4, "include_face": 213.1},
    ),
    "passthrough": _plain(0.0),
    "pose_tensorrt": ProcessorCost(94.3),
    "realesrgan_trt": ProcessorCost(2350.4),
    "sharpen": _plain(0.0740),
    "soft_edge": _plain(0.0127),
    "standard_lineart": _plain(0.0625),
    "temporal_net_tensorrt": ProcessorCost(milliseconds=4.7, has_network=False),
    "upscale": _plain(0.0031),
}
"""By wire name. `pose_tensorrt` is counted with one person. Milliseconds are measured (docs/verified.md and
docs/performance.md say where): MediaPipe's for the default networks, `temporal_net_tensorrt`'s for OpenCV's flow."""


def interval_of(params: Mapping[str, Any]) -> int:
    """A processor with these parameters looks at every so many pictures, 1 for each."""
    return max(1, int(params.get("interval") or 1))


def describe_cost(name: str) -> str:
    """Its cost, largest picture and rate in a line, for people."""
    cost, interval = COSTS[name], interval_of(IMAGE_PROCESSORS[name].defaults)
    host = f"{cost.milliseconds:g} ms on one core of the host" if cost.milliseconds else ""
    extra = "".join(f", {more:g} more for one person with `{switch}`" for switch, more in cost.extra.items())
    spent = host or (f"{cost.gigaflops:g} GFLOP{extra}" if cost.gigaflops else "nothing")
    rate = "every picture" if interval == 1 else f"one of {interval} pictures"
    own = " (`interval`)" if "interval" in IMAGE_PROCESSORS[name].defaults else ""
    side = f" ({cost.sees})" if cost.sees else ""
    return (
        f"A picture of 512x512 costs {spent}. Processes {cost.largest} pixels on the longer side at most{side}, and "
        f"{rate}{own}."
    )


__all__ = ["COSTS", "ProcessorCost", "describe_cost", "interval_of"]
