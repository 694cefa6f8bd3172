"""Streams that ride in one call of the worker: the pictures of each are those that it has alone."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdstream.clock import ManualClock
from sdstream.diffusion.frame import Frame
from sdstream.diffusion.loading.models import Model
from sdstream.diffusion.runners import EagerRunner, GraphRunner
from sdstream.errors import InternalError, PictureNotFinite
from sdstream.worker.annotators.shelf import AnnotatorShelf
from sdstream.worker.diffusion_pipeline import DiffusionPipeline
from sdstream.worker.groups import StreamGroup
from sdstream.worker.pipelines import Ran
from sdstream.worker.processors import registry
from tests.diffusion.captures import StandInCapture
from tests.diffusion.fleet import Fleet, FleetLane, difference, params_of, picture_of, processed, ran, small
from tests.worker.annotators import TINY_LOADERS

Directory = Callable[..., Path]
Load = Callable[..., Model]

KINDS: tuple[dict[str, Any], ...] = (
    {},
    {"prompt": "a dog", "seed": 5, "guidance_scale": 2.0, "t_index_list": [0, 20]},
    {"prompt": [["in the can", 0.7], ["rain", 0.3]], "delta": 0.4, "guidance_scale": 1.5, "seed": 7},
    {"negative_prompt": "an hat", "guidance_scale": 3.0},
    {"image_postprocessing": {"processors": [{"type": "blur"}]}, "t_index_list": [12, 32]},
)
kinds = st.integers(0, len(KINDS) - 1)
actions = st.one_of(
    st.tuples(st.just("join"), kinds),
    st.tuples(st.just("leave"), st.integers(0, 2)),
    st.tuples(st.just("turn"), st.integers(0, 2), kinds),
    st.tuples(st.just("run"), st.sets(st.integers(0, 2), min_size=1)),
    st.tuples(st.just("run"), st.just({0, 1, 2})),
)


@pytest.mark.slow
@pytest.mark.parametrize("overlap", [False, True])
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(actions, min_size=6, max_size=14))
def test_pictures_of_streams_that_come_and_go_are_those_of_streams_alone(
    tiny_directory: Directory, tiny_model: Load, overlap: bool, script: list[tuple[Any, ...]]
) -> None:
    model = tiny_model("sd-turbo")  # another object than the fleet's, so nobody sits at one table with it
    pairs: list[tuple[FleetLane, DiffusionPipeline]] = []
    number = 0
    with Fleet(tiny_directory("sd-turbo"), overlap=overlap, late=overlap) as fleet:
        for action, *rest in [("join", 0), ("join", 1), *script]:
            if action == "join" and len(pairs) < 3:
                params = params_of(**KINDS[rest[0]])
                pairs.append((fleet.open(params), DiffusionPipeline(small(params), model)))
            elif action == "leave" and rest[0] < len(pairs):
                fleet.close(pairs.pop(rest[0])[0])
            elif action == "turn" and rest[0] < len(pairs):
                stream, alone = pairs[rest[0]]
                params = params_of(**KINDS[rest[1]])
                fleet.update(stream, params)
                assert alone.apply(small(params))
            elif action == "run":
                riding = [pairs[index] for index in sorted(rest[0]) if index < len(pairs)]
                frames = [picture_of(number := number + 1) for _ in riding]
                for (stream, _), frame in zip(riding, frames, strict=True):
                    stream.put(frame)
                fleet.work()
                for (stream, alone), frame in zip(riding, frames, strict=True):
                    assert stream.made[-1][0] == frame.sequence
                    assert difference(stream.newest, processed(alone, frame)) <= 1


def test_streams_of_one_kind_ride_in_one_call_and_others_in_theirs(tiny_directory: Directory) -> None:
    with Fleet(tiny_directory("sd-turbo")) as fleet:
        streams = [fleet.open(params_of(prompt=prompt)) for prompt in ("a", "b", "c")]
        other = fleet.open(params_of(t_index_list=[20]))
        for stream in (*streams, other):
            stream.put(picture_of(stream.number))
        fleet.work()
        assert sorted(fleet.calls()) == [1, 3]
        assert all(len(stream.made) == 1 for stream in (*streams, other))


def test_the_overlapped_loop_gives_the_pictures_of_the_plain_one(tiny_directory: Directory) -> None:
    """Pictures, their order, and under which params each was made: with one slot after the other still in flight."""

    def run(*, overlap: bool) -> list[list[tuple[int, int, Any]]]:
        clock = ManualClock()  # which streams share a call, and so the last bit, is decided by times
        with Fleet(tiny_directory("sd-turbo"), overlap=overlap, late=True, most=2, clock=clock) as fleet:
            streams = [fleet.open(params_of(seed=seed)) for seed in range(3)]
            for number in range(5):
                clock.advance(0.1)
                if number == 2:  # before there are pictures: plans are made on a thread, soon or late
                    fleet.update(streams[1], params_of(prompt="a dog", guidance_scale=2.0))
                for stream in streams:
                    stream.put(picture_of(10 * number + stream.number), slot=number % 4)
                fleet.work()
            return [stream.made for stream in streams]

    for plain, overlapped in zip(run(overlap=False), run(overlap=True), strict=True):
        assert [each[:2] for each in plain] == [each[:2] for each in overlapped]
        assert all(difference(a[2], b[2]) == 0 for a, b in zip(plain, overlapped, strict=True))


def test_the_overlapped_loop_begins_a_call_before_it_delivers_the_last(tiny_directory: Directory) -> None:
    with Fleet(tiny_directory("sd-turbo"), overlap=True, late=True) as fleet:
        stream = fleet.open(params_of())
        for number in range(2):
            stream.put(picture_of(number), slot=number)
            fleet.loop.step()
            assert len(stream.made) == number, "the call before is delivered when this one has begun"
        fleet.work()
        assert len(stream.made) == 2


def test_a_stream_that_leaves_or_turns_leaves_what_others_remember_bit_for_bit(tiny_directory: Directory) -> None:
    with Fleet(tiny_directory("sd-turbo")) as fleet:
        stays = fleet.open(params_of())
        stays.put(picture_of(1))
        fleet.work()
        pipeline = stays.work.pipeline
        assert isinstance(pipeline, DiffusionPipeline)

        def memory() -> list[torch.Tensor]:
            assert pipeline.group is not None
            kept = pipeline.group.memory(pipeline.seat)
            assert kept is not None
            return list(kept)

        before = memory()
        others = [fleet.open(params_of(seed=seed)) for seed in range(4)]  # the table grows twice
        for other in others:
            other.put(picture_of(other.number))
        fleet.work()
        fleet.update(others[0], params_of(prompt="a dog"))
        for other in others:
            fleet.close(other)
        assert all(torch.equal(a, b) for a, b in zip(before, memory(), strict=True))


def test_a_processor_that_raises_fails_its_stream_alone(
    tiny_directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Fleet(tiny_directory("sd-turbo")) as fleet:
        good = fleet.open(params_of())
        bad = fleet.open(params_of(image_postprocessing={"processors": [{"type": "canny"}]}))
        monkeypatch.setitem(__import__("sdstream.worker.processors", fromlist=["PROCESSORS"]).PROCESSORS, "canny", None)
        for stream in (good, bad):
            stream.put(picture_of(stream.number))
        fleet.work()
        assert (bad.reports[-1].phase, bad.reports[-1].error_code) == ("failed", InternalError.code)
        assert bad.returned == [0]
        assert [sequence for sequence, _, _ in good.made] == [good.number]


def test_a_stream_whose_knobs_break_its_pictures_fails_alone_and_comes_back(tiny_directory: Directory) -> None:
    with Fleet(tiny_directory("sd-turbo")) as fleet:
        good, bad = fleet.open(params_of()), fleet.open(params_of())
        pipeline = bad.work.pipeline
        assert isinstance(pipeline, DiffusionPipeline)
        assert pipeline.group is not None
        pipeline.group._table._knobs.noise[pipeline.seat] = torch.nan
        for number in range(3):
            for stream in (good, bad):
                stream.put(picture_of(10 * number + stream.number))
            fleet.work()
        assert (bad.reports[-1].phase, bad.reports[-1].error_code) == ("failed", PictureNotFinite.code)
        assert len(good.made) == 3
        fleet.update(bad, params_of())
        bad.put(picture_of(77))
        fleet.work()
        assert [sequence for sequence, _, _ in bad.made] == [77]
        assert bad.reports[-1].phase == "ready"


def test_a_call_that_raises_is_made_again_stream_by_stream(
    tiny_directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = StreamGroup.run

    def broken(group: StreamGroup, images: Any) -> Ran:
        if 1 in images:
            raise RuntimeError("the second seat is broken")
        return run(group, images)

    with Fleet(tiny_directory("sd-turbo")) as fleet:
        streams = [fleet.open(params_of(seed=seed)) for seed in range(3)]
        monkeypatch.setattr(StreamGroup, "run", broken)
        for stream in streams:
            stream.put(picture_of(stream.number))
        fleet.work()
        assert [len(stream.made) for stream in streams] == [1, 0, 1]
        assert streams[1].reports[-1].phase == "failed"


def test_streams_that_are_called_one_by_one_are_not_shown_the_picture_of_the_last(
    tiny_directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def captured(frame: Frame, *_: Any, **options: Any) -> GraphRunner:
        return GraphRunner(EagerRunner(frame), StandInCapture())

    def broken(group: StreamGroup, images: Any) -> Ran:
        if len(images) > 1:
            raise ValueError("not together")
        return run(group, images)

    run = StreamGroup.run
    monkeypatch.setattr("sdstream.worker.groups.make_runner", captured)
    made: list[list[Any]] = []
    for call in (run, broken):
        with Fleet(tiny_directory("sd-turbo")) as fleet:
            streams = [fleet.open(params_of(seed=seed)) for seed in range(3)]
            monkeypatch.setattr(StreamGroup, "run", call)
            for stream in streams:
                stream.put(picture_of(stream.number))
            fleet.work()
            made.append([stream.newest for stream in streams])
    assert all(difference(one, other) <= 1 for one, other in zip(*made, strict=True))


def test_the_processors_of_streams_that_ride_together_look_together(
    tiny_directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def streams_with(shelf: AnnotatorShelf, fleet: Fleet) -> list[FleetLane]:
        monkeypatch.setattr("sdstream.worker.diffusion_pipeline.annotators", lambda *_: shelf)
        steps: dict[str, Any] = {"image_preprocessing": {"processors": [{"type": "depth"}]}}
        streams = [fleet.open(params_of(prompt=prompt, **steps)) for prompt in ("a", "b")]
        for stream in streams:
            stream.put(picture_of(stream.number))
        return streams

    def load(find: Any, dtype: torch.dtype) -> torch.nn.Module:
        network = TINY_LOADERS["depth"](find, dtype)
        network.register_forward_pre_hook(lambda module, values: seen.append(len(values[0])))
        return network

    seen: list[int] = []
    made: list[list[Any]] = []
    for share in (True, False):
        with Fleet(tiny_directory("sd-turbo"), shared=share) as fleet:
            streams = streams_with(AnnotatorShelf(torch.device("cpu"), loaders={"depth": load}), fleet)
            fleet.work()
            assert list(fleet.calls()) == [2]
            made.append([stream.newest for stream in streams])
    assert seen == [2, 1, 1]
    assert all(difference(one, other) <= 1 for one, other in zip(*made, strict=True))


def test_processors_alone_run_in_inference_mode_and_a_model_takes_over_from_them(
    tiny_directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(image: torch.Tensor, *rest: Any) -> torch.Tensor:
        modes.append(torch.is_inference_mode_enabled())
        return canny(image, *rest)

    canny, modes = registry.PROCESSORS["canny"], list[bool]()
    monkeypatch.setattr(registry, "PROCESSORS", {**registry.PROCESSORS, "canny": look})
    steps: dict[str, Any] = {"image_preprocessing": {"processors": [{"type": "feedback"}, {"type": "canny"}]}}
    with Fleet(tiny_directory("sd-turbo")) as fleet:
        stream = fleet.open(params_of(skip_diffusion=True, **steps))
        for number, skips in enumerate((True, False, True)):
            fleet.update(stream, params_of(skip_diffusion=skips, **steps))
            for again in range(2):
                ran(fleet, stream, 2 * number + again)
    assert modes == [True, True, False, False, True, True]
