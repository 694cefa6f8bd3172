"""Runners against the plain frame: compiled, captured, in rows of a table. Captures are recorded by a stand-in here."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
import torch

from sdstream.diffusion.capture import cuda_capture
from sdstream.diffusion.frame import Result
from sdstream.diffusion.loading.models import Model
from sdstream.diffusion.runners import CompiledRunner, EagerRunner, GraphRunner, bucket, make_runner
from sdstream.diffusion.state import Knobs, Memory, clone, copy_into, make_memory, row, stack
from tests.diffusion.captures import StandInCapture, StandInRecording
from tests.diffusion.runs import distance, frame_of, knobs_of, pictures

Load = Callable[..., Model]
CPU = torch.device("cpu")


class RefusingCapture(StandInCapture):
    def __init__(self, words: str) -> None:
        super().__init__()
        self.words = words

    def record(self, step: Callable[[], Any]) -> StandInRecording:
        step()
        raise RuntimeError(self.words)


def table_of(model: Model, streams: int, **changes: Any) -> Knobs:
    return stack([knobs_of(model, seed=index, guidance=1.2 + index / 5, **changes) for index in range(streams)])


def frames_by(runner: Any, knobs: Knobs, turns: Sequence[Sequence[int]]) -> tuple[list[torch.Tensor], Memory]:
    """Pictures of each turn, in which only the streams at these rows have one."""
    memory = make_memory(knobs)
    made: list[torch.Tensor] = []
    for number, rows in enumerate(turns):
        images = torch.cat([pictures(1, seed=10 * number + index)[0] for index in rows])
        made.append(runner.run_rows(images, knobs, memory, rows).image.clone())
    return made, memory


TURNS = [[0, 1, 2], [1], [0, 2], [2, 0], [0, 1, 2], [0, 1]]


@pytest.fixture
def eager(tiny_model: Load) -> EagerRunner:
    return EagerRunner(frame_of(tiny_model("sd-turbo"), 2))


def test_rows_of_a_table_are_the_streams_alone(tiny_model: Load, eager: EagerRunner) -> None:
    knobs = table_of(tiny_model("sd-turbo"), 3)
    made, _ = frames_by(eager, knobs, TURNS)
    alone = {index: make_memory(row(knobs, index)) for index in range(3)}
    for number, rows in enumerate(TURNS):
        for place, index in enumerate(rows):
            result = eager.run(pictures(1, seed=10 * number + index)[0], row(knobs, index), alone[index])
            alone[index] = result.memory
            assert distance(made[number][place : place + 1], result.image) < 1e-4


def test_captured_rows_are_those_of_the_plain_runner_and_captures_are_few(tiny_model: Load, eager: EagerRunner) -> None:
    model = tiny_model("sd-turbo")
    capture = StandInCapture()
    runner = GraphRunner(eager, capture)
    knobs, twin = table_of(model, 3), table_of(model, 3)
    made, memory = frames_by(runner, knobs, TURNS)
    expected, kept = frames_by(eager, twin, TURNS)
    assert all(distance(a, b) < 1e-4 for a, b in zip(made, expected, strict=True))
    assert all(distance(a, b) < 1e-4 for a, b in zip(memory, kept, strict=True))
    assert runner.captured == (1, 4, 2), "three streams ride in the bucket of four"
    assert sum(recording.replays for recording in capture.recordings) == len(TURNS)
    assert runner.in_force == "torch+stand_in"


def test_a_knob_turned_in_the_table_counts_in_the_next_replay(tiny_model: Load, eager: EagerRunner) -> None:
    model = tiny_model("sd-turbo")
    capture = StandInCapture()
    runner = GraphRunner(eager, capture)
    knobs = table_of(model, 2)
    memory = make_memory(knobs)
    image = torch.cat(pictures(2))
    runner.run_rows(image, knobs, memory, [0, 1])
    before = clone(memory)
    unturned = eager.run(image, knobs, before).image
    copy_into(row(knobs, 1), knobs_of(model, (5, 40), prompt="a dog", seed=9, guidance=3.0, delta=0.3, renoise=False))
    made = runner.run_rows(image, knobs, memory, [0, 1]).image
    assert distance(made, eager.run(image, knobs, before).image) < 1e-5
    assert distance(made[1], unturned[1]) > 1e-3
    assert distance(made[0], unturned[0]) < 1e-5, "the neighbour"
    assert len(capture.recordings) == 1


def test_a_run_alone_is_captured_too_and_gives_its_memory_back(tiny_model: Load, eager: EagerRunner) -> None:
    model = tiny_model("sd-turbo")
    runner = GraphRunner(eager, StandInCapture())
    first, second = knobs_of(model, guidance=1.5), knobs_of(model, guidance=2.5, seed=5)
    memory = ours = make_memory(first)
    for number, image in enumerate(pictures(4)):
        knobs = first if number < 2 else second
        plain, result = eager.run(image, knobs, memory), runner.run(image, knobs, ours)
        memory, ours = plain.memory, result.memory
        assert distance(result.image, plain.image) < 1e-5
        assert distance(result.latent, plain.latent) < 1e-5
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, memory, strict=True))
    assert runner.captured == (1,)


def test_the_largest_is_captured_first_and_leaves_no_trace(tiny_model: Load, eager: EagerRunner) -> None:
    knobs = table_of(tiny_model("sd-turbo"), 4)
    memory = make_memory(knobs)
    memory.residual.normal_(generator=torch.Generator().manual_seed(1))
    before = clone(memory)
    capture = StandInCapture()
    runner = GraphRunner(eager, capture)
    runner.prepare(pictures(1)[0], knobs, memory, [1, 3, 2, 4])
    assert runner.captured == (4, 2, 1)
    assert all(torch.equal(a, b) for a, b in zip(memory, before, strict=True))
    runner.run_rows(torch.cat(pictures(2)), knobs, memory, [1, 3])
    assert len(capture.recordings) == 3, "prepared captures are used"
    runner.run_rows(torch.cat(pictures(3)), knobs, memory, [0, 1, 3])
    assert len(capture.recordings) == 4, "rows that are brought together are captured apart from a full table"


def test_the_least_used_capture_goes_first(tiny_model: Load, eager: EagerRunner) -> None:
    knobs = table_of(tiny_model("sd-turbo"), 4)
    capture = StandInCapture()
    runner = GraphRunner(eager, capture, most=2)
    frames_by(runner, knobs, [[0], [0, 1], [0], [0, 1, 2]])
    assert runner.captured == (1, 4)
    assert [recording.forgotten for recording in capture.recordings] == [False, True, False]
    runner.forget()
    assert all(recording.forgotten for recording in capture.recordings)
    with pytest.raises(ValueError, match="at least one"):
        GraphRunner(eager, capture, most=0)


def test_another_table_is_never_run_by_the_capture_of_the_first(tiny_model: Load, eager: EagerRunner) -> None:
    model = tiny_model("sd-turbo")
    runner = GraphRunner(eager, StandInCapture())
    one, other = table_of(model, 2), table_of(model, 2, prompt="a dog in rain")
    assert not torch.equal(frames_by(runner, one, [[0, 1]])[0][0], frames_by(runner, other, [[0, 1]])[0][0])
    assert runner.captured == (2, 2)


def test_where_frames_cannot_be_captured_they_run_plainly_and_say_why(tiny_model: Load, eager: EagerRunner) -> None:
    knobs = table_of(tiny_model("sd-turbo"), 2)
    runner = GraphRunner(eager, RefusingCapture("operation not permitted when stream is capturing"))
    made, _ = frames_by(runner, knobs, [[0, 1], [1]])
    expected, _ = frames_by(eager, knobs, [[0, 1], [1]])
    assert all(torch.equal(a, b) for a, b in zip(made, expected, strict=True))
    assert runner.in_force == "torch"
    assert "not permitted" in runner.notes[0]
    with pytest.raises(RuntimeError, match="lost"):
        GraphRunner(eager, RefusingCapture("the device is lost")).run_rows(
            pictures(1)[0], knobs, make_memory(knobs), [0]
        )


def test_rows_are_brought_to_the_device_only_when_they_change(tiny_model: Load, eager: EagerRunner) -> None:
    capture = StandInCapture()
    frames_by(GraphRunner(eager, capture), table_of(tiny_model("sd-turbo"), 3), [[0], [0], [2], [2], [0]])
    assert capture.uploads == 2


@pytest.mark.slow
def test_the_compiled_frame_is_the_plain_one(tiny_model: Load) -> None:
    model = tiny_model("sd-turbo")
    frame = frame_of(model, 2, "initialize")
    # All of the compiler but its last step, which takes a minute: one graph, made without a break, run as it is.
    runner = CompiledRunner(frame, partial(torch.compile, backend="aot_eager"))
    knobs = table_of(model, 2)
    made, memory = frames_by(runner, knobs, [[0, 1], [0, 1]])
    expected, kept = frames_by(EagerRunner(frame), knobs, [[0, 1], [0, 1]])
    assert all(distance(a, b) < 1e-4 for a, b in zip((*made, *memory), (*expected, *kept), strict=True))
    assert (runner.in_force, runner.notes) == ("torch+compile", ())


def test_a_frame_that_cannot_be_compiled_runs_plainly_and_says_why(tiny_model: Load) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise OSError("no compiler on this machine")

    model = tiny_model("sd-turbo")
    frame = frame_of(model, 1)
    knobs = knobs_of(model, (32,))
    runner = CompiledRunner(frame, partial(torch.compile, backend=broken))
    image = pictures(1)[0]
    for _ in range(2):
        assert torch.equal(
            runner.run(image, knobs, make_memory(knobs)).image, frame(image, knobs, make_memory(knobs)).image
        )
    assert runner.in_force == "torch"
    assert "no compiler on this machine" in runner.notes[0]


def test_a_lack_of_memory_is_not_taken_for_a_fault_of_the_compiler(tiny_model: Load) -> None:
    model = tiny_model("sd-turbo")

    def compiler(frame: Any, **options: Any) -> Callable[..., Result]:
        def call(*arguments: Any) -> Result:
            raise torch.OutOfMemoryError("out of memory")

        return call

    knobs = knobs_of(model, (32,))
    with pytest.raises(torch.OutOfMemoryError):
        CompiledRunner(frame_of(model, 1), compiler).run(pictures(1)[0], knobs, make_memory(knobs))


def test_buckets_are_few_and_hold_everybody() -> None:
    assert [bucket(streams) for streams in (1, 2, 3, 4, 5, 8, 9, 17)] == [1, 2, 4, 4, 8, 8, 16, 32]
    with pytest.raises(ValueError, match="at least one"):
        bucket(0)


def test_a_cpu_captures_nothing(tiny_model: Load) -> None:
    frame = frame_of(tiny_model("sd-turbo"), 1)
    assert type(make_runner(frame, CPU)) is EagerRunner
    assert type(make_runner(frame, CPU, compiled=True)) is CompiledRunner


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.filterwarnings("ignore:Synchronization debug mode")
def test_a_cuda_graph_is_the_plain_frame_and_follows_its_knobs(tiny_model: Load) -> None:
    import copy

    model = tiny_model("sd-turbo")
    device = torch.device("cuda", 0)
    for dtype, tolerance in ((torch.float32, 1e-3), (torch.float16, 5e-2)):
        frame = copy.deepcopy(frame_of(model, 2)).to(device)
        frame.networks.unet.to(dtype)
        frame.networks.vae.to(dtype)
        frame.networks.dtype = frame.networks.vae_dtype = dtype
        eager = EagerRunner(frame)
        runner = make_runner(frame, device)
        assert isinstance(runner, GraphRunner)
        knobs = Knobs(*(tensor.to(device) for tensor in table_of(model, 3)))
        twin = clone(knobs)
        memory, kept = make_memory(knobs), make_memory(twin)
        runner.prepare(torch.zeros(1, 3, 64, 64, device=device), knobs, memory, [1, 2, 3])
        assert runner.notes == ()
        assert runner.captured == (4, 2, 1)
        for number, rows in enumerate(TURNS):
            if number == 3:
                turned = knobs_of(model, prompt="a dog", seed=9, guidance=3.0)
                for table in (knobs, twin):
                    copy_into(row(table, 0), Knobs(*(tensor.to(device) for tensor in turned)))
            images = torch.cat([pictures(1, seed=10 * number + index)[0] for index in rows]).to(device)
            torch.cuda.set_sync_debug_mode("error")
            try:
                made = runner.run_rows(images, knobs, memory, rows).image
            finally:
                torch.cuda.set_sync_debug_mode("default")
            assert distance(made, eager.run_rows(images, twin, kept, rows).image) < tolerance
        assert runner.captured == (1, 4, 2)
        assert cuda_capture(device) is cuda_capture(device)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_frames_can_be_captured_after_all_captures_were_let_go() -> None:
    capture, seen = cuda_capture(torch.device("cuda", 0)), torch.ones(3, device="cuda")
    for number in range(3):
        recording = capture.record(lambda: seen * 2)
        seen.fill_(number)
        recording.replay()
        assert recording.result.tolist() == [2.0 * number] * 3
        recording.forget()
        del recording
