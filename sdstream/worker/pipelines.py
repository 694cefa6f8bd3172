"""What runs on a lane's pictures. Image processors alone run here; the diffusion engine is a second `Pipeline`."""

import sys
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple, Protocol

import torch

from sdstream.directories import ModelPlaces
from sdstream.errors import SdstreamError
from sdstream.frames import PictureSize
from sdstream.params import ModelTable, StreamParams
from sdstream.worker.annotators.shelf import AnnotatorShelf
from sdstream.worker.lane_stages import LaneStages, annotators
from sdstream.worker.looks import Looking, alone
from sdstream.worker.options import EngineOptions
from sdstream.worker.ports import CallKind, ProcessorState, Remark
from sdstream.worker.sharing import most_pixels

Progress = Callable[[str, float | None], None]
"""Told what is being loaded and, where known, how much of it, 0 to 100."""


class Ran(NamedTuple):
    """What a call made: the picture of each seat, float [1, 3, H, W], about 0 to 1, the same as packed I420, uint8
    [1, 3H/2, W], and in the order of the seats in the call whether each is made of finite numbers, bool [S]. All are on
    the device, which may still be at work on them."""

    images: Mapping[int, torch.Tensor]
    planes: Mapping[int, torch.Tensor]
    finite: torch.Tensor


class Told(NamedTuple):
    """What of a pipeline may change while its params stay."""

    faults: tuple[SdstreamError, ...] = ()
    acceleration: str = ""
    states: tuple[ProcessorState, ...] = ()


class Group(Protocol):
    """Pipelines that share a call: each has a seat in it. Used by the working thread."""

    @property
    def stream_bytes(self) -> int:
        """About how much of the device's memory one stream holds here."""
        ...

    def run(self, images: Mapping[int, torch.Tensor]) -> Ran:
        """One call for the seats that have a picture: float [1, 3, H, W], 0 to 1, or packed I420, uint8 [1, 3H/2, W].
        Touches no other seat.

        When it raises, what the seats remember is as it was.
        """
        ...


class Pipeline(Protocol):
    """The way of one lane's pictures under its params: `before`, the call it shares with others if any, `after`.

    It can be made, `plan` called, and what never began ended on any thread; all else is for the working thread, between
    `begin` and `end`.
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
    def loras(self) -> tuple[tuple[str, float], ...]:
        """The LoRAs in its model: names, and how strongly."""
        return ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What the person should know about how the present params are carried out."""
        return ()

    @property
    def remarks(self) -> tuple[Remark, ...]:
        """The same, of single params."""
        return ()

    @property
    def faults(self) -> tuple[SdstreamError, ...]:
        """What is asked for and left out, and why; the pipeline goes on without it."""
        return ()

    @property
    def states(self) -> tuple[ProcessorState, ...]:
        """Where each image processor stands."""
        return ()

    @property
    def told(self) -> "Told":
        """What the server is told of anew whenever it changes."""
        return Told(self.faults, self.acceleration, self.states)

    @property
    def taps(self) -> Mapping[str, torch.Tensor]:
        """What each image processor made last, by its name, float [1, 3, H, W], 0 to 1. From any thread."""
        return {}

    @property
    def acceleration(self) -> str:
        """What runs its networks, such as `torch` or `torch+cuda_graph`; empty when it has none."""
        return ""

    @property
    def blocked(self) -> int:
        """Pictures that the safety checker has replaced, as far as is known yet."""
        return 0

    @property
    def takes_planes(self) -> bool:
        """Whether nothing is to be done with pictures before the call, so that it can be given their planes, packed."""
        return False

    @property
    def gives_planes(self) -> bool:
        """Whether nothing is to be done with pictures after the call, so that the planes it gives are the result."""
        return False

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

    @property
    def shares(self) -> Hashable:
        """Pipelines without a group whose pictures look together have an equal one of these; None: with nobody's."""
        return None

    def plan(self, params: StreamParams) -> Any:
        """Prepare new params for `turn`, slow parts included; None when they need another pipeline. Changes nothing.

        Raises `ModelUnavailable` when the params ask for something that is not here.
        """
        ...

    def plan_slowly(self, params: StreamParams, progress: Progress) -> Any:
        """As `plan`, for what is fetched or computed for long; asked where `plan` gave None. `progress` may raise."""
        return None

    def drop(self, plan: Any) -> None:
        """What `plan` or `plan_slowly` made is not used after all. From any thread."""

    def turn(self, plan: Any) -> None:
        """Bring what `plan` made into force, from the next picture on. Copies, and no longer than a picture takes."""
        ...

    def begin(self, before: "Pipeline | None") -> None:
        """Take the place of the pipeline before, and what it remembers where that is of the same kind.

        That one is as it was, and goes on if this raises. Nothing happens when this pipeline has begun already.
        """
        ...

    def end(self) -> None:
        """Give the seat up. Idempotent."""
        ...

    def before(self, image: torch.Tensor) -> Looking[torch.Tensor]:
        """The lane's own part before the call: float [1, 3, H, W] of `input_size`, 0 to 1, and the same again. Its
        looks may be answered together with those of others; no gradients are to be kept meanwhile."""
        ...

    def after(self, image: torch.Tensor) -> Looking[torch.Tensor]:
        """The same after it, of about 0 to 1; gives float [1, 3, H, W] of `output_size`, 0 to 1."""
        ...

    def repeat(self, image: torch.Tensor) -> torch.Tensor | None:
        """What came out last, when what `before` gave need not be made into a picture of its own; else None."""
        return None

    def apply(self, params: StreamParams) -> bool:
        """Take new params from the next picture on; False when this needs another pipeline. Changes nothing then.

        Raises `ModelUnavailable` when the params ask for something that is not here; the old params stay.
        """
        plan = self.plan(params)
        if plan is None:
            return False
        self.turn(plan)
        return True

    @torch.no_grad()
    def process(self, image: torch.Tensor) -> torch.Tensor:
        """One picture all the way, in a call of its own: of `input_size`, to one of `output_size`."""
        self.begin(None)
        image = alone(self.before(image))
        again = self.repeat(image)
        if again is not None:
            return again
        if self.group is not None:
            image = self.group.run({self.seat: image}).images[self.seat]
        return alone(self.after(image))


