"""Memory over many times on and off of everything that steers, on tiny models on the CPU.

`TEST_CYCLES=500` has them do it so often; what a cycle may leave is the same.
"""

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sdstream.directories import ModelPlaces
from sdstream.params import ModelEntry, ModelTable
from sdstream.settings import Family
from sdstream.worker.diffusion_pipeline import DiffusionPipeline
from sdstream.worker.pipelines import make_pipeline
from tests.diffusion.conftest import CPU, SD15_CANNY
from tests.diffusion.runs import pictures
from tests.diffusion.test_pipeline import IDS, params_of
from tests.diffusion.test_steering import net, style
from tests.support.memory import cycles, held_bytes
from tests.worker.faces import image_of

CYCLES, WARM = cycles(100), 30
PICTURE_EVERY = 10
MOST_BYTES = CYCLES * 20 * 1024
"""Of resident memory that the cycles after the warm ones may add. The allocator's own ups and downs stay within 0.7 MB
over hundreds of cycles."""
KINDS: dict[str, dict[str, Any]] = {
    "controlnet": {"controlnets": [net(SD15_CANNY)]},
    "style image": {"ip_adapter": {"enabled": True, "scale": 0.8}, "ip_adapter_style_image_url": style()},
    "face": {
        "ip_adapter": {"enabled": True, "scale": 0.8, "type": "faceid"},
        "ip_adapter_style_image_url": image_of((150, 120, 60)),
    },
    "earlier pictures": {"cached_attention": {"enabled": True, "max_frames": 2, "interval": 1}},
    "latent feedback": {"latent_preprocessing": {"processors": [{"type": "latent_feedback"}]}},
    "processors": {"image_preprocessing": {"processors": [{"type": "canny"}, {"type": "feedback"}]}},
    "network of a processor": {"image_preprocessing": {"processors": [{"type": "depth"}]}},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_flat_over_many_times_on_and_off(
    kind: str, tiny_directory: Callable[..., Path], places: ModelPlaces
) -> None:
    family: Family = "sdxl-turbo" if kind == "face" else "sd15"
    models = ModelTable([ModelEntry(IDS[family], family, str(tiny_directory(family)))], places=places)
    off, on = params_of(family), params_of(family, **KINDS[kind])
    (image,) = pictures(1)

    def load(params: Any) -> DiffusionPipeline:
        made = make_pipeline(params, CPU, lambda detail, percent: None, models)
        assert isinstance(made, DiffusionPipeline)
        return made

    pipeline = load(off)
    pipeline.process(image)
    held = list[tuple[int, int]]()
    for cycle in range(WARM + CYCLES):
        for params in (on, off):
            plan = pipeline.plan(params)  # as the worker does: in place, or another pipeline in this one's place
            if plan is not None:
                pipeline.turn(plan)
            else:
                other = load(params)
                other.begin(pipeline)
                pipeline.end()
                pipeline = other
            if cycle % PICTURE_EVERY == 0:
                pipeline.process(image)
        if cycle in (WARM - 1, WARM + CYCLES - 1):
            resident = held_bytes()
            tensors = sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())
            held.append((resident, tensors))
    pipeline.end()
    (before, tensors_before), (after, tensors_after) = held
    assert tensors_after <= tensors_before
    assert after - before < MOST_BYTES
