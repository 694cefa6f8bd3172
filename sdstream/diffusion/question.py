"""What the UNet of a frame is asked: its rows of tensors, named once for every back end.

These are tuples, which compilers and exporters of torch take apart by themselves: an engine is still given plain
tensors, in the order that `Question.tensors` and `question_of` agree on.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch


class ControlResiduals(NamedTuple):
    """What ControlNets add inside the UNet, for the same B rows as the latents.

    `down` are the residuals of the skip connections in the order in which diffusers makes them, `mid` that of the
    middle block, [B, channels, height, width] each; `scale` [B, 1, 1, 1] is what all of them are still to be
    multiplied by, if it is given.
    """

    down: Sequence[torch.Tensor]
    mid: torch.Tensor
    scale: torch.Tensor | None = None

    def scaled(self) -> "ControlResiduals":
        """The same with nothing left to multiply by."""
        if self.scale is None:
            return self
        return ControlResiduals([values * self.scale for values in self.down], self.mid * self.scale)


class Subject(NamedTuple):
    """What rows of latents are about: what follows from knobs alone, and not from any picture.

    `timesteps` int64 [B]; `texts` [R, tokens, width]; `pooled` [B, width] and `time_ids` [B, 6] for SDXL, else None;
    `image_tokens` [R, image tokens, width], which an IP-Adapter projects from a style image, None without one. All but
    the timesteps are of the UNet's type. R is B in a `Question`, and can be fewer where a subject is prepared: see
    `Prepared`.
    """

    timesteps: torch.Tensor
    texts: torch.Tensor
    pooled: torch.Tensor | None = None
    time_ids: torch.Tensor | None = None
    image_tokens: torch.Tensor | None = None

    @property
    def of_xl(self) -> tuple[torch.Tensor, torch.Tensor]:
        """`pooled` and `time_ids`, of a subject that has them."""
        assert self.pooled is not None
        assert self.time_ids is not None
        return self.pooled, self.time_ids

    def added(self, is_xl: bool) -> dict[str, Any]:
        """What a network of diffusers is given by name besides, if it is one of SDXL's that looks at it."""
        return {"added_cond_kwargs": {"text_embeds": self.pooled, "time_ids": self.time_ids}} if is_xl else {}


class Prepared(NamedTuple):
    """What networks made of a `Subject` of B rows: `context` [R, length] are keys and values of R texts, and `shifts`
    [B, columns] what the time adds, in layouts of `sdstream.diffusion.prepared`.

    R divides B: as many rows of latents after each other as that makes look at the same text. `tokens` are how many
    each text has, and `image_tokens` how many each style image has, 0 without. Columns after a network's own are for
    others, which find theirs from the end.
    """

    context: torch.Tensor
    shifts: torch.Tensor
    tokens: int
    image_tokens: int = 0


class Question(NamedTuple):
    """What is in B independent rows of latents, noise or velocity?

    `latents` [B, 4, h, w] are of the UNet's type, `subject` is of as many rows. `control` is what ControlNets add, None
    without. `image_strengths` float32 [B, layers] says how much each cross attention, in the order of the picture's
    way, makes of the subject's image tokens; None without these. `prepared` is what `Networks.prepare` made of the same
    subject, and of the ControlNets' own after it: who knows it may take it instead, for the same answer.
    """

    latents: torch.Tensor
    subject: Subject
    control: ControlResiduals | None = None
    image_strengths: torch.Tensor | None = None
    prepared: Prepared | None = None

    def tensors(self, is_xl: bool) -> list[torch.Tensor]:
        """What an engine of the UNet is given, in the order of its inputs (`sdstream.diffusion.components`): latents,
        timesteps, texts, then pooled and time_ids for SDXL, then the control residuals, then the image tokens and their
        strengths, the last ones where there are any."""
        subject, control = self.subject, self.control
        given = [self.latents, subject.timesteps, subject.texts]
        if is_xl:
            given += subject.of_xl
        if control is not None:
            control = control.scaled()
            given += [*control.down, control.mid]
        if subject.image_tokens is not None and self.image_strengths is not None:
            given += [subject.image_tokens, self.image_strengths]
        return given


def question_of(
    tensors: Sequence[torch.Tensor], *, is_xl: bool, controls: int, has_tokens: bool
) -> tuple[Question, list[torch.Tensor]]:
    """The question that `tensors` begin with, as `Question.tensors` lays it out, with `controls` residuals; and those
    that come after it."""
    rest = list(tensors)

    def take(count: int) -> list[torch.Tensor]:
        taken = rest[:count]
        del rest[:count]
        return taken

    latents, timesteps, texts = take(3)
    pooled, time_ids = take(2) if is_xl else (None, None)
    residuals = take(controls)
    control = ControlResiduals(residuals[:-1], residuals[-1]) if residuals else None
    tokens, strengths = take(2) if has_tokens else (None, None)
    return Question(latents, Subject(timesteps, texts, pooled, time_ids, tokens), control, strengths), rest


__all__ = ["ControlResiduals", "Prepared", "Question", "Subject", "question_of"]
