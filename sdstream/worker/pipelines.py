"""What runs on a lane's pictures. Image processors alone run here; the diffusion engine is a second `Pipeline`."""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import torch

from sdstream.directories import ModelPlaces
from sdstream.errors import ModelUnavailable
from sdstream.frames import PictureSize
from sdstream.params import ModelTable, StreamParams
from sdstream.params.processors import ImageProcessing, Processor
from sdstream.worker.colour import resize
from sdstream.worker.load import CallKind
from sdstream.worker.processors import PROCESSORS, ProcessorContext, changes_nothing, run_processor

Progress = Callable[[str, float | None], None]
"""Told what is being loaded and, where known, how much of it, 0 to 100."""


class Ran(NamedTuple):
    """What a call made: the picture of each seat, float [1, 3, H, W], and in the order of the seats in the call whether
    each is made of finite numbers, bool [S]. Both are on the device, which may still be at work on them."""

    images: Mapping[int, torch.Tensor]
    finite: torch.Tensor


class Group(Protocol):
    """Pipelines that share a call: each has a seat in it. Used by the working thread."""

    @property
    def stream_bytes(self) -> int:
        """About how much of the device's memory one stream holds here."""
        ...

    def run(self, images: Mapping[int, torch.Tensor]) -> Ran:
        """One call for the seats that have a picture, float [1, 3, H, W], 0 to 1. Touches no other seat.

        When it raises, what the seats remember is as it was.
        """
        ...


class Pipeline(Protocol):
    """The way of one lane's pictures under its params: `before`, the call it shares with others if any, `after`.

    It can be made, and `plan` called, on any thread; all else is for the working thread, between `begin` and `end`.
    """

    @property
    def input_size(self) -> PictureSize:
        """The size at which pictures are to be given."""
        ...

    @property
    def output_size(self) -> PictureSize: ...

    @property
    def changes_nothing(self) -> bool:
        """Whether pictures come out as they go in, so that their planes may be copied instead."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What the person should know about how the present params are carried out."""
        return ()

    @property
    def kind(self) -> CallKind:
        """What its calls are, for those who measure them."""
        ...

    @property
    def group(self) -> Group | None:
        """Whose calls it rides in, None for none."""
        ...

    @property
    def seat(self) -> int:
        """Its seat there."""
        ...

    def plan(self, params: StreamParams) -> Any:
        """Prepare new params for `turn`, slow parts included; None when they need another pipeline. Changes nothing.

        Raises `ModelUnavailable` when the params ask for something that is not here.
        """
        ...

    def turn(self, plan: Any) -> None:
        """Bring what `plan` made into force, from the next picture on. Copies only."""
        ...

    def begin(self, before: "Pipeline | None") -> None:
        """Take the place of the pipeline before, and what it remembers where that is of the same kind.

        That one is as it was, and goes on if this raises. Nothing happens when this pipeline has begun already.
        """
        ...

    def end(self) -> None:
        """Give the seat up. Idempotent."""
        ...

    def before(self, image: torch.Tensor) -> torch.Tensor:
        """The lane's own part before the call: float [1, 3, H, W] of `input_size`, 0 to 1, and the same again."""
        ...

    def after(self, image: torch.Tensor) -> torch.Tensor:
        """The lane's own part after it; gives float [1, 3, H, W] of `output_size`, 0 to 1."""
        ...

    def apply(self, params: StreamParams) -> bool:
        """Take new params from the next picture on; False when this needs another pipeline. Changes nothing then.

        Raises `ModelUnavailable` when the params ask for something that is not here; the old params stay.
        """
        plan = self.plan(params)
        if plan is None:
            return False
        self.turn(plan)
        return True

    def process(self, image: torch.Tensor) -> torch.Tensor:
        """One picture all the way, in a call of its own: of `input_size`, to one of `output_size`."""
        self.begin(None)
        image = self.before(image)
        if self.group is not None:
            image = self.group.run({self.seat: image}).images[self.seat]
        return self.after(image)


def group_of(pipeline: Pipeline | None) -> Hashable:
    """Who rides together rides under an equal one of these."""
    return None if pipeline is None or pipeline.group is None else id(pipeline.group)


