"""The image processors that look with a network, and the one that follows motion."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sdstream.worker.annotators.edges import in_steps
from sdstream.worker.annotators.landmarks import Landmark, Landmarker, PoseOptions, PoseTask, skeleton_of
from sdstream.worker.annotators.motion import FlowFinder, draw_flow, warp
from sdstream.worker.annotators.skeletons import Skeleton, draw_skeletons
from sdstream.worker.colour import resize
from sdstream.worker.files.published import OPENPOSE_NETWORKS, PERSON_TASKS, POSE_TASKS
from sdstream.worker.looks import Look, Looking
from sdstream.worker.processors.base import LookingProcessor, ProcessorContext
from sdstream.worker.processors.filters import gaussian

HED_LEAST, LINEART_LEAST = 16, 8
"""Pixels of a side below which these networks have nothing left after their last halving; such pictures are stretched
for them."""
MOST_DELAY = 8
"""Pictures that are remembered at most to follow motion from: more than denoising has steps."""


@dataclass(frozen=True, slots=True)
class LearnedProcessor:
    """How one is run.

    `network` says by its parameters which network it needs, None for none. `steady` ones look at every `interval`-th
    picture only, by their parameters, and show the same until then. `engines` says whether engines are looked for.
    `shared` ones are asked once for all streams of a call that have the same network and size. A `spare` one works
    without its network, too. What they cost, and how large a picture they look at, is in `sdstream.params.costs`.
    """

    run: LookingProcessor
    network: Callable[[Mapping[str, Any]], str | None]
    steady: bool = True
    engines: bool = False
    shared: bool = True
    spare: bool = False


def depth(image: torch.Tensor, params: Mapping[str, Any], context: ProcessorContext) -> Looking[torch.Tensor]:
    """`depth` and `depth_tensorrt`: near is bright."""
    return _three((yield _look(context, image)))


def hed(image: torch.Tensor, params: Mapping[str, Any], context: ProcessorContext) -> Looking[torch.Tensor]:
    """`hed`: soft outlines, white on black."""
    height, width = image.shape[2:]
    fitting = resize(image, max(HED_LEAST, width), max(HED_LEAST, height))
    edges = yield _look(context, fitting)
    edges = resize(edges, width, height)
    return _three(in_steps(edges) if params["safe"] else edges)


def lineart(image: torch.Tensor, params: Mapping[str, Any], context: ProcessorContext) -> Looking[torch.Tensor]:
    """`lineart`: a drawing, white on black."""
    height, width = image.shape[2:]
    fitting = resize(image, *(max(LINEART_LEAST, -(-side // 4) * 4) for side in (width, height)))
    drawing = yield _look(context, fitting)
    return _three(resize(1.0 - drawing, width, height))


def openpose(image: torch.Tensor, params: Mapping[str, Any], context: ProcessorContext) -> Looking[torch.Tensor]:
    """`openpose`: stick figures, with hands and faces where the network has them."""
    people: list[Sequence[Skeleton]] = []
    for one in _each(image):
        finding: Looking[list[Skeleton]] = context.network.find(one)
        found = yield from finding
        people.append(found)
    return _draw(image, people)


def mediapipe_pose(image: torch.Tensor, params: Mapping[str, Any], context: ProcessorContext) -> Looking[torch.Tensor]:
    """`mediapipe_pose`: the stick figure of one person, who is followed from picture to picture. One at a time."""
    yield from ()  # it runs on the host, stream by stream
    values = context.memory.values
    options = PoseOptions(
        float(params["min_detection_confidence"]),
        float(params["min_tracking_confidence"]),
        bool(params["static_image_mode"]),
    )
    task: PoseTask = context.network
    known: tuple[PoseTask, Landmarker] | None = values.get("landmarker")
    if known is None or known[0] is not task or known[1].options != options:
        values["landmarker"] = known = (task, task.landmarker(options))
    found = known[1].find(image)
    earlier: tuple[Landmark, ...] | None = values.get("landmarks")
    if found is not None and earlier is not None and params["enable_smoothing"]:
        kept = float(params["smoothing_factor"])
        found = tuple(
            (kept * old[0] + (1 - kept) * new[0], kept * old[1] + (1 - kept) * new[1], new[2])
            for old, new in zip(earlier, found, strict=True)
        )
    values["landmarks"] = found
    people: list[Skeleton] = []
    if found is not None:
        least = float(params["confidence_threshold"])
        people.append(skeleton_of(found, least, hands=bool(params["draw_hands"]), face=bool(params["draw_face"])))
    height, width = image.shape[2:]
    sizes = {"stick": float(params["line_thickness"]) / 2, "point": float(params["circle_radius"])}
    return draw_skeletons(people, width, height, image.device, **sizes)


def mediapipe_segmentation(
    image: torch.Tensor, params: Mapping[str, Any], context: ProcessorContext
) -> Looking[torch.Tensor]:
    """`mediapipe_segmentation`: the person on black."""
    yield from ()  # it runs on the host, stream by stream
    sure = torch.cat([context.network(one) for one in _each(image)])
    mask = (sure > float(params["threshold"])).to(image.dtype)
    radius = int(params["blur_radius"])
    if radius:
        mask = gaussian(mask, radius / 2, radius)
    return image * (1.0 - mask if params["invert_mask"] else mask)


def pose(image: torch.Tensor, params: Mapping[str, Any], context: ProcessorContext) -> Looking[torch.Tensor]:
    """`pose_tensorrt`: stick figures."""
    confidence = float(params["confidence_threshold"])
    people: list[Sequence[Skeleton]] = []
    for one in _each(image):
        finding: Looking[list[Skeleton]] = context.network.find(one, confidence)
        found = yield from finding
        people.append(found)
    return _draw(image, people)


def enlarge(image: torch.Tensor, params: Mapping[str, Any], context: ProcessorContext) -> Looking[torch.Tensor]:
    """`realesrgan_trt`: twice as wide and high."""
    height, width = image.shape[2:]
    dtype = next(context.network.parameters()).dtype
    fitting = resize(image, -(-width // 2) * 2, -(-height // 2) * 2).to(dtype)
    large: torch.Tensor = yield _look(context, fitting)
    return resize(large.to(image.dtype), 2 * width, 2 * height)


def temporal_net(image: torch.Tensor, params: Mapping[str, Any], context: ProcessorContext) -> Looking[torch.Tensor]:
    """`temporal_net_tensorrt`: the previous output, moved as the picture has moved since; with 6 channels, then the
    motion in colours. One picture at a time. Before there is an output it is the picture itself, at rest."""
    values = context.memory.values
    earlier: deque[torch.Tensor] = values.setdefault("earlier", deque(maxlen=MOST_DELAY))
    if earlier and earlier[-1].shape != image.shape:
        earlier.clear()
    previous = context.previous_output
    if previous is None or len(earlier) <= context.delay:
        moved, flow = image, image.new_zeros((1, 2, *image.shape[2:]))
    else:
        before = earlier[-1 - context.delay]
        flow = yield from _flow(image, before, context)
        flow = flow * float(params["flow_strength"])
        moved = warp(resize(previous.to(image), image.shape[3], image.shape[2]), flow)
    earlier.append(image)
    return torch.cat((moved, draw_flow(flow)), 1) if context.channels == 6 else moved


def _flow(after: torch.Tensor, before: torch.Tensor, context: ProcessorContext) -> Looking[torch.Tensor]:
    """By the network where there is one, else on the host, with the stream's own finder."""
    if context.network is not None:
        return (yield _look(context, torch.cat((after, before), 1)))
    values = context.memory.values
    finder: FlowFinder = values.get("finder") or FlowFinder()
    values["finder"] = finder
    return finder.find(after, before)


