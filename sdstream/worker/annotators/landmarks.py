"""MediaPipe's tasks: the landmarks of a person, and which pixels are one. They run on the host.

The package comes with the extra `mediapipe`, and is imported when the first of these loads. It tells Google how it is
used, by its own words never what it sees; `docs/diffusion.md` says so to whoever installs it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sdstream.errors import first_line
from sdstream.model_errors import ModelUnavailable
from sdstream.worker.annotators.libraries import optional_library
from sdstream.worker.annotators.skeletons import Dot, Line, Place, Skeleton, colour, face_marks

LANDMARKS = 33
OPENPOSE = (0, None, 12, 14, 16, 11, 13, 15, 24, 26, 28, 23, 25, 27, 5, 2, 8, 7)
"""Where MediaPipe's landmarks have each of OpenPose's joints; the neck is the middle of the shoulders."""
SHOULDERS = (11, 12)
HANDS = ((15, (17, 19, 21)), (16, (18, 20, 22)))
"""Wrists, and the knuckles of little finger, forefinger and thumb: all that this network knows of a hand."""
FACE = (1, 2, 3, 4, 5, 6, 7, 8, 9, 10)
MILLISECONDS = 33
"""Between two pictures, as MediaPipe is told; it only wants them to grow."""
ERRORS = (OSError, ValueError, RuntimeError)
"""What the package raises about files and pictures."""


@dataclass(frozen=True, slots=True)
class PoseOptions:
    """What another landmarker is made for. `anew` looks for the person in every picture instead of following it."""

    detection: float = 0.5
    tracking: float = 0.5
    anew: bool = False


Landmark = tuple[float, float, float]
"""x and y as shares of the picture, which may lie outside of it, and how well it is seen, 0 to 1."""


class PoseTask(nn.Module):
    """A model bundle for pose landmarks. Every stream has a landmarker of its own, as it follows one person."""

    def __init__(self, file: Path) -> None:
        """Raises `ModelUnavailable` where the package is not installed or the file is none of its bundles."""
        super().__init__()
        self._file = file
        self._package = _package("mediapipe_pose")
        self.landmarker(PoseOptions()).close()

    def landmarker(self, options: PoseOptions) -> "Landmarker":
        """One that has seen nothing yet. Raises `ModelUnavailable`."""
        vision = self._package.vision
        mode = vision.RunningMode.IMAGE if options.anew else vision.RunningMode.VIDEO
        try:
            task = vision.PoseLandmarker.create_from_options(
                vision.PoseLandmarkerOptions(
                    base_options=self._package.base_options(model_asset_path=str(self._file)),
                    running_mode=mode,
                    min_pose_detection_confidence=options.detection,
                    min_tracking_confidence=options.tracking,
                )
            )
        except ERRORS as error:
            raise _unusable(self._file, error) from error
        return Landmarker(task, self._package.image, options)


class Landmarker:
    """Finds one person in the pictures of one stream."""

    def __init__(self, task: Any, make_image: Any, options: PoseOptions) -> None:
        self.options = options
        self._task = task
        self._make_image = make_image
        self._time = 0

    def find(self, image: torch.Tensor) -> tuple[Landmark, ...] | None:
        """The `LANDMARKS` of the person in `image`, float [1, 3, H, W], 0 to 1; None where nobody is seen."""
        picture = self._make_image(_bytes(image))
        if self.options.anew:
            result = self._task.detect(picture)
        else:
            self._time += MILLISECONDS
            result = self._task.detect_for_video(picture, self._time)
        if not result.pose_landmarks:
            return None
        return tuple((float(one.x), float(one.y), float(one.visibility or 0.0)) for one in result.pose_landmarks[0])

    def close(self) -> None:
        """Give its memory back; dropping it does so too."""
        self._task.close()


class PersonTask(nn.Module):
    """A model that tells a person's pixels from all others."""

    def __init__(self, file: Path) -> None:
        """Raises `ModelUnavailable` where the package is not installed or the file is no such model."""
        super().__init__()
        self._package = _package("mediapipe_segmentation")
        vision = self._package.vision
        try:
            self._task = vision.ImageSegmenter.create_from_options(
                vision.ImageSegmenterOptions(
                    base_options=self._package.base_options(model_asset_path=str(file)), output_confidence_masks=True
                )
            )
        except ERRORS as error:
            raise _unusable(file, error) from error

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """How sure it is that each pixel of `image`, float [1, 3, H, W], 0 to 1, is of a person: [1, 1, H, W]."""
        masks = self._task.segment(self._package.image(_bytes(image))).confidence_masks
        # Of several classes the first is what is behind.
        mask = torch.tensor(masks[0].numpy_view()) if len(masks) == 1 else 1.0 - torch.tensor(masks[0].numpy_view())
        return mask.view(1, 1, *image.shape[2:]).to(image)


def skeleton_of(landmarks: Sequence[Landmark], least: float, *, hands: bool, face: bool) -> Skeleton:
    """The stick figure of landmarks seen to `least`."""

    def place(index: int) -> Place | None:
        x, y, seen = landmarks[index]
        return (x, y) if seen >= least else None

    left, right = (place(index) for index in SHOULDERS)
    neck = None if left is None or right is None else ((left[0] + right[0]) / 2, (left[1] + right[1]) / 2)
    lines: list[Line] = []
    dots: list[Dot] = []
    for wrist, knuckles in HANDS if hands else ():
        start = place(wrist)
        for number, end in enumerate(map(place, knuckles)):
            if start is not None and end is not None:
                lines.append((start, end, colour(6 * number)))
                dots.append((end, (0.0, 0.0, 1.0)))
    if face:
        dots += face_marks([place(index) for index in FACE])
    joints = tuple(neck if index is None else place(index) for index in OPENPOSE)
    return Skeleton(joints, tuple(lines), tuple(dots))


@dataclass(frozen=True, slots=True)
class _Package:
    vision: Any
    base_options: Any
    image: Any
    """Makes a picture of its own from RGB bytes [H, W, 3]."""


def _package(processor: str) -> _Package:
    names = ("mediapipe", "mediapipe.tasks.python.vision", "mediapipe.tasks.python.core.base_options")
    package, vision, options = (optional_library(name, "mediapipe", processor, "MediaPipe") for name in names)
    return _Package(
        vision,
        options.BaseOptions,
        lambda pixels: package.Image(image_format=package.ImageFormat.SRGB, data=pixels),  # pyright: ignore[reportUnknownLambdaType]
    )


def _bytes(image: torch.Tensor) -> Any:
    pixels = (image[0].permute(1, 2, 0) * 255).round().clamp(0, 255).byte()
    array: Any = pixels.contiguous().cpu().numpy()
    return array


def _unusable(file: Path, error: Exception) -> ModelUnavailable:
    return ModelUnavailable(f"MediaPipe cannot use {file}: {first_line(error)}")


__all__ = ["LANDMARKS", "Landmark", "Landmarker", "PersonTask", "PoseOptions", "PoseTask", "skeleton_of"]
