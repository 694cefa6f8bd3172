"""People by two networks of transformers: RT-DETR finds them, ViTPose their joints. All on the network's device."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from sdstream.worker.annotators.detection import Detector
from sdstream.worker.annotators.parted import NetworkPart, PartedNetwork, Shapes
from sdstream.worker.annotators.settings import network_config
from sdstream.worker.annotators.skeletons import Skeleton
from sdstream.worker.looks import Look, Looking

DETECTOR_SIDE = 640
PERSON = "person"
MOST_PEOPLE = 16
PEOPLE_OF_ENGINES = 4
"""For how many people in each picture of a call engines are made; more are looked at in several calls."""
MARGIN = 1.25
"""How much larger than its box the part of the picture is that the joints are looked for in."""
JOINT = 0.3
"""Least confidence of a joint that is drawn."""
MEAN, SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class JointsModule(nn.Module):
    """What engines are made of: normalised parts of pictures [K, 3, height, width] in, a map for each joint out."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        heat: torch.Tensor = self.model(pixels).heatmaps
        return heat


class PoseNetwork(PartedNetwork):
    """`detector` is transformers' `RTDetrV2ForObjectDetection`, which looks at pictures of `side` by `side` pixels,
    `joints` its `VitPoseForPoseEstimation`. Raises `ValueError` for a detector of another make."""

    def __init__(self, detector: Any, joints: Any, side: int = DETECTOR_SIDE) -> None:
        super().__init__()
        self.detector = Detector(detector, side)
        self.joints = JointsModule(joints)
        self.side = side
        names: dict[int, str] = detector.config.id2label
        people = [index for index, name in names.items() if name.lower() == PERSON]
        self.person = people[0] if people else 0
        size = joints.config.backbone_config.image_size
        self.height, self.width = int(size[0]), int(size[1])
        how = network_config(detector) | {"side": side}
        parts = (
            NetworkPart(
                "pose-detector", self.detector.looking, ("pixels",), ("seen", "candidates", "scores"), how, sized=False
            ),
            NetworkPart(
                "pose-decoder",
                self.detector.decoding,
                ("seen", "chosen", "anchors"),
                ("classes", "boxes"),
                how,
                sized=False,
            ),
            NetworkPart(
                "pose-joints",
                self.joints,
                ("pixels",),
                ("heat",),
                network_config(joints),
                PEOPLE_OF_ENGINES,
                sized=False,
            ),
        )
        self._parts = {part.name: part for part in parts}

    @property
    def parts(self) -> Mapping[str, NetworkPart]:
        return self._parts

    def shapes(self, width: int, height: int) -> Mapping[str, Shapes]:
        """Of all sizes of pictures alike: they are looked at in a square, people in parts of one size."""
        detector = self.detector
        queries = detector.queries
        return {
            "pose-detector": ((3, self.side, self.side),),
            "pose-decoder": ((detector.places, detector.width), (queries, detector.width), (queries, 4)),
            "pose-joints": ((3, self.height, self.width),),
        }

    def find(self, image: torch.Tensor, confidence: float) -> Looking[list[Skeleton]]:
        """The people in one picture, float [1, 3, H, W], 0 to 1, of whom the detector is sure to `confidence`."""
        small = functional.interpolate(image, (self.side, self.side), mode="bilinear", antialias=True)
        scores, places = yield Look(self._detect, small, (self, "detector"))
        boxes = _boxes(scores[0], places[0], confidence)
        if not len(boxes):
            return []
        centres, sizes = boxes[:, :2], self._proportioned(boxes[:, 2:], image)
        crops = self._crops(image, centres, sizes)
        heat: torch.Tensor = yield Look(self._mark, crops, (self, "joints"))
        places, sure = _refined_peaks(heat)
        corner = centres - sizes / 2
        found = corner[:, None] + places * sizes[:, None]
        people: list[Skeleton] = []
        places_of: list[list[tuple[float, float]]] = cast("Any", found).tolist()
        sure_of: list[list[float]] = cast("Any", sure).tolist()
        for joints, scores in zip(places_of, sure_of, strict=True):
            people.append(
                Skeleton.from_coco(
                    [(x, y) if score >= JOINT else None for (x, y), score in zip(joints, scores, strict=True)]
                )
            )
        return people

    def _detect(self, small: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Of pictures [N, 3, side, side] how sure each query is of a person [N, Q], and its box [N, Q, 4]."""
        seen, candidates, scores = self.ask("pose-detector", small.to(self.dtype))
        classes, boxes = self.ask("pose-decoder", seen, *self.detector.choose(candidates, scores))
        return classes.float().sigmoid()[..., self.person], boxes.float()

    def _mark(self, crops: torch.Tensor) -> torch.Tensor:
        """Maps of the joints [K, J, h, w] in parts of pictures [K, 3, height, width]."""
        mean, spread = (torch.tensor(values, device=crops.device).view(1, 3, 1, 1) for values in (MEAN, SPREAD))
        (heat,) = self.ask("pose-joints", ((crops - mean) / spread).to(self.dtype))
        return heat.float()

    def _proportioned(self, sizes: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
        """The boxes' sizes, enlarged to the proportions at which joints are looked for."""
        pixels = torch.tensor([image.shape[3], image.shape[2]], device=image.device, dtype=sizes.dtype)
        width, height = (sizes * pixels).unbind(1)
        proportion = self.width / self.height
        wide = torch.maximum(width, height * proportion)
        return torch.stack((wide, wide / proportion), 1) * MARGIN / pixels

    def _crops(self, image: torch.Tensor, centres: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
        """The parts of the picture in the boxes, float [K, 3, height, width]; what is outside of it is black."""
        theta = image.new_zeros((len(centres), 2, 3))
        theta[:, 0, 0], theta[:, 1, 1] = sizes[:, 0], sizes[:, 1]
        theta[:, :, 2] = centres * 2 - 1
        grid = functional.affine_grid(theta, [len(centres), 3, self.height, self.width], align_corners=False)
        return functional.grid_sample(image.expand(len(centres), -1, -1, -1), grid, align_corners=False)


def _boxes(scores: torch.Tensor, places: torch.Tensor, confidence: float) -> torch.Tensor:
    """The people's boxes of one picture: centre and size as shares of it, float [K, 4]."""
    best = scores.topk(min(MOST_PEOPLE, len(scores)))
    return places[best.indices[best.values >= confidence]]


def _refined_peaks(heat: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each map [K, J, h, w] is highest, x and y as shares [K, J, 2], and how high [K, J].

    A quarter of a pixel towards the higher neighbour, as is usual for such maps.
    """
    people, joints, height, width = heat.shape
    best = heat.flatten(2).max(2)
    x, y = best.indices % width, best.indices // width
    padded = functional.pad(heat, (1, 1, 1, 1), "replicate").flatten(0, 1)
    order = torch.arange(people * joints, device=heat.device)
    row, column = y.flatten() + 1, x.flatten() + 1
    right = (padded[order, row, column + 1] - padded[order, row, column - 1]).sign().view(people, joints)
    down = (padded[order, row + 1, column] - padded[order, row - 1, column]).sign().view(people, joints)
    places = torch.stack(((x + 0.5 + 0.25 * right) / width, (y + 0.5 + 0.25 * down) / height), 2)
    return places, best.values


def load_poses(detector: Path, joints: Path, dtype: torch.dtype) -> PoseNetwork:
    """From two transformers directories. Raises what transformers raises."""
    from sdstream.diffusion.libraries import transformers

    options: dict[str, Any] = {"local_files_only": True, "use_safetensors": True, "dtype": dtype}
    return PoseNetwork(
        transformers.RTDetrV2ForObjectDetection.from_pretrained(detector, **options),
        transformers.VitPoseForPoseEstimation.from_pretrained(joints, **options),
    )


__all__ = ["JointsModule", "PoseNetwork", "load_poses"]
