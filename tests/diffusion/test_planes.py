"""Planes in the frame: what comes out of it is what its twin outside makes, for streams of every kind in one call."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from sdstream.diffusion.engine_networks import EngineFrame, LoadedEngine
from sdstream.diffusion.frame import Frame
from sdstream.diffusion.loading.models import Model
from sdstream.diffusion.planes import packed_from_rgb, rgb_from_packed
from sdstream.diffusion.runners import EagerRunner, GraphRunner
from sdstream.diffusion.state import make_memory, stack
from sdstream.frames import I420Frame, PictureSize, split_planes
from sdstream.worker import colour
from sdstream.worker.diffusion_pipeline import DiffusionPipeline
from sdstream.worker.groups import StreamGroup
from sdstream.worker.options import EngineOptions
from tests.diffusion.captures import StandInCapture
from tests.diffusion.fleet import SIZE, Fleet, FleetLane, difference, params_of, picture_of, processed, small
from tests.diffusion.runs import frame_of, knobs_of, run

CPU = torch.device("cpu")
Load = Callable[..., Model]
Directory = Callable[..., Path]


def planes_of(number: int) -> torch.Tensor:
    return colour.upload_planes(picture_of(number), SIZE, CPU)


def test_planes_through_the_frame_are_those_of_the_conversions_outside(tiny_model: Load) -> None:
    model = tiny_model("sd-turbo")
    knobs = knobs_of(model)
    given = [planes_of(number) for number in range(4)]
    whole = run(frame_of(model, 2, whole=True), knobs, given)
    plain = run(frame_of(model, 2), knobs, [rgb_from_packed(planes) for planes in given])
    for inside, outside in zip(whole, plain, strict=True):
        assert torch.equal(inside.latent, outside.latent)
        assert inside.planes is not None
        expected = numpy.empty(SIZE.byte_count, numpy.uint8)
        colour.download(outside.image.clamp(0, 1), expected)
        assert torch.equal(inside.planes.flatten(), torch.from_numpy(expected))
        assert inside.finite is not None
        assert inside.finite.tolist() == [True]


def test_what_is_not_finite_is_told_stream_by_stream(tiny_model: Load) -> None:
    model = tiny_model("sd-turbo")
    knobs = stack([knobs_of(model, (32,)) for _ in range(3)])
    knobs.noise[1] = float("nan")
    result = frame_of(model, 1, whole=True)(torch.cat([planes_of(n) for n in range(3)]), knobs, make_memory(knobs))
    assert result.finite.tolist() == [True, False, True]


def test_captures_of_planes_and_of_rgb_read_one_table(tiny_model: Load) -> None:
    model = tiny_model("sd-turbo")
    frame = frame_of(model, 2, whole=True)
    knobs = stack([knobs_of(model, seed=seed) for seed in range(3)])
    memory, twin = make_memory(knobs), make_memory(knobs)
    captured, eager = GraphRunner(EagerRunner(frame), StandInCapture()), EagerRunner(frame)
    for number, rows in enumerate([[0, 1, 2], [1], [0, 2], [0, 1, 2]]):
        images = torch.cat([planes_of(10 * number + row) for row in rows])
        given = images if number != 2 else rgb_from_packed(images)
        ours, theirs = captured.run_rows(given, knobs, memory, rows), eager.run_rows(given, knobs, twin, rows)
        assert ours.planes is not None
        assert theirs.planes is not None
        assert len(ours.planes) == len(rows)
        assert (ours.planes.int() - theirs.planes.int()).abs().max() <= 1
    assert captured.captured == (1, 2, 4)


@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("size", [PictureSize(64, 64), PictureSize(96, 80)])
def test_a_picture_of_any_kind_becomes_planes_within_a_level(matrix: Any, full_range: bool, size: PictureSize) -> None:
    packed = numpy.random.default_rng(3).integers(90, 160, size.byte_count, numpy.uint8)
    frame = I420Frame(*split_planes(packed, size), full_range=full_range, matrix=matrix)
    planes = colour.upload_planes(frame, SIZE, CPU)
    assert (planes.shape, planes.dtype) == ((1, 96, 64), torch.uint8)
    twin = packed_from_rgb(colour.upload(frame, SIZE, CPU))
    assert (planes.int() - twin.int()).abs().max() <= 1


def ran(fleet: Fleet, streams: dict[FleetLane, int]) -> None:
    for stream, number in streams.items():
        stream.put(picture_of(number))
    fleet.work()


def test_streams_with_and_without_processors_ride_in_one_call_and_get_their_own(
    tiny_directory: Directory, tiny_model: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, int]] = []
    run_group = StreamGroup.run

    def watched(group: StreamGroup, images: Any) -> Any:
        if len(images) > 1:  # the twins ride alone
            calls.append((len(images), sum(image.dtype == torch.uint8 for image in images.values())))
        return run_group(group, images)

    monkeypatch.setattr(StreamGroup, "run", watched)
    kinds = [
        params_of(),
        params_of(seed=5, image_preprocessing={"processors": [{"type": "blur"}]}),
        params_of(seed=6, image_postprocessing={"processors": [{"type": "sharpen"}]}),
        params_of(seed=7, image_preprocessing={"processors": [{"type": "passthrough"}]}),
    ]
    with Fleet(tiny_directory("sd-turbo")) as fleet:
        streams = [fleet.open(params) for params in kinds]
        twins = [
            DiffusionPipeline(small(params), tiny_model("sd-turbo"), EngineOptions(planes=False)) for params in kinds
        ]
        for number in range(3):
            ran(fleet, {stream: 10 * number + index for index, stream in enumerate(streams)})
            for index, (stream, twin) in enumerate(zip(streams, twins, strict=True)):
                assert difference(stream.newest, processed(twin, picture_of(10 * number + index))) <= 1
        assert calls == [(4, 2)] * 3
        assert [stream.work.tap("blur") is not None for stream in streams] == [False, True, False, False]
        calls.clear()
        ran(fleet, {streams[0]: 90, streams[2]: 91})
        assert calls == [(2, 2)]


def test_a_filter_switched_on_sees_the_pictures_and_off_again_they_go_in_as_planes(tiny_directory: Directory) -> None:
    with Fleet(tiny_directory("sd-turbo")) as fleet:
        stream = fleet.open(params_of())
        seen: list[bool] = []
        for filtered in (False, True, False):
            fleet.update(stream, params_of(enable_similar_image_filter=filtered))
            pipeline = stream.work.pipeline
            assert pipeline is not None
            seen.append(pipeline.takes_planes and pipeline.gives_planes)
            ran(fleet, {stream: 1})
        assert seen == [True, False, True]


def test_an_engine_of_a_whole_frame_takes_planes_and_gives_them(tiny_model: Load) -> None:
    model = tiny_model("sd-turbo")
    frame, knobs = frame_of(model, 2, whole=True), knobs_of(model)
    memory = make_memory(knobs)

    def call(image: torch.Tensor, *_: torch.Tensor) -> tuple[torch.Tensor, ...]:
        made = frame_of(model, 2)(image, knobs, memory)
        return made.image, made.latent, *(tensor for tensor in made.memory if tensor.numel())

    engine, plain = EngineFrame(frame, LoadedEngine(call, 1), "engine"), frame
    ours, theirs = (each(planes_of(3), knobs, memory) for each in (engine, plain))
    assert torch.equal(ours.planes, theirs.planes)
    assert ours.finite.tolist() == [True]


def test_a_frame_that_is_not_whole_gives_rgb_alone(tiny_model: Load) -> None:
    model = tiny_model("sd-turbo")
    knobs = knobs_of(model)
    frame: Frame = frame_of(model, 2)
    result = frame(planes_of(1), knobs, make_memory(knobs))
    assert (result.planes, result.finite) == (None, None)
