"""What runs on a lane's pictures. Image processors alone run here; the diffusion engine is a second `Pipeline`."""

from collections.abc import Callable
from typing import Protocol

import torch

from sdstream.directories import ModelPlaces
from sdstream.errors import ModelUnavailable
from sdstream.frames import PictureSize
from sdstream.params import ModelTable, StreamParams
from sdstream.params.processors import ImageProcessing, Processor
from sdstream.worker.colour import resize
from sdstream.worker.processors import PROCESSORS, ProcessorContext, changes_nothing, run_processor

Progress = Callable[[str, float | None], None]
"""Told what is being loaded and, where known, how much of it, 0 to 100."""


class Pipeline(Protocol):
    """The way of one lane's pictures under its params. Used by one thread."""

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

    def apply(self, params: StreamParams) -> bool:
        """Take new params from the next picture on; False when this needs another pipeline. Changes nothing then.

        Raises `ModelUnavailable` when the params ask for something that is not here; the old params stay.
        """
        ...

    def process(self, image: torch.Tensor) -> torch.Tensor:
        """One picture, float [1, 3, H, W] of `input_size`, 0 to 1; returns one of `output_size`, 0 to 1."""
        ...


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


class ProcessorPipeline:
    """`skip_diffusion: true`: the image processors of both blocks, in order, and nothing between them."""

    def __init__(self, params: StreamParams, device: torch.device) -> None:
        self._device = device
        self._previous: torch.Tensor | None = None
        self._take(params)

    @property
    def input_size(self) -> PictureSize:
        return self._input_size

    @property
    def output_size(self) -> PictureSize:
        return self._output_size

    @property
    def changes_nothing(self) -> bool:
        return self._input_size == self._output_size and all(
            changes_nothing(processor.type) for processor in (*self._before, *self._after)
        )

    def apply(self, params: StreamParams) -> bool:
        if not params.skip_diffusion:
            return False
        self._take(params)
        return True

    @torch.inference_mode()
    def process(self, image: torch.Tensor) -> torch.Tensor:
        context = ProcessorContext(self._previous)
        for processor in self._before:
            image = run_processor(processor.type, image, processor.params, context)
        image = resize(image, self._input_size.width, self._input_size.height)
        for processor in self._after:
            image = run_processor(processor.type, image, processor.params, context)
        image = resize(image, self._output_size.width, self._output_size.height).clamp(0, 1)
        self._previous = image if self._remembers else None
        return image

    def _take(self, params: StreamParams) -> None:
        before, after = usable_processors(params.image_preprocessing), usable_processors(params.image_postprocessing)
        self._before, self._after = before, after
        self._input_size = PictureSize(params.width, params.height)
        self._output_size = params.output_size
        self._remembers = any(processor.type == "feedback" for processor in (*before, *after))


def usable_processors(block: ImageProcessing | None) -> tuple[Processor, ...]:
    """The active processors of a block. Raises `ModelUnavailable` for one that cannot run here."""
    active = () if block is None else block.active
    for processor in active:
        if processor.type not in PROCESSORS:
            raise ModelUnavailable(
                f"the image processor {processor.type} needs a model that this version of sdstream cannot load"
            )
    return active


__all__ = ["Pipeline", "ProcessorPipeline", "Progress", "make_pipeline", "usable_processors"]
