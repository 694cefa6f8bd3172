"""What it saves to make once for each change of a knob what ControlNets, and steps that follow each other, made of it
in every frame."""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from bench.support.random_models import SMALL
from sdstream.diffusion.controls import Controls
from sdstream.diffusion.frame import Frame
from sdstream.diffusion.loading.models import Model, load_model
from sdstream.diffusion.networks import EagerNetworks
from sdstream.diffusion.placing import place
from sdstream.diffusion.seeds import make_noise
from sdstream.diffusion.state import Knobs, Steering, make_knobs, make_memory
from sdstream.diffusion.tiny import write_tiny_model
from sdstream.diffusion.tiny_conditions import make_tiny_controlnet

STEPS = (12, 32)
CPU = torch.device("cpu")
Case = Callable[[], object]


def compare_preparing(sizes: Sequence[int], rounds: int) -> None:
    """Print medians of interleaved frames, ms of a processor, one stream, two steps: before, since, and their ratio."""
    print(f"{'':34}{'before':>9}{'since':>9}{'before/since':>14}")
    for name, width in SMALL.items():
        with tempfile.TemporaryDirectory() as folder:
            write_tiny_model(Path(folder, "model"), "sd15", width=width)
            model = load_model(Path(folder, "model"), "sd15", CPU)
        for size in sizes:
            for title, pair in cases(model, size).items():
                before, since = alternate(pair, rounds)
                line = f"{name} {size}, {title}"
                print(f"{line:34}{1e3 * before:9.2f}{1e3 * since:9.2f}{before / since:14.3f}")


def cases(model: Model, size: int) -> dict[str, tuple[Case, Case]]:
    """Each as it was before and as it is since."""
    net = place(make_tiny_controlnet(model.unet), CPU)
    before, since = Controls([net]), Controls([net])
    before._layouts = (None,)
    steering = Steering(torch.full((len(STEPS), 1), 0.5), 3, size, size)
    knobs, steered = knobs_of(model, size), knobs_of(model, size, steering=steering)
    one = frame_of(model, before), frame_of(model, since)
    sequence = frame_of(model, None, batched=False)
    return {
        "one ControlNet": (
            case_of(one[0], one[0].complete(steered), size),
            case_of(one[1], one[1].complete(steered), size),
        ),
        "steps one by one": (case_of(sequence, knobs, size), case_of(sequence, sequence.complete(knobs), size)),
    }


def alternate(pair: tuple[Case, Case], rounds: int) -> tuple[float, float]:
    """Medians of both, which take turns at going first, in seconds of a processor: others' work hardly moves those."""
    times: tuple[list[float], list[float]] = ([], [])
    for each in pair:
        each()
    for number in range(rounds):
        for index in (number % 2, 1 - number % 2):
            began = time.thread_time()
            pair[index]()
            times[index].append(time.thread_time() - began)
    return statistics.median(times[0]), statistics.median(times[1])


def frame_of(model: Model, controls: Controls | None, **options: Any) -> Frame:
    networks = EagerNetworks(model.unet, model.vae)
    prediction = model.schedule.prediction
    return Frame(networks, slots=len(STEPS), prediction=prediction, controls=controls, **options)


def knobs_of(model: Model, size: int, **options: Any) -> Knobs:
    return make_knobs(
        model.schedule.tables(STEPS, 50),
        make_noise(1, (len(STEPS), *model.latent_shape(size, size))),
        model.prompts.encode("the cat").conditioning,
        model.prompts.encode_negative("").conditioning,
        **options,
    )


def case_of(frame: Frame, knobs: Knobs, size: int) -> Case:
    """A frame of one picture, again and again."""
    image = torch.rand(1, 3 + knobs.frame_control.shape[2], size, size)
    memory = make_memory(knobs)

    def run() -> object:
        nonlocal memory
        result = frame(image, knobs, memory)
        memory = result.memory
        return result

    return run


__all__ = ["STEPS", "Case", "case_of", "compare_preparing", "knobs_of"]
