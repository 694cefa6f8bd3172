"""The face in a picture as the numbers that IP-Adapters of faces were trained on: found by SCRFD, told by ArcFace.

The two networks are InsightFace's own files and run in ONNX Runtime, once for each style image, on the host. The way
between them is InsightFace's too (its `FaceAnalysis`, whose numbers the tests hold this to), written here because that
package brings an OpenCV that takes the place of the one of the extra `flow`, and fetches files by itself.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from sdstream.errors import NoFace, first_line
from sdstream.model_errors import ModelUnavailable
from sdstream.worker.annotators.libraries import optional_library

SIDES = (640, 320, 160)
"""Pixels of the square that faces are looked for in, one after the other until there is one: a face that fills the
picture is found only when it is small. Pictures are fitted into the upper left corner."""
STRIDES = (8, 16, 32)
ANCHORS = 2
"""Guesses at each place of each stride."""
SURE, OVERLAP = 0.5, 0.4
"""Least score of a face, and the share of two boxes in common from which on they are one face."""
CROP = 112
PLACES = ((38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366), (41.5493, 92.3655), (70.7299, 92.2041))
"""Where eyes, nose and corners of the mouth lie in a picture of `CROP` pixels, as ArcFace was trained."""


@dataclass(frozen=True, slots=True)
class Face:
    """`box` is left, top, right, bottom, float [4], `points` are the eyes, the nose and the corners of the mouth, float
    [5, 2]; all in pixels of the picture."""

    box: torch.Tensor
    points: torch.Tensor
    score: float

    @property
    def area(self) -> float:
        """Of the box, in pixels."""
        left, top, right, bottom = (float(side) for side in self.box)
        return (right - left) * (bottom - top)


class FaceNetworks:
    """SCRFD and ArcFace. Threads may call at any time."""

    def __init__(self, detector: Path, recogniser: Path) -> None:
        """From ONNX files. Raises `ModelUnavailable` where ONNX Runtime is not installed, or a file is none of these
        networks."""
        self._detector = _session(detector)
        self._recogniser = _session(recogniser)
        outputs = len(self._detector.get_outputs())
        if outputs != 3 * len(STRIDES):
            raise ModelUnavailable(f"{detector} is no SCRFD network that finds eyes, nose and mouth")
        fixed = self._detector.get_inputs()[0].shape[2]
        self._sides = (fixed,) if isinstance(fixed, int) else SIDES
        shape: list[Any] = self._recogniser.get_inputs()[0].shape
        if list(shape[2:]) != [CROP, CROP]:
            raise ModelUnavailable(f"{recogniser} is no ArcFace network for {CROP}x{CROP} pixels")

    def embed(self, image: torch.Tensor) -> torch.Tensor:
        """The largest face in `image`, float [1, 3, H, W], 0 to 1: float32 [embedding] of length 1.

        Raises `NoFace` when there is none.
        """
        faces = next((found for side in self._sides if (found := self.find(image, side))), None)
        if faces is None:
            raise NoFace("there is no face in the style image")
        crop = align(image, max(faces, key=lambda face: face.area).points)
        (embedding,) = _run(self._recogniser, crop * 2.0 - 1.0)
        return functional.normalize(embedding.flatten(), dim=0)

    def find(self, image: torch.Tensor, side: int = SIDES[0]) -> list[Face]:
        """The faces in `image`, float [1, 3, H, W], 0 to 1, the surest first. `side` is one of `SIDES`."""
        height, width = image.shape[2:]
        factor = side / max(height, width)
        sides = (max(1, int(height * factor)), max(1, int(width * factor)))
        small = functional.interpolate(image, sides, mode="bilinear", align_corners=False)
        square = functional.pad(small, (0, side - sides[1], 0, side - sides[0]))
        outputs = [each.reshape(-1, each.shape[-1]) for each in _run(self._detector, (square * 255 - 127.5) / 128)]
        count = len(STRIDES)
        scores, boxes, points = outputs[:count], outputs[count : 2 * count], outputs[2 * count :]
        scale = sides[0] / height
        faces: list[Face] = []
        for stride, score, box, five in zip(STRIDES, scores, boxes, points, strict=True):
            centres = _centres(side, stride)
            found: Any = (score.flatten() >= SURE).nonzero().flatten()
            indices: list[int] = found.tolist()
            for index in indices:
                x, y = (float(place) for place in centres[index])
                left, top, right, bottom = (float(distance) * stride for distance in box[index])
                corners = torch.tensor([x - left, y - top, x + right, y + bottom])
                places = centres[index] + five[index].view(-1, 2) * stride
                faces.append(Face(corners / scale, places / scale, float(score[index])))
        return _distinct(faces)


def align(image: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """The face in `image` [1, 3, H, W] whose five `points` [5, 2] are given, turned and scaled so that they lie at
    `PLACES` as nearly as can be: float [1, 3, 112, 112]; black outside of the picture."""
    turn, shift = _similarity(points.double().cpu(), torch.tensor(PLACES, dtype=torch.float64))
    rows, columns = torch.meshgrid(torch.arange(CROP).double(), torch.arange(CROP).double(), indexing="ij")
    looked_up = (torch.stack((columns, rows), 2) - shift) @ torch.inverse(turn).T
    height, width = image.shape[2:]
    size = torch.tensor([width, height], dtype=torch.float64)
    grid = ((looked_up * 2 + 1) / size - 1).to(image.dtype)
    return functional.grid_sample(image, grid[None], mode="bilinear", padding_mode="zeros", align_corners=False)


def _similarity(start: torch.Tensor, end: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Turn and scale [2, 2], and shift [2], that bring the points `start` nearest to `end` (Umeyama 1991)."""
    middle, other = start.mean(0), end.mean(0)
    centred = start - middle
    algebra: Any = torch.linalg
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor] = algebra.svd((end - other).T @ centred / len(start))
    left, singular, right = parts
    signs = torch.tensor([1.0, float(torch.sign(torch.det(left @ right)))], dtype=start.dtype)
    scale = (singular * signs).sum() / centred.square().sum(1).mean()
    turn = scale * (left * signs) @ right
    return turn, other - turn @ middle


