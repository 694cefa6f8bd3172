"""A test card that says what became of it: coloured corners, a number in its pixels, a bar that moves.

Everything is placed by fractions of the picture, so a card can be read at any size.

    red   . . . green     rows 0 to 1/4
    .   |#| |#|#|   .     rows 7/16 to 9/16: the number in 18 cells: 16 bits, highest first, parity twice
    .   |           .     rows 10/16 to 12/16: a black bar that moves to the right
    blue  . . . yellow    rows 3/4 to 1
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import av
import numpy
from numpy.typing import NDArray

Grey = NDArray[numpy.uint8]
CORNERS = {"red": (200, 40, 40), "green": (40, 180, 60), "blue": (40, 60, 200), "yellow": (210, 200, 50)}
PLACES = {"red": (0.12, 0.12), "green": (0.88, 0.12), "blue": (0.12, 0.88), "yellow": (0.88, 0.88)}
BACKGROUND = 225
CELLS = 18
LEFT, RIGHT = 1 / 16, 15 / 16
TOP, BOTTOM = 7 / 16, 9 / 16


class TestCard:
    """Draws cards of one size, I420 limited range BT.601, number by number."""

    __test__ = False

    def __init__(self, width: int = 384, height: int = 384) -> None:
        self.width, self.height = width, height
        picture = numpy.full((height, width, 3), BACKGROUND, numpy.uint8)
        across, down = width // 4, height // 4
        for name, (x, y) in PLACES.items():
            left = 0 if x < 0.5 else width - across
            top = 0 if y < 0.5 else height - down
            picture[top : top + down, left : left + across] = CORNERS[name]
        packed = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p").to_ndarray()
        self._packed = packed
        self._edges = [round(width * (LEFT + (RIGHT - LEFT) * cell / CELLS)) for cell in range(CELLS + 1)]

    def draw(self, number: int) -> av.VideoFrame:
        """The card that carries `number`, 0 to 65535; its `pts` is not set."""
        packed = self._packed.copy()
        luma = packed[: self.height]
        rows = slice(round(self.height * TOP), round(self.height * BOTTOM))
        for cell, bit in enumerate(_bits(number)):
            luma[rows, self._edges[cell] : self._edges[cell + 1]] = 225 if bit else 25
        bar = round(self.width / 16)
        start = (number * 8) % (self.width - bar)
        luma[self.height * 10 // 16 : self.height * 12 // 16, start : start + bar] = 25
        return av.VideoFrame.from_ndarray(packed, format="yuv420p")


def _bits(number: int) -> list[int]:
    bits = [(number >> shift) & 1 for shift in range(15, -1, -1)]
    parity = sum(bits) % 2
    return [*bits, parity, 1 - parity]


@dataclass(frozen=True)
class Picture:
    """A received picture and when it came (monotonic seconds)."""

    frame: av.VideoFrame
    at: float = 0.0

    @property
    def size(self) -> tuple[int, int]:
        return self.frame.width, self.frame.height

    @cached_property
    def rgb(self) -> NDArray[numpy.uint8]:
        """uint8 [height, width, 3]."""
        return numpy.asarray(self.frame.to_ndarray(format="rgb24"), numpy.uint8)

    @cached_property
    def luma(self) -> Grey:
        """The Y plane, uint8 [height, width]."""
        plane = self.frame.reformat(format="yuv420p").planes[0]
        whole = numpy.frombuffer(memoryview(plane), numpy.uint8).reshape(-1, plane.line_size)
        return whole[: self.frame.height, : self.frame.width]

    def number(self) -> int | None:
        """The number in the card, or None when this is no readable card."""
        height, width = self.luma.shape
        top, bottom = round(height * (TOP + 0.03)), round(height * (BOTTOM - 0.03))
        bits: list[int] = []
        for cell in range(CELLS):
            start = LEFT + (RIGHT - LEFT) * (cell + 0.3) / CELLS
            end = LEFT + (RIGHT - LEFT) * (cell + 0.7) / CELLS
            mean = float(self.luma[top:bottom, int(width * start) : int(width * end) + 1].mean())
            if 90 < mean < 160:
                return None
            bits.append(1 if mean >= 160 else 0)
        number = int("".join(map(str, bits[:16])), 2)
        return number if bits == _bits(number) else None

    def colour(self, x: float, y: float) -> tuple[float, float, float]:
        """Mean RGB of a small patch at fractions `x`, `y` of the picture."""
        height, width = self.rgb.shape[:2]
        reach = max(2, width // 50)
        row, column = int(y * height), int(x * width)
        patch = self.rgb[max(0, row - reach) : row + reach, max(0, column - reach) : column + reach]
        red, green, blue = patch.reshape(-1, 3).mean(axis=0)
        return float(red), float(green), float(blue)

    def corner_error(self) -> float:
        """Largest difference of a corner's colour channels from the card's, 0 to 255."""
        return max(
            abs(seen - drawn)
            for name, place in PLACES.items()
            for seen, drawn in zip(self.colour(*place), CORNERS[name], strict=True)
        )

    def is_card(self, tolerance: float = 40) -> bool:
        """Whether the camera's picture is seen with its colours: no placard, no edge drawing."""
        return self.corner_error() < tolerance

    def edge_step(self) -> float:
        """Steepest change of luma between neighbours across the red square's right edge; blur lowers it."""
        height, width = self.luma.shape
        rows = self.luma[int(height * 0.06) : int(height * 0.18), int(width * 0.2) : int(width * 0.3)]
        profile = rows.astype(numpy.float32).mean(axis=0)
        return float(numpy.abs(numpy.diff(profile)).max())

    def is_edge_drawing(self) -> bool:
        """Whether flat surfaces are black and the red square's edge is drawn bright, as canny does."""
        flat = [float(numpy.mean(self.colour(*place))) for place in PLACES.values()]
        height, width = self.luma.shape
        edge = self.luma[int(height * 0.06) : int(height * 0.18), int(width * 0.2) : int(width * 0.3)]
        return max(flat) < 45 and float(edge.max(axis=1).mean()) > 100

    def is_placard(self) -> bool:
        """Whether this is a picture of words: no card, all four corners of one colour, something drawn inside."""
        corners = numpy.array([self.colour(*place) for place in PLACES.values()])
        inside = self.luma[self.luma.shape[0] // 4 : -self.luma.shape[0] // 4]
        return (
            bool(not self.is_card() and not self.is_edge_drawing() and numpy.ptp(corners, axis=0).max() < 40)
            and float(inside.std()) > 2
        )


Kind = Literal["card", "edges", "placard"]


def looks_like(kind: Kind, picture: Picture) -> bool:
    """Whether `picture` is of that kind."""
    return {"card": picture.is_card, "edges": picture.is_edge_drawing, "placard": picture.is_placard}[kind]()
