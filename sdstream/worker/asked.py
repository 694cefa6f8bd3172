"""What params ask of image processors: which are to run, and whether any needs a network."""

from typing import Literal

from sdstream.params import StreamParams
from sdstream.params.processors import ImageProcessing
from sdstream.worker.files.published import CHOSEN, PROCESSORS
from sdstream.worker.processors import Wanted


def is_quick(params: StreamParams) -> bool:
    """Whether a pipeline for these params is there at once: image processors alone, none of which has a network, or may
    be given one."""
    if not params.skip_diffusion:
        return False
    blocks = (params.image_preprocessing, params.image_postprocessing)
    slow = {*PROCESSORS, *CHOSEN}
    return not any(processor.type in slow for block in blocks if block for processor in block.active)


def wanted_of(params: StreamParams, block_name: Literal["image_preprocessing", "image_postprocessing"]) -> list[Wanted]:
    """The active processors of a block."""
    block: ImageProcessing | None = getattr(params, block_name)
    return [
        Wanted(processor.type, processor.params, place=f"{block_name}[{index}]")
        for index, processor in enumerate(() if block is None or not block.enabled else block.processors)
        if processor.enabled
    ]


__all__ = ["is_quick", "wanted_of"]
