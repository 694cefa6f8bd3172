"""ControlNets of shapes without numbers, counted as a part of their own."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch

from sdstream.diffusion.controls import Controls
from sdstream.diffusion.fused.blocks import fuse
from sdstream.diffusion.fused.joining import join
from sdstream.diffusion.libraries import diffusers
from sdstream.diffusion.question import ControlResiduals, Question


class CountedControls(Controls):
    """`controls`, within what `within` makes."""

    def __init__(self, controls: Controls, within: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__(list(controls.nets))
        self._within = within

    def forward(self, question: Question, pictures: torch.Tensor, scales: torch.Tensor) -> ControlResiduals:
        with self._within():
            return super().forward(question, pictures, scales)


def controls_of(unet: Any, nets: int) -> Controls | None:
    """ControlNets for a UNet of shapes, fused as far as they can be; None for no nets."""
    made: list[Any] = []
    with torch.device("meta"):
        for _ in range(nets):
            net = diffusers.ControlNetModel.from_unet(unet, load_weights_from_unet=False).half()
            fuse(net.requires_grad_(False).eval())
            join(net)
            made.append(net)
    return Controls(made) if made else None


__all__ = ["CountedControls", "controls_of"]
