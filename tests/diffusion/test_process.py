"""A tiny model in the real worker process, at the wire's smallest size."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import torch

from sdstream.clock import SystemClock
from sdstream.frames import I420Frame, PictureSize, split_planes
from sdstream.model_errors import ModelUnavailable
from sdstream.params import ModelEntry, ModelTable, StreamParams, parse_create
from sdstream.settings import Settings
from sdstream.worker import colour
from sdstream.worker.client import WorkerProcess
from sdstream.worker.pipelines import make_pipeline
from sdstream.worker.ports import LanePhase
from tests.worker.pictures import Recorder, noise, until

SIZE = PictureSize(384, 384)
MODEL = "stabilityai/sd-turbo"


def params_of(**fields: object) -> StreamParams:
    body = {"model_id": MODEL, "width": 384, "height": 384, "t_index_list": [20, 35], "prompt": "the cat", **fields}
    return parse_create({"pipeline": "streamdiffusion", "params": body}, ModelTable()).params


def here(directory: Path, changes: dict[int, StreamParams], frames: list[I420Frame]) -> list[I420Frame]:
    """What the pipeline makes of `frames` in this process; `changes` are applied before the frames they number."""
    cpu = torch.device("cpu")
    models = ModelTable([ModelEntry(MODEL, "sd-turbo", str(directory))])
    pipeline = make_pipeline(changes[0], cpu, lambda detail, percent: None, models)
    made: list[I420Frame] = []
    for index, frame in enumerate(frames):
        if index in changes:
            assert pipeline.apply(changes[index])
        packed = numpy.empty(SIZE.byte_count, numpy.uint8)
        colour.download(pipeline.process(colour.upload(frame, SIZE, cpu)), packed)
        made.append(I420Frame(*split_planes(packed, SIZE)))
    return made


def difference(one: I420Frame, other: I420Frame) -> int:
    """The largest, in steps of eight bits."""
    planes = ((one.y, other.y), (one.u, other.u), (one.v, other.v))
    return max(int(numpy.abs(a.astype(int) - b.astype(int)).max()) for a, b in planes)


@pytest.mark.slow
async def test_the_worker_diffuses_and_turns_a_prompt_without_losing_a_picture(
    tiny_directory: Callable[..., Path],
) -> None:
    directory = tiny_directory("sd-turbo")
    settings = Settings.model_validate(
        {"worker_spare": False, "worker_threads": 1, "worker_ping_timeout": 20, "models": {MODEL: str(directory)}}
    )
    worker = WorkerProcess(settings, SystemClock())
    await worker.start()
    try:
        assert await worker.wait_ready(150)
        recorder, missing = Recorder(), Recorder()
        first, second = params_of(), params_of(prompt="a dog in rain", seed=5)
        lane = await worker.open_lane("stream", first, 1, recorder)
        await until(lambda: recorder.statuses and recorder.statuses[-1].phase is LanePhase.READY, 150)
        frames = [noise(SIZE, seed=index, sequence=index) for index in range(6)]
        made = [await lane.process(frame) for frame in frames[:3]]
        lane.update(second, 2)
        await until(lambda: recorder.statuses[-1].revision == 2 and recorder.statuses[-1].phase is LanePhase.READY)
        made += [await lane.process(frame) for frame in frames[3:]]
        expected = here(directory, {0: first, 3: second}, frames)
        unturned = here(directory, {0: first}, frames)
        assert max(difference(a, b) for a, b in zip(made, expected, strict=True)) <= 2
        assert difference(made[-1], unturned[-1]) > 20
        assert {frame.size for frame in made} == {SIZE}
        other = await worker.open_lane("missing", params_of(model_id="stabilityai/sdxl-turbo"), 1, missing)
        await until(lambda: missing.statuses and missing.statuses[-1].phase is LanePhase.FAILED, 150)
        with pytest.raises(ModelUnavailable, match="not on this machine"):
            await other.process(frames[0])
        assert difference(await lane.process(frames[0]), made[0]) > 0, "the stream beside it goes on"
        neighbours = [params_of(prompt=f"neighbour {n}", seed=n, guidance_scale=1.5 + n) for n in range(2)]
        recorders = [Recorder() for _ in neighbours]
        lanes = [await worker.open_lane(f"{n}", params, 1, recorders[n]) for n, params in enumerate(neighbours)]
        for each in recorders:
            await until(lambda each=each: each.statuses and each.statuses[-1].phase is LanePhase.READY, 150)
        together = await asyncio.gather(*(beside.process(frame) for frame in frames[:3] for beside in lanes))
        for n, params in enumerate(neighbours):
            alone = here(directory, {0: params}, frames[:3])
            assert max(difference(a, b) for a, b in zip(together[n::2], alone, strict=True)) <= 2
        await until(lambda: worker.health().calls.get(2, 0) > 0)
        assert any(cost.kind.model_id == MODEL and cost.seconds.get(1, 0) > 0 for cost in worker.health().costs)
        assert worker.health().restarts == 0
    finally:
        await worker.close()
