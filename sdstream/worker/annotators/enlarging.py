"""Real-ESRGAN at factor 2: a network of densely connected residual blocks on a picture folded to half its sides."""

from collections.abc import Mapping

import torch
from torch import nn
from torch.nn import functional

from sdstream.worker.annotators.parted import NetworkPart, PartedNetwork, Shapes

GROWTH = 32
DAMPING = 0.2
"""By how much each residual branch is damped."""
BLOCKS = 23


class _Dense(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        for number in range(1, 6):
            outside = growth if number < 5 else width
            setattr(self, f"conv{number}", nn.Conv2d(width + (number - 1) * growth, outside, 3, padding=1))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        known = values
        for number in range(1, 5):
            new = functional.leaky_relu(getattr(self, f"conv{number}")(known), 0.2)
            known = torch.cat((known, new), 1)
        return values + DAMPING * getattr(self, "conv5")(known)  # noqa: B009 - named as the others are


class _Block(nn.Module):
    def __init__(self, width: int, growth: int) -> None:
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (_Dense(width, growth) for _ in range(3))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return values + DAMPING * self.rdb3(self.rdb2(self.rdb1(values)))


class EnlargingModule(nn.Module):
    """What engines are made of: a picture [N, 3, H, W] in, [N, 3, 2 H, 2 W] out. The layers are named as the weights
    `RealESRGAN_x2` name them."""

    def __init__(self, width: int, blocks: int, growth: int) -> None:
        super().__init__()

        def convolution(inside: int, outside: int) -> nn.Conv2d:
            return nn.Conv2d(inside, outside, 3, padding=1)

        self.conv_first = convolution(12, width)
        self.body = nn.Sequential(*(_Block(width, growth) for _ in range(blocks)))
        self.conv_body = convolution(width, width)
        self.conv_up1 = convolution(width, width)
        self.conv_up2 = convolution(width, width)
        self.conv_hr = convolution(width, width)
        self.conv_last = convolution(width, 3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        first = self.conv_first(functional.pixel_unshuffle(image, 2))
        values = first + self.conv_body(self.body(first))
        for part in (self.conv_up1, self.conv_up2):
            doubled = functional.interpolate(values, scale_factor=2.0, mode="nearest")
            values = functional.leaky_relu(part(doubled), 0.2)
        return self.conv_last(functional.leaky_relu(self.conv_hr(values), 0.2))


class EnlargingNetwork(PartedNetwork):
    """Doubles a picture."""

    def __init__(self, width: int = 64, blocks: int = BLOCKS, growth: int = GROWTH) -> None:
        super().__init__()
        self.enlarge = EnlargingModule(width, blocks, growth)
        config = {"class": "RealESRGAN_x2", "width": width, "blocks": blocks, "growth": growth}
        part = NetworkPart("enlarger", self.enlarge, ("image",), ("large",), config)
        self._parts = {part.name: part}

    @property
    def parts(self) -> Mapping[str, NetworkPart]:
        return self._parts

    def shapes(self, width: int, height: int) -> Mapping[str, Shapes]:
        """Of the next even sides: an odd picture is stretched by a pixel first."""
        return {"enlarger": ((3, -(-height // 2) * 2, -(-width // 2) * 2),)}

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """`image` float [N, 3, H, W], 0 to 1, sides even; returns float [N, 3, 2 H, 2 W], about 0 to 1."""
        (large,) = self.ask("enlarger", image)
        return large


__all__ = ["EnlargingModule", "EnlargingNetwork"]
