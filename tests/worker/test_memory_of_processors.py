"""Image processors that are not said to remember make of a picture what they would have made of it alone."""

from collections.abc import Iterator

import pytest
import torch

from sdstream.params import IMAGE_PROCESSORS
from sdstream.worker.annotators.shelf import AnnotatorShelf
from sdstream.worker.processors import LEARNED, PROCESSORS, ProcessorChain, Wanted
from tests.worker.annotators import TINY_LOADERS
from tests.worker.test_chain import scene

FAKED = {"mediapipe_pose", "mediapipe_segmentation", "openpose"}
"""Those whose networks are not here as tiny ones."""
TRIED = sorted((PROCESSORS.keys() | LEARNED.keys()) - FAKED)


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("name", TRIED)
def test_what_came_before_counts_for_those_that_remember_alone(name: str) -> None:
    told = IMAGE_PROCESSORS[name].defaults
    shelf = AnnotatorShelf(torch.device("cpu"), loaders=TINY_LOADERS)

    def chain() -> ProcessorChain:
        made = ProcessorChain([Wanted(name, told | ({"interval": 1} if "interval" in told else {}))], shelf)
        made.wait()
        assert made.faults == ()
        return made

    first, second = scene(0, 64), scene(1, 64)
    follows = chain()
    before = follows.run(first, None)
    after = follows.run(second, before)
    assert torch.equal(after, chain().run(second)) is not IMAGE_PROCESSORS[name].remembers
