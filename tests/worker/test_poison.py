"""A stream whose params end the real worker process takes it from the others twice, and no more."""

import shlex
import sys
from pathlib import Path

import pytest

from sdstream.errors import WorkerEndedByStream
from sdstream.worker.ports import LanePhase, WorkerPhase
from tests.worker.pictures import Recorder, make_params, until
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
POISON = {"width": 512, "height": 512}


def poison(monkeypatch: pytest.MonkeyPatch, folder: Path, method: str) -> None:
    """Have workers end by signal 9 in this method of a pipeline that makes pictures of 512x512."""
    program, command = folder / "worker.py", folder / "python"
    program.write_text(POISONED_WORKER.format(method=method))
    command.write_text(f"#!/bin/sh\nexec {shlex.join([sys.executable, str(program)])}\n")
    command.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(command))


@posix_only
@pytest.mark.slow
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
            await until(lambda: bad.statuses and bad.statuses[-1].phase is LanePhase.FAILED, 60)
            assert bad.statuses[-1].error_code == WorkerEndedByStream.code
            assert worker.health().restarts == 2
            made = len(good.pictures)
            await until(lambda: len(good.pictures) > made + 20, 60)
            assert bad.statuses[-1].phase is LanePhase.FAILED
            assert worker.health().phase is WorkerPhase.READY

            bad_lane.update(make_params("blur", **POISON, seed=3), 2)
            await until(lambda: bad.statuses[-1].phase is not LanePhase.FAILED)
            await until(lambda: bad.statuses[-1].phase is LanePhase.FAILED)
            assert worker.health().restarts == 3
            bad_lane.update(make_params("blur"), 3)
            await until(lambda: bad.pictures, 60)
            assert bad.pictures[-1].revision == 3
            assert worker.health().restarts == 3

            process = worker_process(worker)
            await until(lambda: bad.statuses[-1].effective_sequence is not None)
            process.kill()
            made = len(bad.pictures)
            await until(lambda: len(bad.pictures) > made + 1, 60)  # a death at other work is not held against it
    assert not any(status.phase is LanePhase.FAILED for status in good.statuses)
