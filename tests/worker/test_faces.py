"""Faces in style images: found, turned upright and told in numbers, as InsightFace does it."""

import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("onnx", reason="it makes the networks of these tests; the extra `bake` brings it")
pytest.importorskip("onnxruntime", reason="the extra `faceid` brings it")

from sdstream.errors import NoFace
from sdstream.model_errors import ModelUnavailable
from sdstream.worker.annotators.faces import CROP, PLACES, Face, FaceNetworks, align
from tests.worker.faces import portrait, write_tiny_faces

EMBEDDING = 24


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> FaceNetworks:
    return FaceNetworks(*write_tiny_faces(tmp_path_factory.mktemp("faces"), EMBEDDING))


@pytest.mark.parametrize(
    ("faces", "count", "box", "numbers"),
    [
        (
            [(150, 120, 60)],
            4,
            (20.0, -10.0, 264.0, 260.0),
            (0.2071, 0.1641, -0.0324, 0.2595, -0.0144, -0.0252, 0.4243, -0.1596),
        ),
        (
            [(90, 100, 55), (290, 170, 70)],
            12,
            (160.0, 30.0, 404.0, 300.0),
            (0.1423, 0.1801, -0.0527, 0.1756, 0.0367, -0.0777, 0.4119, -0.2042),
        ),
    ],
)
def test_a_face_is_told_in_the_numbers_of_insightface(
    networks: FaceNetworks,
    faces: list[tuple[int, int, int]],
    count: int,
    box: tuple[float, ...],
    numbers: tuple[float, ...],
) -> None:
    """The figures are those of `FaceAnalysis` of insightface 2.1 with opencv-python 5.0 on the same files and pictures:
    boxes agreed to 4e-4 pixels, embeddings to 2e-5."""
    image = portrait(*faces)
    found = networks.find(image)
    assert len(found) == count
    largest = max(found, key=lambda face: face.area)
    assert largest.box.tolist() == pytest.approx(box, abs=1e-2)
    embedding = networks.embed(image)
    assert embedding.shape == (EMBEDDING,)
    assert float(embedding.norm()) == pytest.approx(1.0, abs=1e-5)
    assert embedding[: len(numbers)].tolist() == pytest.approx(numbers, abs=3e-4)


def test_a_picture_without_a_face_is_said_to_have_none(networks: FaceNetworks) -> None:
    with pytest.raises(NoFace, match="no face"):
        networks.embed(portrait())


def test_a_face_that_fills_the_picture_is_looked_for_small(
    networks: FaceNetworks, monkeypatch: pytest.MonkeyPatch
) -> None:
    find, sides = networks.find, list[int]()

    def blind(image: torch.Tensor, side: int) -> list[Face]:
        sides.append(side)
        return [] if side == 640 else find(image, side)

    monkeypatch.setattr(networks, "find", blind)
    assert float(networks.embed(portrait((200, 150, 130))).norm()) == pytest.approx(1.0, abs=1e-5)
    assert sides == [640, 320]
    with pytest.raises(NoFace):
        networks.embed(portrait())
    assert sides == [640, 320, 640, 320, 160]


def test_eyes_nose_and_mouth_come_to_where_the_network_expects_them() -> None:
    picture = torch.zeros(1, 3, 200, 240)
    turn = torch.tensor([[0.9, -0.5], [0.5, 0.9]])
    points = torch.tensor(PLACES) @ turn.T + torch.tensor([90.0, 20.0])
    for x, y in points.round().int().tolist():
        picture[..., y - 1 : y + 2, x - 1 : x + 2] = 1.0
    crop = align(picture, points)
    assert crop.shape == (1, 3, CROP, CROP)
    assert all(float(crop[0, 0, round(y), round(x)]) > 0.9 for x, y in PLACES)
    assert float(crop.mean()) < 0.01


def test_without_onnx_runtime_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ModelUnavailable, match="faceid needs ONNX Runtime") as raised:
        FaceNetworks(tmp_path / "one.onnx", tmp_path / "other.onnx")
    assert ".[faceid]" in raised.value.hint


@pytest.mark.parametrize("broken", [0, 1])
def test_a_file_that_is_another_network_or_none_is_named(tmp_path: Path, broken: int) -> None:
    files = list(write_tiny_faces(tmp_path, EMBEDDING))
    good = files[1 - broken]
    with pytest.raises(ModelUnavailable, match=r"is no (SCRFD|ArcFace) network"):
        FaceNetworks(good, good)
    files[broken].write_bytes(b"this is no network")
    with pytest.raises(ModelUnavailable, match="cannot be loaded"):
        FaceNetworks(*files)
