"""OpenPose's networks for hands and faces, and how their maps are read: the highest place of each point's.

After Simon and others (2017). Where a hand or a face is follows from the joints of the body. Both networks are of one
make; the layers are named as the published weights name them.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional

from sdstream.worker.annotators.convolutions import POOL, NamedConvolutions
from sdstream.worker.annotators.people import PeopleNetwork, find_people
from sdstream.worker.annotators.skeletons import Dot, Line, Place, Skeleton, face_marks, hand_marks
from sdstream.worker.looks import Look, Looking

HAND_POINTS, FACE_POINTS = 21, 70
SIDE = 368
"""Pixels of the square in which a hand or a face is looked at, as in training."""
LEAST = 0.05
"""How high a point's map must be for the point to be drawn."""
SMALLEST = 20.0
"""Pixels of the picture below which a hand or face is left out."""
MOST_PEOPLE = 4
"""Whose hands and faces are looked for, the largest first: each costs about what the body network does."""
ARMS = ((2, 3, 4), (5, 6, 7))
"""Shoulder, elbow and wrist."""
NOSE, EYES, EARS = 0, (14, 15), (16, 17)

_TRUNK = (
    *(("conv1_1", 3, 64), ("conv1_2", 64, 64), (POOL, 0, 0)),
    *(("conv2_1", 64, 128), ("conv2_2", 128, 128), (POOL, 0, 0)),
    *(("conv3_1", 128, 256), ("conv3_2", 256, 256), ("conv3_3", 256, 256), ("conv3_4", 256, 256), (POOL, 0, 0)),
    *(("conv4_1", 256, 512), ("conv4_2", 512, 512), ("conv4_3", 512, 512), ("conv4_4", 512, 512)),
    *(("conv5_1", 512, 512), ("conv5_2", 512, 512), ("conv5_3_CPM", 512, 128)),
)
_STAGES = range(2, 7)

Box = tuple[float, float, float]
"""Left, top and side in pixels of the picture; it may reach beyond it."""


