"""Pictures as I420 planes and as RGB: the arithmetic, in torch operations that can be captured, compiled and exported.

Chroma is doubled by repetition and halved by averaging, which are exact inverses, so a picture that nothing changes
comes back as it was. All numbers are constants of the program: tensors of constants would have to be brought to the
device, and to be kept from one capture or export to the next.
"""

from typing import NamedTuple

import torch

from sdstream.frames import ColourMatrix

LUMA_WEIGHTS: dict[ColourMatrix, tuple[float, float, float]] = {
    "bt601": (0.299, 0.587, 0.114),
    "bt709": (0.2126, 0.7152, 0.0722),
}
"""The shares of red, green and blue in luma, by ITU-R BT.601 and BT.709."""


class _ToRgb(NamedTuple):
    """What a step of V adds to red, of U and of V to green, and of U to blue."""

    red_from_v: float
    green_from_u: float
    green_from_v: float
    blue_from_u: float


def _to_rgb(matrix: ColourMatrix, full_range: bool) -> _ToRgb:
    red, green, blue = LUMA_WEIGHTS[matrix]
    scale = 255.0 if full_range else 224.0
    red_from_v = 2 * (1 - red) / scale
    blue_from_u = 2 * (1 - blue) / scale
    return _ToRgb(red_from_v, -blue_from_u * blue / green, -red_from_v * red / green, blue_from_u)


TO_RGB: dict[tuple[ColourMatrix, bool], _ToRgb] = {
    (matrix, full_range): _to_rgb(matrix, full_range) for matrix in LUMA_WEIGHTS for full_range in (False, True)
}
_RED, _GREEN, _BLUE = LUMA_WEIGHTS["bt601"]
FROM_RGB: tuple[tuple[float, float, float], ...] = (
    (219.0 * _RED, 219.0 * _GREEN, 219.0 * _BLUE),
    (-112.0 * _RED / (1 - _BLUE), -112.0 * _GREEN / (1 - _BLUE), 112.0),
    (112.0, -112.0 * _GREEN / (1 - _RED), -112.0 * _BLUE / (1 - _RED)),
)
"""Luma, U and V of BT.601 limited range from red, green and blue of 0 to 1, without offsets."""


def rgb_from_planes(luma: torch.Tensor, chroma: torch.Tensor, matrix: ColourMatrix, full_range: bool) -> torch.Tensor:
    """RGB of planes that hold 0 to 255: `luma` float [S, 1, H, W], `chroma` float [S, 2, H/2, W/2] (U, V).

    Returns float [S, 3, H, W]; 0 to 1 for every colour that RGB has, a little outside for others.
    """
    count, _, height, width = luma.shape
    factors = TO_RGB[matrix, full_range]
    u, v = (chroma - 128.0).unbind(1)
    green = torch.add(u * factors.green_from_u, v, alpha=factors.green_from_v)
    colour = torch.stack((v * factors.red_from_v, green, u * factors.blue_from_u), 1)
    grey = luma * (1.0 / 255.0) if full_range else (luma - 16.0) * (1.0 / 219.0)
    halves = grey.view(count, 1, height // 2, 2, width // 2, 2)
    return (halves + colour.view(count, 3, height // 2, 1, width // 2, 1)).view(count, 3, height, width)


def planes_from_rgb(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse of `rgb_from_planes` for BT.601 limited range, rounded: uint8 [S, 1, H, W] and [S, 2, H/2, W/2]."""
    luma = _mixed(image, FROM_RGB[0])
    rows = image[:, :, ::2] + image[:, :, 1::2]  # ten times as fast as avg_pool2d on a CPU
    squares = rows[:, :, :, ::2] + rows[:, :, :, 1::2]
    chroma = torch.stack([_mixed(squares, tuple(0.25 * share for share in FROM_RGB[index])) for index in (1, 2)], 1)
    return to_bytes(luma.add_(16.0))[:, None], to_bytes(chroma.add_(128.0))


def packed(luma: torch.Tensor, chroma: torch.Tensor) -> torch.Tensor:
    """Planes [S, 1, H, W] and [S, 2, H/2, W/2] as one tensor [S, 3H/2, W] whose memory is that of packed I420."""
    count, _, height, width = luma.shape
    return torch.cat((luma[:, 0], chroma.reshape(count, height // 2, width)), 1)


def rgb_from_packed(planes: torch.Tensor) -> torch.Tensor:
    """RGB, float32 [S, 3, H, W], of packed I420, uint8 [S, 3H/2, W], BT.601 limited range."""
    count, rows, width = planes.shape
    height = rows * 2 // 3
    luma = planes[:, None, :height].float()
    chroma = planes[:, height:].reshape(count, 2, height // 2, width // 2).float()
    return rgb_from_planes(luma, chroma, "bt601", False)


def packed_from_rgb(image: torch.Tensor) -> torch.Tensor:
    """Packed I420, uint8 [S, 3H/2, W], BT.601 limited range, of RGB, float [S, 3, H, W], 0 to 1."""
    return packed(*planes_from_rgb(image))


def to_bytes(plane: torch.Tensor) -> torch.Tensor:
    """Rounded and clipped to what eight bits can hold. Changes `plane`."""
    return plane.round_().clamp_(0, 255).to(torch.uint8)


def _mixed(image: torch.Tensor, shares: tuple[float, ...]) -> torch.Tensor:
    """The sum of the channels of [S, 3, H, W], each times its share: [S, H, W]."""
    red, green, blue = image.unbind(1)
    return torch.add(red * shares[0], green, alpha=shares[1]).add_(blue, alpha=shares[2])


__all__ = [
    "LUMA_WEIGHTS",
    "packed",
    "packed_from_rgb",
    "planes_from_rgb",
    "rgb_from_packed",
    "rgb_from_planes",
    "to_bytes",
]
