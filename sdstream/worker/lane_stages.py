"""A lane's own parts of its pictures' way: the image processors before and after what it shares with others."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from functools import cache

import torch

from sdstream.directories import ModelPlaces
from sdstream.errors import SdstreamError
from sdstream.frames import PictureSize
from sdstream.params import StreamParams
from sdstream.worker.annotators.shelf import AnnotatorShelf
from sdstream.worker.asked import wanted_of
from sdstream.worker.colour import resize
from sdstream.worker.engines.setup import who_looks_for_networks
from sdstream.worker.looks import Looking
from sdstream.worker.ports import CallKind, ProcessorState, kind_of
from sdstream.worker.processors import ProcessorChain
from sdstream.worker.processors.chain import Progress


@dataclass(frozen=True, slots=True)
class LaneStages:
    """A lane's own parts of the way: its image processors before and after what it shares, and the sizes."""

    first: ProcessorChain
    last: ProcessorChain
    input_size: PictureSize
    output_size: PictureSize
    kind: CallKind

    @classmethod
    def of(cls, params: StreamParams, shelf: AnnotatorShelf, before: "LaneStages | None" = None) -> "LaneStages":
        """`before` are the stages that these take the place of: what goes on keeps its memory."""
        return cls(
            ProcessorChain(wanted_of(params, "image_preprocessing"), shelf, None if before is None else before.first),
            ProcessorChain(wanted_of(params, "image_postprocessing"), shelf, None if before is None else before.last),
            PictureSize(params.width, params.height),
            params.output_size,
            kind_of(params),
        )

    @property
    def looks_before(self) -> bool:
        """Whether some processor looks at pictures before what is shared."""
        return not self.first.is_empty

    @property
    def looks_after(self) -> bool:
        """Whether pictures are not yet what they shall be after it."""
        return not self.last.is_empty or self.input_size != self.output_size

    @property
    def shares(self) -> Hashable:
        """Equal of lanes that look at pictures of one size in the same ways; None where nothing can be shared."""
        both = (self.first.shares, self.last.shares)
        return (self.kind, *both) if any(both) else None

    @property
    def changes_nothing(self) -> bool:
        """Whether pictures come out as they go in."""
        return self.input_size == self.output_size and self.first.changes_nothing and self.last.changes_nothing

    @property
    def remembers(self) -> bool:
        """Whether the next picture needs the one that came out last."""
        return self.first.needs_previous_output or self.last.needs_previous_output

    @property
    def faults(self) -> tuple[SdstreamError, ...]:
        """Why processors are passed over."""
        return (*self.first.faults, *self.last.faults)

    @property
    def states(self) -> tuple[ProcessorState, ...]:
        """Where each processor stands."""
        return (*self.first.states, *self.last.states)

    @property
    def taps(self) -> Mapping[str, torch.Tensor]:
        """What each processor made last."""
        return {**self.first.last, **self.last.last}

    def wait(self, progress: Progress | None = None) -> None:
        """Wait for the networks of all processors, as `ProcessorChain.wait` does."""
        self.first.wait(progress)
        self.last.wait(progress)

    def before(self, image: torch.Tensor, previous: torch.Tensor | None, delay: int = 0) -> Looking[torch.Tensor]:
        """The processors before, then `input_size`; `previous` is the picture that came out last, if it is known, and
        belongs to the picture that came `delay` before the last one."""
        image = yield from self.first.look(image, previous, delay)
        return resize(image, self.input_size.width, self.input_size.height)

    def after(self, image: torch.Tensor, previous: torch.Tensor | None) -> Looking[torch.Tensor]:
        """The processors after, then `output_size` and 0 to 1."""
        image = yield from self.last.look(image, previous)
        return resize(image, self.output_size.width, self.output_size.height).clamp(0, 1)


@cache
def annotators(device: torch.device, places: ModelPlaces, optical_flow: str | None = None) -> AnnotatorShelf:
    """The networks of image processors on a device; `optical_flow` as in `AnnotatorShelf`."""
    return AnnotatorShelf(device, places, engines=who_looks_for_networks, optical_flow=optical_flow)


__all__ = ["LaneStages", "annotators"]