def _centres(side: int, stride: int) -> torch.Tensor:
    """Where the guesses of a stride lie, x and y in pixels of the square: [guesses, 2]."""
    places = torch.arange(side // stride) * stride
    rows, columns = torch.meshgrid(places, places, indexing="ij")
    return torch.stack((columns, rows), 2).view(-1, 2).repeat_interleave(ANCHORS, 0).float()


def _distinct(faces: list[Face]) -> list[Face]:
    """Of boxes that lie on one another the surest."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda each: -each.score):
        if all(_overlap(face.box, other.box) <= OVERLAP for other in kept):
            kept.append(face)
    return kept


def _overlap(one: torch.Tensor, other: torch.Tensor) -> float:
    sides = (torch.minimum(one[2:], other[2:]) - torch.maximum(one[:2], other[:2]) + 1).clamp(min=0)
    common = sides.prod()
    both = (one[2:] - one[:2] + 1).prod() + (other[2:] - other[:2] + 1).prod()
    return float(common / (both - common))


def _run(session: Any, values: torch.Tensor) -> list[torch.Tensor]:
    outputs: list[Any] = session.run(None, {session.get_inputs()[0].name: values.float().cpu().numpy()})
    return [torch.as_tensor(output) for output in outputs]


def _session(file: Path) -> Any:
    library = optional_library("onnxruntime", "faceid", "ip_adapter.type faceid", "ONNX Runtime")
    options = library.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # it warns of unused initializers
    try:
        return library.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except _errors() as error:
        raise ModelUnavailable(f"{file} cannot be loaded: {first_line(error)}") from error


def _errors() -> tuple[type[Exception], ...]:
    """What ONNX Runtime raises about files; they have no root in common."""
    library: Any = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    names = ("Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf", "NoModel", "NoSuchFile", "NotImplemented")
    return (*(getattr(library, name) for name in names), RuntimeError)


__all__ = ["Face", "FaceNetworks", "align"]