class PartNetwork(NamedConvolutions):
    """Maps of `points` points and one of nothing. `divisor` makes every layer that much narrower, for tests."""

    def __init__(self, points: int, divisor: int = 1) -> None:
        super().__init__()
        self.points = points
        maps, base = points + 1, 128 // divisor
        for name, inside, outside in _TRUNK:
            if name != POOL:
                self.add(name, inside if inside == 3 else inside // divisor, outside // divisor, 3)
        self.add("conv6_1_CPM", base, 512 // divisor, 1)
        self.add("conv6_2_CPM", 512 // divisor, maps, 1)
        for stage in _STAGES:
            self.add_stage(f"stage{stage}", base + maps, base, maps)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """`image` float [N, 3, H, W], 0 to 1, sides multiples of 8; returns maps [N, points + 1, H/8, W/8]."""
        values = self.look(image, (name for name, _, _ in _TRUNK))
        maps = self.run(values, ["conv6_1_CPM", "conv6_2_CPM"])
        for stage in _STAGES:
            maps = self.run_stage(torch.cat((maps, values), 1), f"stage{stage}")
        return maps

    def find(self, image: torch.Tensor, boxes: Sequence[Box]) -> Looking[list[list[Place | None]]]:
        """The points in each box of one picture, float [1, 3, H, W], 0 to 1. Waits for the device."""
        if not boxes:
            return []
        answer: torch.Tensor = yield Look(self, _crops(image, boxes), self)
        maps = answer.float()[:, : self.points]
        large = functional.interpolate(maps, (SIDE, SIDE), mode="bicubic", align_corners=False)
        best = large.flatten(2).max(2)
        places = torch.stack((best.indices % SIDE, best.indices // SIDE), 2)
        found: list[list[list[int]]] = cast("Any", places).tolist()
        sure: list[list[float]] = cast("Any", best.values).tolist()
        height, width = image.shape[2:]
        return [
            [
                ((left + (x + 0.5) / SIDE * side) / width, (top + (y + 0.5) / SIDE * side) / height)
                if score > LEAST
                else None
                for (x, y), score in zip(points, scores, strict=True)
            ]
            for (left, top, side), points, scores in zip(boxes, found, sure, strict=True)
        ]


class WholeNetwork(nn.Module):
    """People with what is loaded of their hands and faces."""

    def __init__(self, body: PeopleNetwork, hands: PartNetwork | None = None, face: PartNetwork | None = None) -> None:
        super().__init__()
        self.body = body
        self.hands = hands
        self.face = face

    def find(self, image: torch.Tensor) -> Looking[list[Skeleton]]:
        """The people in one picture, float [1, 3, H, W], 0 to 1. Waits for the device."""
        people = yield from find_people(self.body, image)
        if self.hands is None and self.face is None:
            return people
        height, width = image.shape[2:]
        people.sort(key=lambda one: -_extent(one, width, height))
        largest = people[:MOST_PEOPLE]
        hands: list[list[list[Place | None]]] = [[] for _ in people]
        faces: list[list[list[Place | None]]] = [[] for _ in people]
        # All boxes of a picture in one call, and of a kind: none of them waits for the person before.
        if self.hands is not None:
            boxes = [hand_boxes(person, width, height) for person in largest]
            hands = yield from _find_each(self.hands, image, boxes, len(people))
        if self.face is not None:
            boxes = [face_boxes(person, width, height) for person in largest]
            faces = yield from _find_each(self.face, image, boxes, len(people))
        whole: list[Skeleton] = []
        for person, own_hands, own_faces in zip(people, hands, faces, strict=True):
            lines: list[Line] = []
            dots: list[Dot] = []
            for points in own_hands:
                bones, joints = hand_marks(points)
                lines += bones
                dots += joints
            for points in own_faces:
                dots += face_marks(points)
            whole.append(replace(person, lines=tuple(lines), dots=tuple(dots)))
        return whole


def _find_each(
    network: PartNetwork, image: torch.Tensor, boxes: Sequence[Sequence[Box]], people: int
) -> Looking[list[list[list[Place | None]]]]:
    """What is in the boxes of each of the first of so many people, and nothing of the others."""
    found = yield from network.find(image, [box for own in boxes for box in own])
    rest = iter(found)
    dealt = [[next(rest) for _ in own] for own in boxes]
    return dealt + [[] for _ in range(people - len(boxes))]


def hand_boxes(person: Skeleton, width: int, height: int) -> list[Box]:
    """Where the hands of a person are: beyond the wrist, as large as the forearm tells."""
    boxes: list[Box] = []
    for arm in ARMS:
        shoulder, elbow, wrist = (_pixel(person.joints[joint], width, height) for joint in arm)
        if shoulder is None or elbow is None or wrist is None:
            continue
        side = 1.5 * max(_distance(wrist, elbow), 0.9 * _distance(elbow, shoulder))
        x, y = (end + (end - start) / 3 for start, end in zip(elbow, wrist, strict=True))
        if side >= SMALLEST:
            boxes.append((x - side / 2, y - side / 2, side))
    return boxes


def face_boxes(person: Skeleton, width: int, height: int) -> list[Box]:
    """Where the face of a person is, if anywhere: around the nose, as large as eyes and ears tell."""
    nose = _pixel(person.joints[NOSE], width, height)
    if nose is None:
        return []
    half = 0.0
    for joints, factor in ((EYES, 3.0), (EARS, 1.5)):
        for joint in joints:
            place = _pixel(person.joints[joint], width, height)
            if place is not None:
                half = max(half, factor * max(abs(place[0] - nose[0]), abs(place[1] - nose[1])))
    return [(nose[0] - half, nose[1] - half, 2 * half)] if 2 * half >= SMALLEST else []


def _crops(image: torch.Tensor, boxes: Sequence[Box]) -> torch.Tensor:
    """The boxes' parts of the picture, float [K, 3, SIDE, SIDE]; what is outside of it is black."""
    height, width = image.shape[2:]
    theta = torch.zeros(len(boxes), 2, 3)
    for index, (left, top, side) in enumerate(boxes):
        theta[index, 0, 0], theta[index, 1, 1] = side / width, side / height
        theta[index, 0, 2] = (2 * left + side) / width - 1
        theta[index, 1, 2] = (2 * top + side) / height - 1
    grid = functional.affine_grid(theta.to(image), [len(boxes), 3, SIDE, SIDE], align_corners=False)
    return functional.grid_sample(image.expand(len(boxes), -1, -1, -1), grid, align_corners=False)


def _pixel(joint: Place | None, width: int, height: int) -> Place | None:
    return None if joint is None else (joint[0] * width, joint[1] * height)


def _distance(one: Place, other: Place) -> float:
    return ((one[0] - other[0]) ** 2 + (one[1] - other[1]) ** 2) ** 0.5


def _extent(person: Skeleton, width: int, height: int) -> float:
    """About how large a person is in the picture: the diagonal of the joints' box in pixels."""
    seen = [place for joint in person.joints if (place := _pixel(joint, width, height)) is not None]
    columns, rows = [place[0] for place in seen], [place[1] for place in seen]
    return _distance((min(columns), min(rows)), (max(columns), max(rows))) if seen else 0.0


__all__ = ["FACE_POINTS", "HAND_POINTS", "Box", "PartNetwork", "WholeNetwork", "face_boxes", "hand_boxes"]
