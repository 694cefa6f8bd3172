"""ControlNets of a frame: several in one pass, each with a scale of its own for every row."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from sdstream.diffusion.prepared import Context, Shifts, context_of, steered
from sdstream.diffusion.prepared_control import (
    control_answer,
    control_shifts_of,
    lay_out_control,
    plain_control_answer,
    takes_sizes,
)
from sdstream.diffusion.question import ControlResiduals, Prepared, Question, Subject

Own = tuple[Context, Shifts]
"""What was prepared for one net."""


class Controls(nn.Module):
    """ControlNets of diffusers, all of one family, whose residuals are added up."""

    def __init__(self, nets: Sequence[nn.Module]) -> None:
        super().__init__()
        self.nets = nn.ModuleList(nets)
        configs: list[Any] = [net.config for net in nets]
        self.channels = tuple(int(config.conditioning_channels) for config in configs)
        """Channels of each one's control picture, in order."""
        # Some ControlNets of SDXL were saved with an embedding of text and sizes, some without.
        self._is_xl = tuple(takes_sizes(net) for net in nets)
        self._layouts = tuple(lay_out_control(net) for net in nets)

    def prepare(self, subject: Subject, dtype: torch.dtype) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """What nets make of `subject` alone: `context` [R, ...] and `shifts` [B, ...] of each net that can be given its
        own, in order, of `dtype`. Nets that cannot make it in every call."""
        contexts: list[torch.Tensor] = []
        shifts: list[torch.Tensor] = []
        for index, layout in enumerate(self._layouts):
            if layout is not None:
                contexts.append(context_of(layout, subject))
                shifts.append(control_shifts_of(self.nets[index], layout, subject, dtype))
        return contexts, shifts

    def forward(self, question: Question, pictures: torch.Tensor, scales: torch.Tensor) -> ControlResiduals:
        """What they add to the UNet that is asked this `question`, whose `control` is to be.

        `pictures` [B, C, H, W], 0 to 1, are the control pictures of all nets side by side, `scales` [B, nets]. Scale 0
        adds nothing at all, whatever the net says, and so does a control picture that begins with a negative number:
        there is none for this row.

        What is prepared for the question ends with what `prepare` made of its subject, net after net.
        """
        owns = self._own(question.prepared)
        dtype = question.latents.dtype
        total: ControlResiduals | None = None
        parts: list[torch.Tensor] = list(torch.split(pictures, list(self.channels), 1))
        for index, part in enumerate(parts):
            scale = torch.where(part[:, 0, 0, 0] < 0, 0.0, scales[:, index]).to(dtype)
            own = self.steer(index, question, part.to(dtype), scale, owns[index])
            total = own if total is None else _sum(total.scaled(), own)
        assert total is not None
        return total

    def steer(
        self, index: int, question: Question, picture: torch.Tensor, scale: torch.Tensor, own: Own | None = None
    ) -> ControlResiduals:
        """What the net at `index` adds, times `scale` [B]; `picture` is its own, of the type of the latents, and `own`
        what was prepared for it."""
        net = self.nets[index]
        if own is not None:
            down, mid = control_answer(net, question.latents, *own, picture)
        else:
            down, mid = plain_control_answer(net, question, picture, is_xl=self.takes_sizes(index))
        return ControlResiduals(down, mid, scale.view(-1, 1, 1, 1))

    def takes_sizes(self, index: int) -> bool:
        """Whether the net at `index` is given SDXL's pooled text and sizes."""
        return self._is_xl[index]

    def _own(self, prepared: Prepared | None) -> list[Own | None]:
        """The part of each net in what is prepared; None for those that have none."""
        owns: list[Own | None] = [None] * len(self.nets)
        if prepared is None:
            return owns
        tokens, end, last = prepared.tokens, prepared.context.shape[1], prepared.shifts.shape[1]
        for index in reversed(range(len(owns))):
            layout = self._layouts[index]
            if layout is not None:
                start, first = end - layout.columns * tokens, last - layout.shift_columns
                context = Context(prepared.context[:, start:end], layout.columns, tokens, 0, None)
                owns[index] = context, Shifts(prepared.shifts[:, first:last])
                end, last = start, first
        return owns


def _sum(one: ControlResiduals, other: ControlResiduals) -> ControlResiduals:
    """Of two nets, the first of which is scaled."""
    down = [steered(a, b, other.scale) for a, b in zip(one.down, other.down, strict=True)]
    return ControlResiduals(down, steered(one.mid, other.mid, other.scale))


def window(start: float, end: float, slots: int) -> list[bool]:
    """In which of `slots` denoising steps a ControlNet steers, by its share of them, as diffusers counts it."""
    return [not (slot / slots < start or (slot + 1) / slots > end) for slot in range(slots)]


NO_PICTURE = -1.0
"""What a control picture is filled with when there is none."""

__all__ = ["NO_PICTURE", "Controls", "Own", "window"]
