"""An engine that is built behind a running stream, in the real worker process with the real builder and compiler."""

import asyncio
import json
import shutil
import sys
from pathlib import Path

import numpy
import pytest

from sdstream.clock import SystemClock
from sdstream.diffusion.tiny import write_tiny_model
from sdstream.engines.cache import EngineCache
from sdstream.frames import I420Frame, PictureSize
from sdstream.settings import Settings
from sdstream.worker.client import WorkerProcess
from sdstream.worker.ports import Lane
from tests.worker.pictures import Recorder, make_params, noise

SIZE = PictureSize(384, 384)
PAUSE = 4.0
"""Seconds between two pictures, so that the builder, which lets others go first, gets its turn."""
MOST_PICTURES = 200
AFTER = 6
"""Pictures after the engine is in force: all steps of both are of it then."""


async def process(lane: Lane, number: int) -> I420Frame:
    return await lane.process(noise(SIZE, seed=number, sequence=number, pts=number * 3000))


def luma(frame: I420Frame) -> numpy.ndarray:
    return frame.y.astype(numpy.int16)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform == "win32", reason="packages are compiled for POSIX here")
async def test_an_engine_is_built_behind_a_stream_and_takes_over_between_two_pictures(tmp_path: Path) -> None:
    """A stream that asks for engines and its plain twin get the same pictures, from the first on torch to the last on
    the package: each comes out once, in its place, and looks the same. A second stream that joins is on it, too."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("there is no C++ compiler here")
    write_tiny_model(tmp_path / "tiny", "sd-turbo", width=16, levels=1)
    settings = {
        "worker_spare": False,
        "data_dir": tmp_path / "data",
        "engine_local_dir": tmp_path / "local",
        "engine_builds": "always",
        "models": json.dumps({"stabilityai/sd-turbo": str(tmp_path / "tiny")}),
    }
    worker = WorkerProcess(Settings.model_validate(settings), SystemClock())
    await worker.start()
    try:
        assert await worker.wait_ready(150)
        wanted = {"skip_diffusion": False, "t_index_list": [10, 30], "prompt": "a cat", "seed": 1}
        built, plain = Recorder(), Recorder()
        lanes = [
            await worker.open_lane("built", make_params(**wanted, acceleration="tensorrt"), 1, built),
            await worker.open_lane("plain", make_params(**wanted, acceleration="none"), 1, plain),
        ]
        differences: list[int] = []
        changes: list[float] = []
        before = None
        left = AFTER
        for number in range(MOST_PICTURES):
            mine, twin = await asyncio.gather(*(process(lane, number) for lane in lanes))
            assert (mine.sequence, mine.pts) == (twin.sequence, twin.pts) == (number, number * 3000)
            differences.append(int(abs(luma(mine) - luma(twin)).max()))
            if before is not None:
                changes.append(float(abs(luma(mine) - before).mean()))
            before = luma(mine).copy()
            in_force = built.statuses[-1].acceleration
            left -= in_force == "compiled"
            if not left:
                break
            if in_force != "compiled":
                await asyncio.sleep(PAUSE)
        told = [status for status in built.statuses if status.acceleration]
        assert list(dict.fromkeys(status.acceleration for status in told)) == ["torch", "compiled"]
        assert any("an engine for compiled is being built" in status.detail for status in told)
        assert {status.acceleration for status in plain.statuses} <= {"", "torch"}
        assert max(differences) <= 1, "of 255: what rounding does"
        assert min(changes[1:]) > 0.5, "no picture is that before again, but for the first, which fills both steps"
        joined = Recorder()
        lanes += [
            await worker.open_lane("joined", make_params(**wanted, acceleration="tensorrt"), 1, joined),
            await worker.open_lane("joined-plain", make_params(**wanted, acceleration="none"), 1, Recorder()),
        ]
        for more in range(MOST_PICTURES, MOST_PICTURES + AFTER):
            pictures = await asyncio.gather(*(process(lane, more) for lane in lanes))
            mine, twin, second, second_twin = map(luma, pictures)
            assert max(int(abs(mine - twin).max()), int(abs(second - second_twin).max())) <= 1
        assert joined.statuses[-1].acceleration == built.statuses[-1].acceleration == "compiled"
        (entry,) = EngineCache(tmp_path / "data/engines").entries()
        assert "--frame-self-2--" in entry.name
        events = worker.health().engine_events
        assert events["built"] == events["swapped"] == 1
        assert worker.health().restarts == 0
        for lane in lanes:
            await lane.close()
    finally:
        await worker.close()