def group_of(pipeline: Pipeline | None) -> Hashable:
    """Who rides together rides under an equal one of these."""
    if pipeline is None:
        return None
    return pipeline.shares if pipeline.group is None else id(pipeline.group)


def make_pipeline(
    params: StreamParams,
    device: torch.device,
    progress: Progress,
    models: ModelTable | None = None,
    options: EngineOptions | None = None,
) -> Pipeline:
    """Load what `params` need. Raises `ModelUnavailable`, naming what is missing.

    `models` says where weights are; without it a model is looked for under its id.
    """
    places = ModelPlaces() if models is None else models.places
    options = options or EngineOptions()
    if params.skip_diffusion:
        shelf = annotators(device, places, options.optical_flow)
        pipeline = ProcessorPipeline(params, device, shelf, options)
        pipeline.wait(progress)
        return pipeline
    from sdstream.diffusion.fetching.sources import find_model, may_fetch

    entry = None if models is None else models.get(params.model_id)
    source = params.model_id if entry is None else entry.source
    if not may_fetch(source, places) and "sdstream.worker.diffusion_pipeline" not in sys.modules:
        # First: diffusers takes seconds to import, for nothing where there is no model. Later the shelf may have it in
        # memory although its files have vanished.
        find_model(source, places)
    from sdstream.worker.diffusion_pipeline import load_diffusion
    from sdstream.worker.loading.shelf import WantedModel

    return load_diffusion(params, WantedModel.of(params, models), device, progress, options)


class ProcessorPipeline(Pipeline):
    """`skip_diffusion: true`: the image processors of both blocks, in order, and nothing between them."""

    def __init__(
        self,
        params: StreamParams,
        device: torch.device,
        shelf: AnnotatorShelf | None = None,
        options: EngineOptions | None = None,
    ) -> None:
        self._device = device
        self._shares = (options or EngineOptions()).share_processors
        self._shelf = annotators(device, ModelPlaces()) if shelf is None else shelf
        self._previous: torch.Tensor | None = None
        self._stages = LaneStages.of(params, self._shelf)

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
        return self._stages.kind

    @property
    def group(self) -> Group | None:
        return None

    @property
    def seat(self) -> int:
        return 0

    @property
    def shares(self) -> Hashable:
        size = self._stages.input_size
        gains = 2 * size.width * size.height <= most_pixels(self._device)
        return self._stages.shares if self._shares and gains else None

    @property
    def faults(self) -> tuple[SdstreamError, ...]:
        return self._stages.faults

    @property
    def states(self) -> tuple[ProcessorState, ...]:
        return self._stages.states

    @property
    def taps(self) -> Mapping[str, torch.Tensor]:
        return self._stages.taps

    def wait(self, progress: Progress | None = None) -> None:
        """Wait for the networks of all processors, as `ProcessorChain.wait` does."""
        self._stages.wait(progress)

    def plan(self, params: StreamParams) -> LaneStages | None:
        return LaneStages.of(params, self._shelf, self._stages) if params.skip_diffusion else None

    def turn(self, plan: LaneStages) -> None:
        self._stages = plan

    def begin(self, before: Pipeline | None) -> None:
        pass

    def end(self) -> None:
        pass

    def before(self, image: torch.Tensor) -> Looking[torch.Tensor]:
        return self._stages.before(image, self._previous)

    def after(self, image: torch.Tensor) -> Looking[torch.Tensor]:
        image = yield from self._stages.after(image, self._previous)
        self._previous = image if self._stages.remembers else None
        return image


__all__ = [
    "Group",
    "Pipeline",
    "ProcessorPipeline",
    "Progress",
    "Ran",
    "Told",
    "group_of",
    "make_pipeline",
]
