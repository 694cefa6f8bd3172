"""The real worker process: lanes over it, and what happens when it dies, stands still or loses its parent."""

import asyncio
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy
import psutil
import pytest
import pytest_asyncio

from sdstream.clock import SystemClock
from sdstream.errors import WorkerUnavailable
from sdstream.frames import PictureSize
from sdstream.model_errors import ModelUnavailable
from sdstream.platform.shared_memory import shared_memory_names
from sdstream.settings import Settings
from sdstream.worker.client import WorkerProcess
from sdstream.worker.ports import Lane, LanePhase, WorkerPhase
from sdstream.worker.ring import memory_prefix
from sdstream.worker.server_end import supervision
from sdstream.worker.server_end.child import WorkerChild
from sdstream.worker.server_end.supervision import Action, Limits, SupervisionState
from tests.support.processes import is_gone
from tests.worker.pictures import Recorder, flat, make_params, noise, until

SIZE = PictureSize(384, 384)
posix_only = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")
IDLE_FILES = 6
"""Open files of a worker without lanes: standard input, output and error, and its line, which is there twice."""
Start = Callable[..., Awaitable[WorkerProcess]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts a worker; closes it, and checks that nothing of it is left."""
    workers: list[WorkerProcess] = []
    others = psutil.Process().children()

    async def start(*, ready: bool = True, **settings: Any) -> WorkerProcess:
        # Unless the test is about that, no worker is killed for being mute while others have its core.
        usual = {"worker_spare": False, "worker_ping_timeout": 20}
        worker = WorkerProcess(Settings.model_validate(usual | settings), SystemClock())
        workers.append(worker)
        await worker.start()
        if ready:
            assert await worker.wait_ready(150)
        return worker

    yield start
    children = psutil.Process().children()
    for worker in workers:
        await worker.close()
        assert worker.health().phase is WorkerPhase.STOPPED
    for child in set(children) - set(others):
        assert is_gone(child)
    assert shared_memory_names(memory_prefix()) == []


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[WorkerProcess]:
    """The worker of the tests that do it no harm."""
    worker = WorkerProcess(Settings(worker_spare=False, worker_ping_timeout=20), SystemClock())
    await worker.start()
    assert await worker.wait_ready(150)
    yield worker
    await worker.close()


class Feeder:
    """Submits pictures at a camera's pace from a thread, as a decoder does."""

    def __init__(self, lane: Lane, rate: float = 60.0) -> None:
        self._lane = lane
        self._pause = 1 / rate
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Feeder":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        sequence = 0
        while not self._over.wait(self._pause):
            self._lane.submit(flat(SIZE, 16 + sequence % 200, sequence))
            sequence += 1


def _settled(lane: Lane) -> bool:
    """Whether every picture submitted has come to an end."""
    statistics = lane.statistics()
    return statistics.submitted == statistics.processed + statistics.superseded + statistics.lost


def run_instead_of_python(monkeypatch: pytest.MonkeyPatch, folder: Path, script: str) -> None:
    """Workers that are started from here on are this shell script."""
    program = folder / "python"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))


def worker_process(worker: WorkerProcess) -> psutil.Process:
    process_id = worker.health().process_id
    assert process_id is not None
    return psutil.Process(process_id)


@pytest.mark.asyncio(loop_scope="module")
async def test_lanes_share_a_worker_each_with_its_own_pictures_and_a_failed_one_alone(shared: WorkerProcess) -> None:
    worker = shared
    plain, lines, broken = Recorder(), Recorder(), Recorder()
    lanes = [
        await worker.open_lane("plain", make_params(), 1, plain),
        await worker.open_lane("lines", make_params("canny"), 4, lines),
        await worker.open_lane("broken", make_params(skip_diffusion=False), 2, broken),
    ]
    health = worker.health()
    assert (health.phase, health.device, health.restarts) == (WorkerPhase.READY, "cpu", 0)
    assert health.start_seconds
    frame = noise(SIZE, sequence=3, pts=900)
    await until(lambda: broken.statuses and broken.statuses[-1].phase is LanePhase.FAILED)
    for lane in lanes:
        lane.submit(frame)
    await until(lambda: plain.pictures and lines.pictures)
    assert numpy.array_equal(plain.pictures[0].frame.u, frame.u)
    assert set(numpy.unique(lines.pictures[0].frame.y)) <= {16, 235}
    assert (lines.pictures[0].revision, lines.pictures[0].frame.pts) == (4, 900)
    assert (broken.statuses[-1].error_code, broken.statuses[-1].revision) == (ModelUnavailable.code, 2)
    with pytest.raises(ModelUnavailable, match="sd-turbo"):
        await lanes[2].process(frame)

    lanes[2].update(make_params("blur"), 3)
    await until(lambda: broken.statuses[-1].phase is LanePhase.READY)
    lanes[2].submit(frame)
    await until(lambda: broken.pictures)
    assert broken.pictures[0].revision == broken.statuses[-1].revision == 3
    await until(lambda: broken.statuses[-1].effective_sequence == 3)

    frames = await asyncio.gather(*(lanes[1].process(flat(SIZE, 50, number)) for number in range(12)))
    assert [out.sequence for out in frames] == list(range(12))
    for lane in lanes:
        await lane.close()