def _look(context: ProcessorContext, image: torch.Tensor) -> Look:
    return Look(context.network, image, context.network)


def _each(image: torch.Tensor) -> list[torch.Tensor]:
    """The pictures of a batch, [1, 3, H, W] each."""
    return [image[index : index + 1] for index in range(len(image))]


def _three(maps: torch.Tensor) -> torch.Tensor:
    """[N, 1, H, W] as three equal channels, within 0 to 1."""
    return maps.float().clamp(0, 1).expand(-1, 3, -1, -1)


def _draw(image: torch.Tensor, people: Sequence[Sequence[Skeleton]]) -> torch.Tensor:
    height, width = image.shape[2:]
    return torch.cat([draw_skeletons(own, width, height, image.device) for own in people])


def _lines(params: Mapping[str, Any]) -> str:
    if params["anime_style"]:
        return "lineart_anime"
    return "lineart_coarse" if params["coarse"] else "lineart"


def _openpose(params: Mapping[str, Any]) -> str:
    return OPENPOSE_NETWORKS[bool(params["include_hands"]) + 2 * bool(params["include_face"])]


def _by_number(parameter: str, names: Sequence[str]) -> Callable[[Mapping[str, Any]], str | None]:
    return lambda params: names[int(params[parameter])]


def _always(name: str | None) -> Callable[[Mapping[str, Any]], str | None]:
    return lambda params: name


LEARNED: Mapping[str, LearnedProcessor] = {
    "depth": LearnedProcessor(depth, _always("depth")),
    "depth_tensorrt": LearnedProcessor(depth, _always("depth"), engines=True),
    "hed": LearnedProcessor(hed, _always("hed")),
    "lineart": LearnedProcessor(lineart, _lines),
    "mediapipe_pose": LearnedProcessor(
        mediapipe_pose, _by_number("model_complexity", POSE_TASKS), steady=False, shared=False
    ),
    "mediapipe_segmentation": LearnedProcessor(
        mediapipe_segmentation, _by_number("model_selection", PERSON_TASKS), steady=False, shared=False
    ),
    "openpose": LearnedProcessor(openpose, _openpose),
    "pose_tensorrt": LearnedProcessor(pose, _always("pose"), engines=True),
    "realesrgan_trt": LearnedProcessor(enlarge, _always("realesrgan"), steady=False, engines=True),
    "temporal_net_tensorrt": LearnedProcessor(temporal_net, _always(None), steady=False, spare=True),
}
"""By wire name."""


__all__ = ["LEARNED", "LearnedProcessor"]
