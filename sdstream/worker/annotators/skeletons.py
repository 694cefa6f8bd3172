"""People as OpenPose knows them, 18 joints each, and the coloured stick figures that ControlNets were trained on."""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import torch

JOINTS = 18
"""Nose, neck, right shoulder, elbow, wrist, left ones, right hip, knee, ankle, left ones, eyes and ears right first."""
LIMBS = (
    (1, 2),
    (1, 5),
    (2, 3),
    (3, 4),
    (5, 6),
    (6, 7),
    (1, 8),
    (8, 9),
    (9, 10),
    (1, 11),
    (11, 12),
    (12, 13),
    (1, 0),
    (0, 14),
    (14, 16),
    (0, 15),
    (15, 17),
)
"""Joints that are connected by a stick, in the order in which the sticks are drawn and coloured."""
COCO_JOINTS = (0, None, 6, 8, 10, 5, 7, 9, 12, 14, 16, 11, 13, 15, 2, 1, 4, 3)
"""Where COCO's 17 joints have each of OpenPose's; the neck is the middle of the shoulders."""
STICK, POINT = 4.0, 4.0
"""Half widths in pixels at a side of 512."""
STICK_BRIGHTNESS = 0.6


HAND_BONES = tuple(
    (0 if place == 0 else 4 * finger + place, 4 * finger + place + 1) for finger in range(5) for place in range(4)
)
"""Of 21 points of a hand, the wrist first, then each finger from the thumb on outwards."""
HAND_POINT, FACE_POINT = (0.0, 0.0, 1.0), (1.0, 1.0, 1.0)
FINE_STICK, FINE_POINT = 1.0, 3.0
"""Half widths of what is drawn of hands and faces, in pixels at a side of 512."""

Place = tuple[float, float]
"""x and y as shares of width and height, 0 to 1."""
Colour = tuple[float, float, float]
Line = tuple[Place, Place, Colour]
Dot = tuple[Place, Colour]


@dataclass(frozen=True, slots=True)
class Skeleton:
    """One person: for each joint its place, or None where it is not seen; and what is drawn of hands and face."""

    joints: tuple[Place | None, ...]
    lines: tuple[Line, ...] = ()
    dots: tuple[Dot, ...] = ()

    @classmethod
    def from_coco(cls, joints: Sequence[tuple[float, float] | None]) -> "Skeleton":
        """From COCO's order of 17 joints."""
        left, right = joints[5], joints[6]
        neck = None if left is None or right is None else ((left[0] + right[0]) / 2, (left[1] + right[1]) / 2)
        return cls(tuple(neck if place is None else joints[place] for place in COCO_JOINTS))


def hand_marks(points: Sequence[Place | None]) -> tuple[list[Line], list[Dot]]:
    """How OpenPose draws a hand of 21 points: its bones around the wheel of colours, its joints blue."""
    lines: list[Line] = []
    for number, (start, end) in enumerate(HAND_BONES):
        first, last = points[start], points[end]
        if first is not None and last is not None:
            lines.append((first, last, colorsys.hsv_to_rgb(number / len(HAND_BONES), 1.0, 1.0)))
    return lines, [(point, HAND_POINT) for point in points if point is not None]


def face_marks(points: Sequence[Place | None]) -> list[Dot]:
    """How OpenPose draws the points of a face: white."""
    return [(point, FACE_POINT) for point in points if point is not None]


def colour(index: int) -> Colour:
    """The colour of a joint or stick: 18 of them around the wheel, red first, by way of yellow."""
    sixth, within = divmod(index * 6, 18)
    rising = int(within / 18 * 255) / 255
    ramps = (
        (1.0, rising, 0.0),
        (1.0 - rising, 1.0, 0.0),
        (0.0, 1.0, rising),
        (0.0, 1.0 - rising, 1.0),
        (rising, 0.0, 1.0),
        (1.0, 0.0, 1.0 - rising),
    )
    return ramps[sixth]


def draw_skeletons(
    people: Sequence[Skeleton],
    width: int,
    height: int,
    device: torch.device,
    *,
    stick: float | None = None,
    point: float | None = None,
) -> torch.Tensor:
    """Stick figures on black: float [1, 3, height, width], 0 to 1.

    `stick` and `point` are half widths in pixels; without them they grow with the picture.
    """
    canvas = torch.zeros(3, height, width, device=device)
    rows = torch.arange(height, device=device, dtype=torch.float32).view(-1, 1)
    columns = torch.arange(width, device=device, dtype=torch.float32).view(1, -1)
    scale = max(0.25, min(width, height) / 512)
    stick = STICK * scale if stick is None else stick
    point = POINT * scale if point is None else point

    def disc(place: Place, radius: float) -> torch.Tensor:
        return (columns - place[0] * width) ** 2 + (rows - place[1] * height) ** 2 <= radius**2

    def paint(mask: torch.Tensor, shade: Colour, strength: float) -> None:
        # Where a figure overlaps another, the later one shows.
        values = torch.tensor(shade, device=device).view(3, 1, 1) * strength
        torch.where(mask[None], values, canvas, out=canvas)

    for person in people:
        places = [None if joint is None else (joint[0] * width, joint[1] * height) for joint in person.joints]
        for index, (start, end) in enumerate(LIMBS):
            first, last = places[start], places[end]
            if first is None or last is None:
                continue
            paint(_ellipse(columns, rows, first, last, stick), colour(index), STICK_BRIGHTNESS)
        for index, joint in enumerate(person.joints):
            if joint is not None:
                paint(disc(joint, point), colour(index), 1.0)
    for person in people:  # over all bodies, or a hand before the own body would not be seen
        for start, end, shade in person.lines:
            first, last = (start[0] * width, start[1] * height), (end[0] * width, end[1] * height)
            paint(_bar(columns, rows, first, last, FINE_STICK * scale), shade, 1.0)
        for place, shade in person.dots:
            paint(disc(place, FINE_POINT * scale), shade, 1.0)
    return canvas[None]


def _bar(columns: torch.Tensor, rows: torch.Tensor, first: Place, last: Place, thickness: float) -> torch.Tensor:
    """All within `thickness` of the line between two points: bool [height, width]."""
    across, down = last[0] - first[0], last[1] - first[1]
    length = max(across**2 + down**2, 1e-6)
    along = (((columns - first[0]) * across + (rows - first[1]) * down) / length).clamp(0, 1)
    distance = (columns - first[0] - along * across) ** 2 + (rows - first[1] - along * down) ** 2
    return distance <= max(thickness, 0.5) ** 2


def _ellipse(
    columns: torch.Tensor,
    rows: torch.Tensor,
    first: tuple[float, float],
    last: tuple[float, float],
    thickness: float,
) -> torch.Tensor:
    """The ellipse between two points: bool [height, width]."""
    across, down = last[0] - first[0], last[1] - first[1]
    length = max((across**2 + down**2) ** 0.5, 1e-3)
    along_x, along_y = across / length, down / length
    x, y = columns - (first[0] + last[0]) / 2, rows - (first[1] + last[1]) / 2
    along, beside = x * along_x + y * along_y, y * along_x - x * along_y
    return (along / (length / 2)) ** 2 + (beside / thickness) ** 2 <= 1


__all__ = [
    "COCO_JOINTS",
    "HAND_BONES",
    "JOINTS",
    "LIMBS",
    "Colour",
    "Dot",
    "Line",
    "Place",
    "Skeleton",
    "colour",
    "draw_skeletons",
    "face_marks",
    "hand_marks",
]