@pytest.mark.asyncio(loop_scope="module")
async def test_many_updates_end_with_the_last_in_force(shared: WorkerProcess) -> None:
    worker = shared
    listener = Recorder()
    lane = await worker.open_lane("stream", make_params("blur"), 1, listener)
    with Feeder(lane):
        for revision in range(2, 200):
            strength = 0.1 + revision % 50 / 10
            lane.update(make_params({"type": "blur", "params": {"blur_intensity": strength}}), revision)
            await asyncio.sleep(0)
        await until(lambda: listener.pictures and listener.pictures[-1].revision == 199)
    revisions = [status.revision for status in listener.statuses]
    assert revisions == sorted(revisions)
    sequences = listener.sequences
    assert sequences == sorted(sequences)
    await lane.close()


@posix_only
@pytest.mark.slow
@pytest.mark.alone
async def test_viewers_get_pictures_again_within_five_seconds_of_a_kill_and_of_a_standstill(start: Start) -> None:
    worker = await start(worker_spare=True, worker_ping_timeout=Settings().worker_ping_timeout)
    listeners = [Recorder(), Recorder()]
    lanes = [await worker.open_lane(str(index), make_params(), 1, each) for index, each in enumerate(listeners)]

    async def seconds_until_all_are_back(restarts: int) -> float:
        since = time.monotonic()
        await until(lambda: worker.health().restarts == restarts)
        before = [len(each.pictures) for each in listeners]
        await until(lambda: all(len(each.pictures) > n for each, n in zip(listeners, before, strict=True)))
        return time.monotonic() - since

    with Feeder(lanes[0]), Feeder(lanes[1]):
        await until(lambda: all(each.pictures for each in listeners))
        for lane in lanes:
            lane.update(make_params(seed=5), 2)
        await until(lambda: all(each.pictures[-1].revision == 2 for each in listeners))
        await until(lambda: worker.spare_is_warm, 120)
        worker_process(worker).kill()
        assert await seconds_until_all_are_back(1) < 5
        assert worker.health().last_error == "the worker was ended by signal 9"
        assert all(each.pictures[-1].revision == 2 for each in listeners)
        assert LanePhase.WAITING in {status.phase for status in listeners[0].statuses}

        await until(lambda: worker.spare_is_warm, 120)
        worker_process(worker).suspend()
        assert await seconds_until_all_are_back(2) < 5
    health = worker.health()
    assert health.last_error == "the worker was killed: mute"
    assert health.last_restart_logs[-1] == "sdstream killed the worker: mute"
    await until(lambda: _settled(lanes[0]))
    assert lanes[0].statistics().lost >= 1


@posix_only
async def test_a_killed_worker_fails_the_call_that_waits_and_comes_back_without_a_spare(start: Start) -> None:
    worker = await start()
    lane = await worker.open_lane("stream", make_params(), 1, Recorder())
    await lane.process(flat(SIZE, 40))
    worker_process(worker).suspend()
    call = asyncio.create_task(lane.process(flat(SIZE, 40)))
    await asyncio.sleep(0)
    worker_process(worker).kill()
    with pytest.raises(WorkerUnavailable, match="signal 9"):
        await call
    assert (await lane.process(flat(SIZE, 41))).y[0, 0] == 41
    assert worker.health().restarts == 1


