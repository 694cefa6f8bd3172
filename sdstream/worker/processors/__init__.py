"""Image processors, in torch, on pictures of float [N, 3, H, W], 0 to 1, on any device."""

from sdstream.worker.processors.base import ImageProcessor, ProcessorContext, ProcessorMemory
from sdstream.worker.processors.chain import ProcessorChain, Wanted
from sdstream.worker.processors.learned import LEARNED, LearnedProcessor
from sdstream.worker.processors.registry import PROCESSORS, changes_nothing, run_processor

__all__ = [
    "LEARNED",
    "PROCESSORS",
    "ImageProcessor",
    "LearnedProcessor",
    "ProcessorChain",
    "ProcessorContext",
    "ProcessorMemory",
    "Wanted",
    "changes_nothing",
    "run_processor",
]