def make_pipeline(
    params: StreamParams, device: torch.device, progress: Progress, models: ModelTable | None = None
) -> Pipeline:
    """Load what `params` need. Raises `ModelUnavailable`, naming what is missing.

    `models` says where weights are; without it a model is looked for under its id.
    """
    if params.skip_diffusion:
        return ProcessorPipeline(params, device)
    from sdstream.diffusion.sources import find_model, may_fetch

    entry = None if models is None else models.get(params.model_id)
    source = params.model_id if entry is None else entry.source
    places = ModelPlaces() if models is None else models.places
    if not may_fetch(source, places):
        find_model(source, places)  # first: diffusers takes seconds to import, for nothing where there is no model
    from sdstream.worker.diffusion_pipeline import load_diffusion
    from sdstream.worker.shelf import WantedModel

    return load_diffusion(params, WantedModel.of(params, models), device, progress)


@dataclass(frozen=True, slots=True)
class LaneStages:
    """A lane's own parts of the way: its image processors before and after what it shares, and the sizes."""

    first: tuple[Processor, ...]
    last: tuple[Processor, ...]
    input_size: PictureSize
    output_size: PictureSize

    @classmethod
    def of(cls, params: StreamParams) -> "LaneStages":
        """Raises `ModelUnavailable` for a processor that cannot run here."""
        first, last = usable_processors(params.image_preprocessing), usable_processors(params.image_postprocessing)
        return cls(first, last, PictureSize(params.width, params.height), params.output_size)

    @property
    def changes_nothing(self) -> bool:
        """Whether pictures come out as they go in."""
        processors = (*self.first, *self.last)
        return self.input_size == self.output_size and all(changes_nothing(each.type) for each in processors)

    @property
    def remembers(self) -> bool:
        """Whether the next picture needs the one that came out last."""
        return any(processor.type == "feedback" for processor in (*self.first, *self.last))

    def before(self, image: torch.Tensor, previous: torch.Tensor | None) -> torch.Tensor:
        """The processors before, then `input_size`; `previous` is the picture that came out last, if it is known."""
        return resize(_run(self.first, image, previous), self.input_size.width, self.input_size.height)

    def after(self, image: torch.Tensor, previous: torch.Tensor | None) -> torch.Tensor:
        """The processors after, then `output_size` and 0 to 1."""
        image = _run(self.last, image, previous)
        return resize(image, self.output_size.width, self.output_size.height).clamp(0, 1)


class ProcessorPipeline(Pipeline):
    """`skip_diffusion: true`: the image processors of both blocks, in order, and nothing between them."""

    def __init__(self, params: StreamParams, device: torch.device) -> None:
        self._device = device
        self._previous: torch.Tensor | None = None
        self._stages = LaneStages.of(params)

    @property
    def input_size(self) -> PictureSize:
        return self._stages.input_size

    @property
    def output_size(self) -> PictureSize:
        return self._stages.output_size

    @property
    def changes_nothing(self) -> bool:
        return self._stages.changes_nothing

    @property
    def kind(self) -> CallKind:
        return CallKind("", self.input_size.width, self.input_size.height, 0)

    @property
    def group(self) -> Group | None:
        return None

    @property
    def seat(self) -> int:
        return 0

    def plan(self, params: StreamParams) -> LaneStages | None:
        return LaneStages.of(params) if params.skip_diffusion else None

    def turn(self, plan: LaneStages) -> None:
        self._stages = plan

    def begin(self, before: Pipeline | None) -> None:
        pass

    def end(self) -> None:
        pass

    @torch.inference_mode()
    def before(self, image: torch.Tensor) -> torch.Tensor:
        return self._stages.before(image, self._previous)

    @torch.inference_mode()
    def after(self, image: torch.Tensor) -> torch.Tensor:
        image = self._stages.after(image, self._previous)
        self._previous = image if self._stages.remembers else None
        return image


def _run(processors: tuple[Processor, ...], image: torch.Tensor, previous: torch.Tensor | None) -> torch.Tensor:
    context = ProcessorContext(previous)
    for processor in processors:
        image = run_processor(processor.type, image, processor.params, context)
    return image


def usable_processors(block: ImageProcessing | None) -> tuple[Processor, ...]:
    """The active processors of a block. Raises `ModelUnavailable` for one that cannot run here."""
    active = () if block is None else block.active
    for processor in active:
        if processor.type not in PROCESSORS:
            raise ModelUnavailable(
                f"the image processor {processor.type} needs a model that this version of sdstream cannot load"
            )
    return active


__all__ = [
    "Group",
    "LaneStages",
    "Pipeline",
    "ProcessorPipeline",
    "Progress",
    "Ran",
    "group_of",
    "make_pipeline",
    "usable_processors",
]
