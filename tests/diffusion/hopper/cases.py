"""Convolutions for Hopper, one for each way that a kernel can go."""

from dataclasses import replace

from sdstream.diffusion.convolving.hopper.tilings import COLOURS, GATHERED, RESIDENT, STEPPED, HopperTiling
from sdstream.diffusion.convolving.shapes import EIGHT_BIT, Activation, Shape

CASES: dict[str, tuple[Shape, HopperTiling]] = {}


def case(
    name: str,
    tiling: HopperTiling,
    size: tuple[int, int, int],
    channels: int,
    columns: int,
    *,
    biases: int = 1,
    residual: bool = False,
    activation: Activation = "",
) -> None:
    batch, height, width = size
    doubled = tiling.kind == "doubled"
    factor = 2 if doubled else 1
    shape = Shape(
        batch,
        *(height, width, channels, 0, columns, 3, 1, 1, factor * height, factor * width, doubled),
        biases,
        residual,
        activation,
        EIGHT_BIT if tiling.kind == "eight_bit" else "float16",
    )
    CASES[name] = (shape, tiling)


case("resident", RESIDENT[0], (2, 20, 35), 64, 64, biases=2, residual=True, activation="relu")
case("resident, many tiles", RESIDENT[2], (1, 30, 33), 64, 64, activation="silu")
case("resident and upright", RESIDENT[1], (1, 17, 9), 64, 128, residual=True)
case("resident and alone", RESIDENT[3], (3, 8, 9), 64, 64, residual=True)
case("colours", COLOURS[0], (2, 17, 35), 64, 3)
case("doubled", replace(RESIDENT[0], kind="doubled"), (2, 16, 35), 64, 64, activation="relu")
case("doubled and upright", replace(RESIDENT[1], kind="doubled"), (1, 16, 9), 64, 128, biases=2)
case("gathered", GATHERED[0], (1, 18, 17), 3, 64, activation="relu")
case("gathered and small", GATHERED[2], (2, 9, 7), 4, 128, residual=True)
case("stepped", STEPPED[0], (1, 19, 33), 192, 128, residual=True, activation="silu")
case("stepped once", STEPPED[2], (2, 15, 9), 64, 64, biases=2)
case("stepped by columns", STEPPED[5], (2, 8, 8), 128, 192, residual=True)
case("stepped and wide", STEPPED[1], (1, 8, 17), 128, 192)
case("stepped and alone", STEPPED[4], (1, 17, 8), 192, 64, residual=True)
case("stepped in two regions", STEPPED[3], (1, 17, 9), 128, 192, residual=True, activation="relu")
case("stepped and wide, a sum", STEPPED[1], (1, 9, 17), 128, 128, residual=True)
case("eight parts", replace(STEPPED[3], parts=8), (1, 9, 8), 512, 128, residual=True)
case("colours of small tiles", COLOURS[1], (1, 9, 17), 64, 4)
case("gathered and wide", GATHERED[1], (1, 9, 17), 4, 64, biases=2)
case("doubled and small", replace(RESIDENT[2], kind="doubled"), (2, 8, 9), 64, 64)
case("two parts", replace(STEPPED[0], parts=2), (1, 19, 9), 320, 64, residual=True, activation="silu")
case("three parts", replace(STEPPED[5], parts=3), (2, 8, 8), 320, 192, biases=2)
case("five parts", replace(STEPPED[2], parts=5), (1, 9, 8), 320, 128, activation="relu")
case("eight bits", replace(STEPPED[0], kind="eight_bit"), (1, 19, 33), 320, 128, residual=True)
case("eight bits, whole steps", replace(STEPPED[2], kind="eight_bit"), (2, 15, 9), 128, 64, biases=2)
case("eight bits by columns", replace(STEPPED[5], kind="eight_bit"), (2, 8, 8), 192, 192, residual=True)
case("eight bits and wide", replace(STEPPED[1], kind="eight_bit"), (1, 8, 17), 256, 192)
case("eight bits in three parts", replace(STEPPED[3], kind="eight_bit", parts=3), (1, 9, 8), 576, 128, residual=True)
case("eight bits in two small parts", replace(STEPPED[4], kind="eight_bit", parts=2), (2, 8, 9), 320, 64, biases=2)
