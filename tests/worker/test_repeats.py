"""Pictures that are not made anew, and pictures that were hidden: what the server is told of them."""

import numpy
import pytest
import torch

from sdstream.clock import ManualClock
from sdstream.streams.traffic import StreamTraffic
from sdstream.worker.looks import Looking
from sdstream.worker.messages import PictureOut
from sdstream.worker.pipelines import ProcessorPipeline
from sdstream.worker.ports import ProcessedPicture
from tests.worker.pictures import make_params, noise
from tests.worker.test_work import SIZE, Bench


def test_a_skipped_picture_is_the_last_result_again_and_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[torch.Tensor] = []
    made: list[torch.Tensor] = []
    plain = ProcessorPipeline.after

    def repeat(self: ProcessorPipeline, image: torch.Tensor) -> torch.Tensor | None:
        asked.append(image)
        return made[-1] if len(asked) % 2 == 0 else None

    def after(self: ProcessorPipeline, image: torch.Tensor) -> Looking[torch.Tensor]:
        made.append((yield from plain(self, image)))
        return made[-1]

    monkeypatch.setattr(ProcessorPipeline, "repeat", repeat)
    monkeypatch.setattr(ProcessorPipeline, "after", after)
    bench = Bench(make_params("blur"))
    shown = [bench.make(noise(SIZE, seed, sequence=seed), slot=seed % 3).copy() for seed in range(4)]
    assert len(made) == 2, "the others went no further than the question"
    assert [message.skipped for message in bench.of(PictureOut)] == [False, True, False, True]
    for first, second in ((0, 1), (2, 3)):
        assert all(numpy.array_equal(a, b) for a, b in zip(shown[first].planes, shown[second].planes, strict=True))
    assert not numpy.array_equal(shown[1].y, shown[2].y)


def test_hidden_pictures_are_told_once_each_however_late_they_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    known = iter([0, 2, 2, 5])
    monkeypatch.setattr(ProcessorPipeline, "blocked", property(lambda self: next(known)))
    bench = Bench(make_params("blur"))
    for seed in range(4):
        bench.make(noise(SIZE, seed, sequence=seed), slot=seed % 3)
    assert [message.blocked for message in bench.of(PictureOut)] == [0, 2, 0, 3]


def test_traffic_counts_what_was_replaced() -> None:
    traffic = StreamTraffic(ManualClock(), 60)
    frame = noise(SIZE)
    for skipped, blocked in ((False, 0), (True, 0), (True, 2), (False, 1)):
        traffic.leave(ProcessedPicture(frame, 1, 0.01, 0.01, skipped, blocked))
    assert traffic.replaced() == {"similar": 2, "unsafe": 3}
