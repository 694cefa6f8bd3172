"""A stream whose params end the real worker process takes it from the others twice, and no more."""

import contextlib
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from sdstream.diffusion.tiny import write_tiny_model
from sdstream.errors import OutOfMemory, WorkerEndedByStream
from sdstream.params import StreamParams, parse_create
from sdstream.worker.ports import LanePhase, WorkerPhase
from tests.worker.pictures import MODELS, Recorder, make_params, until
from tests.worker.test_process import Feeder, Start, posix_only, start, worker_process

__all__ = ["start"]

POISONED_WORKER = """
import os, signal
from sdstream.worker import main
from sdstream.worker.pipelines import ProcessorPipeline

honest = ProcessorPipeline.{method}

def poisoned(self, given):
    answer = honest(self, given)
    if self.output_size.width == 512:
        os.kill(os.getpid(), signal.SIGKILL)
    return answer

ProcessorPipeline.{method} = poisoned
main.main()
"""
MODEL = "stabilityai/sd-turbo"
POISON = {"width": 512, "height": 512}


def poison(monkeypatch: pytest.MonkeyPatch, folder: Path, method: str) -> None:
    """Have workers end by signal 9 in this method of a pipeline that makes pictures of 512x512."""
    replace_worker(monkeypatch, folder, POISONED_WORKER.format(method=method))


def replace_worker(monkeypatch: pytest.MonkeyPatch, folder: Path, text: str) -> None:
    """Have this program run in place of the worker's."""
    program, command = folder / "worker.py", folder / "python"
    program.write_text(text)
    command.write_text(f"#!/bin/sh\nexec {shlex.join([sys.executable, str(program)])}\n")
    command.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(command))


SHARED_WORKER = """
import torch
from sdstream.worker import main
from sdstream.worker.groups import StreamGroup

honest = StreamGroup.run

def poisoned(self, images):
    knobs = self._table._knobs
    if any(float(knobs.delta[seat]) == 0.25 for seat in images):
        raise torch.OutOfMemoryError('no memory for a picture')
    return honest(self, images)

StreamGroup.run = poisoned
main.main()
"""


def diffusing(**fields: Any) -> StreamParams:
    body = {"model_id": MODEL, "width": 384, "height": 384, "t_index_list": [20], **fields}
    return parse_create({"pipeline": "streamdiffusion", "params": body}, MODELS).params


@posix_only
@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_of_streams_that_ride_together_only_the_one_that_ends_the_worker_is_kept_away(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    write_tiny_model(tmp_path / "tiny", "sd-turbo", width=16)
    replace_worker(monkeypatch, tmp_path, SHARED_WORKER)
    worker = await start(ready=False, models={MODEL: str(tmp_path / "tiny")}, worker_threads=1, batch_window=0.1)
    innocent = [Recorder() for _ in range(3)]
    bad = Recorder()
    lanes = [await worker.open_lane(f"good {n}", diffusing(seed=n), 1, each) for n, each in enumerate(innocent)]
    lanes.append(await worker.open_lane("bad", diffusing(delta=0.25), 1, bad))
    with contextlib.ExitStack() as feeding:
        for lane in lanes:
            feeding.enter_context(Feeder(lane, 10))
        await until(lambda: bad.statuses and bad.statuses[-1].phase is LanePhase.FAILED, 200)
        assert bad.statuses[-1].error_code == WorkerEndedByStream.code
        restarts = worker.health().restarts
        assert restarts == 2
        made = [len(each.pictures) for each in innocent]
        await until(lambda: all(len(each.pictures) > n + 2 for each, n in zip(innocent, made, strict=True)), 200)
    assert worker.health().restarts == restarts
    assert not any(status.phase is LanePhase.FAILED for each in innocent for status in each.statuses)
    assert worker.health().last_error_code == OutOfMemory.code
    assert "no memory for a picture" in (worker.health().last_error or "")


@posix_only
@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("method", ["after", "begin"])
async def test_a_stream_that_ends_the_worker_twice_is_kept_away_until_its_params_change(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, method: str
) -> None:
    poison(monkeypatch, tmp_path, method)
    worker = await start()
    good, bad = Recorder(), Recorder()
    good_lane = await worker.open_lane("good", make_params("blur"), 1, good)
    with Feeder(good_lane):
        await until(lambda: good.pictures)
        bad_lane = await worker.open_lane("bad", make_params("blur", **POISON), 1, bad)
        with Feeder(bad_lane):
            await until(lambda: bad.statuses and bad.statuses[-1].phase is LanePhase.FAILED, 200)
            assert bad.statuses[-1].error_code == WorkerEndedByStream.code
            assert worker.health().restarts == 2
            made = len(good.pictures)
            await until(lambda: len(good.pictures) > made + 20, 200)
            assert bad.statuses[-1].phase is LanePhase.FAILED
            assert worker.health().phase is WorkerPhase.READY

            bad_lane.update(make_params("blur", **POISON, seed=3), 2)
            await until(lambda: bad.statuses[-1].phase is not LanePhase.FAILED)
            await until(lambda: bad.statuses[-1].phase is LanePhase.FAILED, 200)
            assert worker.health().restarts == 3
            bad_lane.update(make_params("blur"), 3)
            await until(lambda: bad.pictures, 200)
            assert bad.pictures[-1].revision == 3
            assert worker.health().restarts == 3

            process = worker_process(worker)
            await until(lambda: bad.statuses[-1].effective_sequence is not None)
            process.kill()
            made = len(bad.pictures)
            await until(lambda: len(bad.pictures) > made + 1, 200)  # a death at other work is not held against it
    assert not any(status.phase is LanePhase.FAILED for status in good.statuses)