@posix_only
async def test_a_worker_that_cannot_start_is_tried_again_and_its_words_are_kept(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_instead_of_python(monkeypatch, tmp_path, "echo there is no torch here\nexit 3")
    worker = await start(ready=False)
    await until(lambda: worker.health().restarts >= 3)
    health = worker.health()
    assert health.phase is WorkerPhase.RESTARTING
    assert health.last_error == "the worker ended with status 3"
    assert health.last_restart_logs == ("there is no torch here",)
    assert not await worker.wait_ready(0.01)


@posix_only
async def test_what_a_worker_said_last_is_read_before_its_end_is_told(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_instead_of_python(monkeypatch, tmp_path, "echo the card fell off the bus\nexit 3")
    read_lines = WorkerChild._read_lines

    def read_late(child: WorkerChild) -> None:
        """As on a busy machine: the process is gone before anybody reads what it printed."""
        assert child._process is not None
        child._process.wait()
        time.sleep(0.1)
        read_lines(child)

    monkeypatch.setattr(WorkerChild, "_read_lines", read_late)
    worker = await start(ready=False)
    await until(lambda: worker.health().restarts >= 1)
    assert worker.health().last_restart_logs == ("the card fell off the bus",)


@posix_only
async def test_the_process_for_another_card_than_the_first_sees_no_other(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_instead_of_python(monkeypatch, tmp_path, "echo sees $CUDA_VISIBLE_DEVICES, told $(cat)\nexit 3")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    worker = await start(ready=False, worker_device="cuda:1")
    await until(lambda: worker.health().restarts >= 1)
    (line,) = worker.health().last_restart_logs
    assert line.startswith("sees 6,")
    assert '"device": "cuda:0"' in line


async def test_a_device_that_is_not_there_is_what_the_worker_ended_for_and_no_traceback_hides_it(start: Start) -> None:
    worker = await start(ready=False, worker_device="cuda:99")
    await until(lambda: worker.health().last_error is not None, seconds=150)
    health = worker.health()
    assert str(health.last_error).startswith("the worker ended itself: worker_device cuda:99 cannot be used: ")
    assert health.last_error_code == "CONFIGURATION/INVALID"
    assert health.phase is WorkerPhase.FAILED, "it would end so each time"
    assert not any("Traceback" in line for line in health.last_restart_logs)


@posix_only
async def test_closing_does_not_wait_for_a_process_that_no_kill_ends(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_instead_of_python(monkeypatch, tmp_path, "exec sleep 60")
    monkeypatch.setattr("sdstream.worker.client.STOP_SECONDS", 0.1)
    monkeypatch.setattr("sdstream.worker.client.KILL_SECONDS", 0.1)
    worker = await start(ready=False)
    process = worker_process(worker)
    with monkeypatch.context() as immortal:
        immortal.setattr(WorkerChild, "kill", lambda self: None)
        async with asyncio.timeout(20):
            await worker.close()
    assert process.is_running()
    process.kill()
    await until(lambda: is_gone(process))


async def test_a_program_that_is_not_there_is_no_crash(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    worker = await start(ready=False)
    told = worker.health().last_error or ""
    assert "cannot be started" in told
    assert "/nowhere" not in told


async def test_a_lane_that_fails_for_a_file_names_it_without_its_directory(start: Start, tmp_path: Path) -> None:
    folder = tmp_path / "of mine" / "turbo"
    folder.mkdir(parents=True)
    worker = await start(models={"stabilityai/sd-turbo": str(folder)}, offline=True, data_dir=tmp_path / "data")
    recorder = Recorder()
    lane = await worker.open_lane("lost", make_params(skip_diffusion=False), 1, recorder)
    await until(lambda: recorder.statuses and recorder.statuses[-1].phase is LanePhase.FAILED, 150)
    told = recorder.statuses[-1].error_message or ""
    assert "turbo" in told
    assert str(tmp_path) not in told
    await lane.close()


@posix_only
async def test_the_worker_ends_with_its_parent() -> None:
    program = (
        "import asyncio, sys\n"
        "from sdstream.clock import SystemClock\n"
        "from sdstream.settings import Settings\n"
        "from sdstream.worker.client import WorkerProcess\n"
        "async def main():\n"
        "    worker = WorkerProcess(Settings(worker_spare=False), SystemClock())\n"
        "    await worker.start()\n"
        "    assert await worker.wait_ready(150)\n"
        "    print('worker', worker.health().process_id, flush=True)\n"
        "    await asyncio.sleep(600)\n"
        "asyncio.run(main())\n"
    )
    command = [sys.executable, "-c", program]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220 - it starts at once
    try:
        assert parent.stdout is not None
        lines = iter(parent.stdout.readline, "")
        line = await asyncio.to_thread(lambda: next(line for line in lines if line.startswith("worker ")))
        child = psutil.Process(int(line.split()[1]))
        child.suspend()  # not even one that cannot notice may stay
    finally:
        parent.kill()
        parent.wait()
        assert parent.stdout is not None
        parent.stdout.close()
    if sys.platform != "linux":
        child.resume()
    await until(lambda: is_gone(child))
    assert shared_memory_names(memory_prefix(parent.pid)) == []


@posix_only
@pytest.mark.asyncio(loop_scope="module")
async def test_the_worker_outlives_an_interrupt_from_the_terminal(shared: WorkerProcess) -> None:
    worker = shared
    process = worker_process(worker)
    process.send_signal(signal.SIGINT)
    lane = await worker.open_lane("stream", make_params(), 1, Recorder())
    assert (await lane.process(flat(SIZE, 61))).y[0, 0] == 61
    assert worker.health().restarts == 0
    await lane.close()


def mapped_memory() -> set[str]:
    """The shared memory that this process has mapped, whichever test made it."""
    return {region.path for region in psutil.Process().memory_maps() if "sdstream-" in region.path}


def files_of(process: psutil.Process) -> list[str]:
    """What a process has open, as far as the system names it."""
    folder = Path(f"/proc/{process.pid}/fd")
    return [str(file.readlink()) for file in folder.iterdir()] if folder.is_dir() else []


async def all_are_closed(process: psutil.Process) -> None:
    """Wait until a worker has no files of lanes; tells which are left."""
    try:
        await until(lambda: process.num_fds() <= IDLE_FILES)
    except TimeoutError:
        raise AssertionError(f"still open: {files_of(process)}") from None


@pytest.mark.asyncio(loop_scope="module")
async def test_a_lane_that_failed_leaves_nothing_behind(shared: WorkerProcess) -> None:
    listener = Recorder()
    lane = await shared.open_lane("broken", make_params(skip_diffusion=False), 1, listener)
    await until(lambda: listener.statuses and listener.statuses[-1].phase is LanePhase.FAILED)
    lane.update(make_params("blur"), 2)
    await until(lambda: listener.statuses[-1].phase is LanePhase.READY)
    lane.submit(noise(SIZE, sequence=1))
    await until(lambda: listener.pictures)
    await lane.close()
    await all_are_closed(worker_process(shared))


@pytest.mark.asyncio(loop_scope="module")
async def test_a_hundred_lanes_leave_nothing_behind(shared: WorkerProcess) -> None:
    worker = shared
    process = worker_process(worker)

    async def use(number: int) -> None:
        listener = Recorder()
        params = make_params("passthrough" if number % 2 else "feedback")
        lane = await worker.open_lane(f"stream {number}", params, 1, listener)
        lane.submit(flat(PictureSize(16, 16), 50, number))
        await until(lambda: listener.pictures)
        await lane.close()

    await asyncio.gather(*(use(number) for number in range(4)))
    await all_are_closed(process)
    before, mapped_before = psutil.Process().num_fds(), mapped_memory()
    for first in range(0, 100, 10):
        await asyncio.gather(*(use(number) for number in range(first, first + 10)))
    assert shared_memory_names(memory_prefix()) == []
    await all_are_closed(process)
    await until(lambda: psutil.Process().num_fds() <= before)
    assert len(mapped_memory() - mapped_before) <= 1, "memory of closed lanes is still mapped"


@pytest.mark.alone
async def test_closing_is_quick_and_idempotent_even_while_the_worker_starts(start: Start) -> None:
    took: list[float] = []
    while len(took) < 3 and min(took, default=2.0) >= 2:  # the best of them: others may have the cores meanwhile
        worker = await start(ready=False)
        listener = Recorder()
        await worker.open_lane("stream", make_params(), 1, listener)
        await until(lambda listener=listener: listener.statuses)
        assert listener.statuses[0].phase is LanePhase.WAITING
        began = time.monotonic()
        await worker.close()
        await worker.close()
        took.append(time.monotonic() - began)
    assert min(took) < 2, took


@posix_only
async def test_a_process_that_nobody_can_listen_to_is_ended_and_started_again(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin = threading.Thread.start
    refused: list[str] = []

    def refuse_once(thread: threading.Thread) -> None:
        if thread.name == "worker-reader" and not refused:
            refused.append(thread.name)
            raise RuntimeError("can't start new thread")
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse_once)
    before = psutil.Process().children()
    worker = await start(ready=False)
    assert "can't start new thread" in (worker.health().last_error or "")
    assert worker.health().process_id is None
    assert psutil.Process().children() == before
    await until(lambda: worker.health().process_id is not None)
    assert worker.health().faults == 0


@posix_only
async def test_the_supervision_outlives_a_defect_of_its_own(
    start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    short = tmp_path / "python"
    short.write_text("#!/bin/sh\nexit 3\n")
    short.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(short))
    monkeypatch.setattr("sdstream.worker.client.FAULT_SECONDS", 0.05)
    decide = supervision.decide

    def broken(state: SupervisionState, now: float, limits: Limits) -> Action:
        if state.restarts == 1:
            raise LookupError("a defect")
        return decide(state, now, limits)

    monkeypatch.setattr(supervision, "decide", broken)
    worker = await start(ready=False)
    await until(lambda: worker.health().faults >= 2)
    monkeypatch.setattr(supervision, "decide", decide)
    await until(lambda: worker.health().restarts >= 2)
