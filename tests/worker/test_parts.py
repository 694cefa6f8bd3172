"""OpenPose's hands and faces: where they are looked for, how their maps are read, and what is drawn of them."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sdstream.model_errors import ModelUnavailable
from sdstream.worker.annotators.parts import (
    FACE_POINTS,
    HAND_POINTS,
    MOST_PEOPLE,
    PartNetwork,
    WholeNetwork,
    face_boxes,
    hand_boxes,
)
from sdstream.worker.annotators.people import PeopleNetwork
from sdstream.worker.annotators.shelf import LOADERS, AnnotatorShelf
from sdstream.worker.annotators.skeletons import HAND_BONES, Place, Skeleton, draw_skeletons, face_marks, hand_marks
from sdstream.worker.files.published import OPENPOSE_NETWORKS, PROCESSORS
from sdstream.worker.looks import alone
from tests.worker.test_annotators import maps_of, person
from tests.worker.test_chain import chain, scene, wanted

CPU = torch.device("cpu")
SIDE = 256


class Told(PartNetwork):
    """Sees point n of a hand or face at place n on a diagonal of whatever it is shown; every third is unsure."""

    def __init__(self, points: int) -> None:
        super().__init__(points, divisor=64)
        self.shown: list[torch.Size] = []

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.shown.append(image.shape)
        maps = torch.zeros(len(image), self.points + 1, 46, 46)
        for point in range(self.points):
            cell = 4 + point * 38 // self.points
            maps[:, point, cell, cell] = 0.01 if point % 3 == 2 else 0.9
        return maps


class People(PeopleNetwork):
    """Sees people where they are said to be."""

    def __init__(self, *people: Skeleton) -> None:
        super().__init__(divisor=64)
        self.people = list(people)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return maps_of(self.people, image.shape[3] // 8, image.shape[2] // 8)


def test_hands_are_beyond_the_wrists_and_the_face_around_the_nose() -> None:
    one = person(0.1, 0.1, 0.8)
    hands, (face,) = hand_boxes(one, SIDE, SIDE), face_boxes(one, SIDE, SIDE)
    assert len(hands) == 2
    for (left, top, side), wrist in zip(hands, (4, 7), strict=True):
        x, y = (place * SIDE for place in one.joints[wrist] or (0.0, 0.0))
        assert left < x < left + side
        assert top < y < top + side
        assert top + side / 2 > y, "these arms hang down"
    x, y = (place * SIDE for place in one.joints[0] or (0.0, 0.0))
    assert (face[0] + face[2] / 2, face[1] + face[2] / 2) == pytest.approx((x, y))
    assert hand_boxes(one, 24, 24) == []
    unseen = Skeleton((None, *one.joints[1:4], None, *one.joints[5:]))
    assert len(hand_boxes(unseen, SIDE, SIDE)) == 1
    assert face_boxes(unseen, SIDE, SIDE) == []


def test_points_are_where_their_maps_are_highest_within_the_box() -> None:
    network = Told(HAND_POINTS)
    (first, second) = alone(network.find(torch.rand(1, 3, 100, 200), [(50.0, 10.0, 92.0), (-20.0, 40.0, 46.0)]))
    assert network.shown == [torch.Size((2, 3, 368, 368))]
    for points, (left, top, side) in ((first, (50, 10, 92)), (second, (-20, 40, 46))):
        assert [point is None for point in points] == [number % 3 == 2 for number in range(HAND_POINTS)]
        place = points[0]
        assert place is not None
        assert place == pytest.approx(((left + 4.5 / 46 * side) / 200, (top + 4.5 / 46 * side) / 100), abs=0.01)


def test_a_part_of_the_picture_is_shown_upright_and_black_outside() -> None:
    seen: list[torch.Tensor] = []

    class Looking(Told):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.append(image)
            return super().forward(image)

    image = torch.zeros(1, 3, 100, 100)
    image[:, 0, :50, :50] = 1.0
    alone(Looking(HAND_POINTS).find(image, [(-50.0, 0.0, 100.0)]))
    (crop,) = seen[0]
    assert [float(crop[0, y, x]) for y, x in ((90, 90), (90, 270), (270, 270))] == [0.0, 1.0, 0.0]


def test_hands_are_drawn_around_the_wheel_with_blue_joints_and_faces_white() -> None:
    points: list[Place | None] = [(0.1 + 0.04 * number, 0.2 + 0.03 * (number % 5)) for number in range(HAND_POINTS)]
    lines, dots = hand_marks(points)
    assert (len(lines), len(dots)) == (20, 21)
    assert {end for _, end in HAND_BONES} == set(range(1, 21))
    assert len({shade for _, _, shade in lines}) == 20
    nobody = (None,) * 18
    picture = draw_skeletons([Skeleton(nobody, tuple(lines), tuple(dots))], SIDE, SIDE, CPU)
    x, y = points[0] or (0, 0)
    assert picture[0, :, round(y * SIDE), round(x * SIDE)].tolist() == [0.0, 0.0, 1.0]
    assert float(picture[0, 0].max()) == 1.0, "the first finger is red"
    face = draw_skeletons([Skeleton(nobody, (), tuple(face_marks([(0.5, 0.5)])))], SIDE, SIDE, CPU)
    assert face[0, :, SIDE // 2, SIDE // 2].tolist() == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("hands", [False, True])
@pytest.mark.parametrize("face", [False, True])
def test_hands_and_faces_are_looked_for_as_asked_and_of_the_largest_people(hands: bool, face: bool) -> None:
    hand_network, face_network = Told(HAND_POINTS), Told(FACE_POINTS)
    network = WholeNetwork(
        People(person(0.02, 0.05, 0.6), person(0.55, 0.3, 0.42)),
        hand_network if hands else None,
        face_network if face else None,
    )
    people = alone(network.find(torch.rand(1, 3, 512, 512)))
    assert len(people) == 2
    assert [bool(one.lines) for one in people] == [hands, hands]
    assert [bool(one.dots) for one in people] == [hands or face] * 2
    assert [shown[0] for shown in hand_network.shown] == ([4] if hands else []), "all hands in one call"
    assert [shown[0] for shown in face_network.shown] == ([2] if face else [])
    assert MOST_PEOPLE >= 2


def test_the_parameters_say_which_networks_are_loaded() -> None:
    asked: list[str] = []

    class Shelf(AnnotatorShelf):
        def request(self, name: str, *, engines: bool = False) -> Any:
            asked.append(name)
            return super().request(name, engines=engines)

    def load(find: Any, dtype: torch.dtype) -> WholeNetwork:
        return WholeNetwork(People(person(0.1, 0.1, 0.8)), Told(HAND_POINTS), Told(FACE_POINTS))

    shelf = Shelf(CPU, loaders=dict.fromkeys(OPENPOSE_NETWORKS, load))
    for params in ({}, {"include_hands": True}, {"include_face": True}, {"include_hands": True, "include_face": True}):
        made = chain(wanted("openpose", **params), shelf=shelf)
    assert float(made.run(scene())[0, 2].max()) == 1.0
    assert made.faults == ()
    assert tuple(asked) == OPENPOSE_NETWORKS == PROCESSORS["openpose"]


def test_the_weights_of_hands_are_named_where_only_they_are_missing(tmp_path: Path) -> None:
    (tmp_path / "body_pose_model.pth").write_bytes(b"")
    with pytest.raises(ModelUnavailable, match=r"hand_pose_model\.pth, which is missing"):
        LOADERS["openpose_hands"](lambda source: tmp_path, torch.float32)
