"""Networks that draw: the line drawing of Chan and others (2022), and the anime drawing on a pix2pix U-Net.

The layers are numbered as the published weights number them.
"""

import torch
from torch import nn
from torch.nn import functional

ANIME_MULTIPLE = 256
"""The anime network halves the picture eight times."""


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
            nn.ReLU(),
            nn.ReflectionPad2d(1),
            nn.Conv2d(channels, channels, 3),
            nn.InstanceNorm2d(channels),
        )

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values + self.conv_block(values)


class LineNetwork(nn.Module):
    """Draws dark lines on white. `width` is that of its first layer, `depth` its residual blocks in the middle."""

    def __init__(self, width: int = 64, depth: int = 3) -> None:
        super().__init__()
        self.model0 = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(3, width, 7), nn.InstanceNorm2d(width), nn.ReLU())
        down: list[nn.Module] = []
        for channels in (width, 2 * width):
            down += [nn.Conv2d(channels, 2 * channels, 3, 2, 1), nn.InstanceNorm2d(2 * channels), nn.ReLU()]
        self.model1 = nn.Sequential(*down)
        self.model2 = nn.Sequential(*(_Residual(4 * width) for _ in range(depth)))
        up: list[nn.Module] = []
        for channels in (4 * width, 2 * width):
            up += [
                nn.ConvTranspose2d(channels, channels // 2, 3, 2, 1, output_padding=1),
                nn.InstanceNorm2d(channels // 2),
                nn.ReLU(),
            ]
        self.model3 = nn.Sequential(*up)
        self.model4 = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(width, 1, 7), nn.Sigmoid())

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """`image` float [N, 3, H, W], 0 to 1, sides multiples of 4; returns the drawing [N, 1, H, W], 0 to 1."""
        values = self.model0(image)
        for part in (self.model1, self.model2, self.model3, self.model4):
            values = part(values)
        return values


class _Level(nn.Module):
    """One level of the U-Net with all below it: halves the picture, goes down, doubles it, keeps what came in."""

    def __init__(
        self, outside: int, inside: int, below: "nn.Module | None", *, coming: int | None = None, top: bool = False
    ) -> None:
        super().__init__()
        down = nn.Conv2d(outside if coming is None else coming, inside, 4, 2, 1)
        double = 1 if below is None else 2
        up = nn.ConvTranspose2d(double * inside, outside, 4, 2, 1)
        parts: list[nn.Module]
        if top:
            assert below is not None
            parts = [down, below, nn.ReLU(), up, nn.Tanh()]
        elif below is None:
            parts = [nn.LeakyReLU(0.2), down, nn.ReLU(), up, nn.InstanceNorm2d(outside)]
        else:
            parts = [
                nn.LeakyReLU(0.2),
                down,
                nn.InstanceNorm2d(inside),
                below,
                nn.ReLU(),
                up,
                nn.InstanceNorm2d(outside),
            ]
        self.top = top
        self.model = nn.Sequential(*parts)

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        result = self.model(values)
        return result if self.top else torch.cat((values, result), 1)


class AnimeNetwork(nn.Module):
    """Draws dark lines on white in the manner of anime: eight levels of a U-Net, the first `width` wide."""

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        level = _Level(8 * width, 8 * width, None)
        for _ in range(3):
            level = _Level(8 * width, 8 * width, level)
        for factor in (4, 2, 1):
            level = _Level(factor * width, 2 * factor * width, level)
        self.model = _Level(1, width, level, coming=3, top=True)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """`image` float [N, 3, H, W], 0 to 1, of any size; returns the drawing [N, 1, H, W], 0 to 1."""
        height, width = image.shape[2:]
        sides = [max(1, -(-side // ANIME_MULTIPLE)) * ANIME_MULTIPLE for side in (height, width)]
        large = functional.interpolate(image, sides, mode="bilinear", align_corners=False)
        drawing = self.model(large * 2.0 - 1.0) * 0.5 + 0.5
        return functional.interpolate(drawing, (height, width), mode="bilinear", antialias=True)


__all__ = ["ANIME_MULTIPLE", "AnimeNetwork", "LineNetwork"]
