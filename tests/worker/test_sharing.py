"""Looks of several streams in one call of their network: as each alone, and each stream's own part untouched."""

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from torch import nn

from sdstream.worker import sharing
from sdstream.worker.annotators.parts import WholeNetwork
from sdstream.worker.annotators.people import PeopleNetwork
from sdstream.worker.annotators.shelf import AnnotatorShelf, Loader
from sdstream.worker.looks import Look, Looking, alone
from sdstream.worker.processors import LEARNED, ProcessorChain, Wanted
from sdstream.worker.processors.registry import SHARED
from sdstream.worker.sharing import MOST_HOST_PIXELS, MOST_PIXELS, Asked, calls, most_pixels, together
from tests.diffusion.fleet import Fleet, difference, params_of, picture_of, processed
from tests.worker.annotators import TINY_LOADERS
from tests.worker.test_annotators import maps_of, person
from tests.worker.test_chain import scene, wanted

CPU = torch.device("cpu")
SIDE = 64


class Spotter(PeopleNetwork):
    """Sees one person, further to the right the brighter a picture is."""

    def __init__(self) -> None:
        super().__init__(divisor=64)

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        maps = [
            maps_of([person(0.1 + 0.3 * float(one.mean()), 0.1, 0.6)], image.shape[3] // 8, image.shape[2] // 8)
            for one in image
        ]
        return torch.cat([fields for fields, _ in maps]), torch.cat([joints for _, joints in maps])


LOADERS: Mapping[str, Loader] = {**TINY_LOADERS, "openpose": lambda find, dtype: WholeNetwork(Spotter())}


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


def counting(seen: list[int], name: str) -> AnnotatorShelf:
    """A shelf whose network of this name notes of how many pictures each of its calls was."""

    def load(find: Any, dtype: torch.dtype) -> nn.Module:
        network: Any = LOADERS[name](find, dtype)
        looked_with: Any = {"openpose": "body", "pose": "detector.looking"}.get(name)
        inner: nn.Module = network if looked_with is None else network.get_submodule(looked_with)

        def note(module: Any, values: Any, options: Any = None) -> None:
            seen.append(len(values[0]))

        inner.register_forward_pre_hook(note)
        return network

    return AnnotatorShelf(CPU, loaders={name: load})


def chains(count: int, shelf: AnnotatorShelf, *links: Wanted) -> list[ProcessorChain]:
    made = [ProcessorChain(links, shelf) for _ in range(count)]
    for each in made:
        each.wait()
    return made


def run(made: list[ProcessorChain], images: list[torch.Tensor], **how: Any) -> list[torch.Tensor]:
    outcomes = together([chain.look(image) for chain, image in zip(made, images, strict=True)], **how)
    assert [outcome.error for outcome in outcomes] == [None] * len(made)
    return [outcome.result for outcome in outcomes if outcome.result is not None]


def test_looks_of_a_kind_ride_together_as_far_as_they_have_room() -> None:
    one, other = Asked("depth 64x64", 10, 25), Asked("depth 32x32", 10, 25)
    assert calls([]) == []
    assert calls([one, other, one]) == [(0, 2), (1,)]
    assert calls([one] * 5) == [(0, 1), (2, 3), (4,)]
    assert calls([one, Asked(one.kind, 100, 25), one]) == [(0,), (1,), (2,)], "a large one rides alone"


def test_on_a_cpu_only_small_pictures_ride_together() -> None:
    assert most_pixels(CPU) == MOST_HOST_PIXELS
    assert most_pixels(torch.device("cuda")) == MOST_PIXELS
    seen: list[int] = []
    made = chains(2, counting(seen, "hed"), wanted("hed"))
    run(made, [scene(0, 256), scene(1, 256)])
    assert seen == [1, 1]


def _network_of(name: str) -> str:
    return {"pose_tensorrt": "pose", "realesrgan_trt": "realesrgan", "lineart": "lineart_coarse"}.get(
        name, name.removesuffix("_tensorrt")
    )


@pytest.mark.parametrize("name", sorted(name for name, kind in LEARNED.items() if kind.shared and not kind.spare))
def test_a_network_looks_once_for_all_streams_and_answers_as_it_does_alone(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "MOST_HOST_PIXELS", MOST_PIXELS)  # some look at much larger pictures than these
    seen: list[int] = []
    told = wanted(name) if name != "pose_tensorrt" else wanted(name, confidence_threshold=0.0)
    shelf = counting(seen, _network_of(name))
    images = [scene(seed, SIDE) for seed in range(3)]
    shared = run(chains(3, shelf, told), images)
    assert seen == [3]
    by_itself = [chain.run(image) for chain, image in zip(chains(3, shelf, told), images, strict=True)]
    assert seen == [3, 1, 1, 1]
    for one, other in zip(shared, by_itself, strict=True):
        assert one.shape == other.shape
        assert float((one - other).abs().max()) <= 1e-5 * max(1.0, float(other.abs().max()))
    assert not torch.equal(shared[0], shared[1])


@pytest.mark.parametrize("name", sorted(SHARED))
def test_processors_without_weights_do_so_too(name: str) -> None:
    images = [scene(seed, SIDE) for seed in range(3)]
    made = chains(3, AnnotatorShelf(CPU, loaders={}), wanted(name))
    asked: list[Look] = [next(chain.look(image)) for chain, image in zip(made, images, strict=True)]
    assert len({look.key for look in asked}) == 1
    for one, chain, image in zip(run(made, images), made, images, strict=True):
        assert float((one - chain.run(image)).abs().max()) <= 1e-5


def test_only_what_a_network_sees_must_be_equal() -> None:
    seen: list[int] = []
    shelf = counting(seen, "hed")
    safe, soft, small = (
        chains(1, shelf, wanted("hed", **told))[0] for told in ({}, {"safe": False}, {"detect_resolution": 32})
    )
    images = [scene(seed, SIDE) for seed in range(3)]
    made = run([safe, soft, small], images)
    assert sorted(seen) == [1, 2], "another working size, another call"
    assert len(made[0].unique()) <= 3 < len(made[1].unique())


def test_the_plain_twin_gives_the_same_stream_by_stream() -> None:
    seen: list[int] = []
    shelf = counting(seen, "depth")
    images = [scene(seed, SIDE) for seed in range(2)]
    links = (wanted("blur"), wanted("depth"), wanted("sharpen"))
    plain = run(chains(2, shelf, *links), images, shared=False)
    assert seen == [1, 1]
    for one, other in zip(run(chains(2, shelf, *links), images), plain, strict=True):
        assert float((one - other).abs().max()) <= 1e-5


def test_each_stream_looks_at_its_own_interval_and_holds_its_own_map() -> None:
    seen: list[int] = []
    shelf = counting(seen, "hed")
    links = (wanted("hed", safe=False, interval=2), wanted("feedback"))
    shared, plain = chains(2, shelf, *links), chains(2, shelf, *links)
    plain_seen: list[list[torch.Tensor]] = []
    shared_seen: list[list[torch.Tensor]] = []
    for kept, made, how in ((shared_seen, shared, True), (plain_seen, plain, False)):
        outputs: list[Any] = [None, None]
        for step in range(4):
            present = made if step else made[:1]  # the second stream comes a picture later
            looks = [chain.look(scene(10 * place + step, SIDE), outputs[place]) for place, chain in enumerate(present)]
            results = [outcome.result for outcome in together(looks, shared=how)]
            outputs[: len(results)] = results
            kept.append([result for result in results if result is not None])
    assert seen == [1, 1] * 4, "they never look at the same picture's time"
    for one, other in zip(shared_seen, plain_seen, strict=True):
        assert all(float((a - b).abs().max()) <= 1e-5 for a, b in zip(one, other, strict=True))


def test_a_stream_whose_network_loads_passes_its_picture_on_and_nobody_waits() -> None:
    gate = Event()

    def load(find: Any, dtype: torch.dtype) -> nn.Module:
        assert gate.wait(30)
        return LOADERS["hed"](find, dtype)

    (ready,) = chains(1, AnnotatorShelf(CPU, loaders={"depth": LOADERS["depth"]}), wanted("depth"))
    waits = ProcessorChain([wanted("hed")], AnnotatorShelf(CPU, loaders={"hed": load}))
    images = [scene(0, SIDE), scene(1, SIDE)]
    near, same = run([ready, waits], images)
    assert same is images[1]
    assert torch.equal(near, ready.run(images[0]))
    gate.set()


class Picky(nn.Module):
    """Fails where any of its pictures is bright at the corner, and where there are more than `most`."""

    def __init__(self, most: int = 99, error: type[Exception] = RuntimeError) -> None:
        super().__init__()
        self.most = most
        self.error = error

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        if len(image) > self.most or float(image[:, :, 0, 0].max()) > 0.99:
            raise self.error("no")
        return image.mean(1, keepdim=True)


def picky(network: nn.Module) -> AnnotatorShelf:
    return AnnotatorShelf(CPU, loaders={"hed": lambda find, dtype: network})


def marked(seed: int) -> torch.Tensor:
    image = scene(seed, SIDE)
    image[:, :, 0, 0] = 1.0
    return image


def test_a_failure_in_a_shared_call_is_his_who_fails_alone() -> None:
    made = chains(3, picky(Picky()), wanted("hed", safe=False))
    images = [scene(0, SIDE), marked(1), scene(2, SIDE)]
    good, bad, also_good = together([chain.look(image) for chain, image in zip(made, images, strict=True)])
    assert isinstance(bad.error, RuntimeError)
    for outcome, image in ((good, images[0]), (also_good, images[2])):
        assert outcome.error is None
        assert outcome.result is not None
        assert torch.equal(outcome.result[:, :1], image.mean(1, keepdim=True))


def test_a_network_that_takes_no_batch_is_asked_stream_by_stream() -> None:
    made = chains(2, picky(Picky(most=1)), wanted("hed", safe=False))
    assert len(run(made, [scene(0, SIDE), scene(1, SIDE)])) == 2


def test_errors_that_end_the_process_are_raised() -> None:
    made = chains(2, picky(Picky(error=torch.OutOfMemoryError)), wanted("hed"))
    with pytest.raises(torch.OutOfMemoryError):
        together([chain.look(marked(1)) for chain in made], final=(torch.OutOfMemoryError,))


def test_an_error_between_two_looks_ends_one_alone() -> None:
    def looking(fails: bool) -> Looking[int]:
        first = yield Look(lambda images: images + 1, torch.zeros(1, 1, 2, 2), "same")
        if fails:
            raise ValueError("mine")
        second = yield Look(lambda images: images + 1, first, "same")
        return int(second.sum())

    fails, works = together([looking(True), looking(False)])
    assert isinstance(fails.error, ValueError)
    assert works.result == 8 == alone(looking(False))


# -- in the worker's calls

HED = {"type": "hed", "params": {"safe": False}}


@pytest.fixture
def shelf_of_workers(monkeypatch: pytest.MonkeyPatch) -> Callable[[AnnotatorShelf], None]:
    return lambda shelf: monkeypatch.setattr("sdstream.worker.pipelines.annotators", lambda *_: shelf)


def processors_of(*types: Any) -> Any:
    return params_of(skip_diffusion=True, image_preprocessing={"processors": list(types)})


def test_streams_of_processors_alone_ride_in_one_call_of_their_network(
    tmp_path: Path, shelf_of_workers: Callable[[AnnotatorShelf], None]
) -> None:
    seen: list[int] = []
    shelf_of_workers(counting(seen, "hed"))
    with Fleet(tmp_path) as fleet:
        streams = [fleet.open(processors_of(HED)) for _ in range(3)]
        other = fleet.open(processors_of({"type": "blur"}))
        for stream in (*streams, other):
            stream.put(picture_of(stream.number))
        fleet.work()
        assert seen == [3]
        assert sorted(fleet.calls()) == [1, 3], "what calls take is noted by how many streams ride in them"
        for stream in streams:
            pipeline: Any = stream.work.pipeline
            assert difference(stream.newest, processed(pipeline, picture_of(stream.number))) <= 1


def test_a_lane_that_fails_in_a_shared_look_fails_alone(
    tmp_path: Path, shelf_of_workers: Callable[[AnnotatorShelf], None]
) -> None:
    class Once(nn.Module):
        """Fails for all together, and for who is asked first of those alone."""

        failed = False

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            if len(image) > 1 or not self.failed:
                self.failed = len(image) == 1
                raise RuntimeError("no")
            return image.mean(1, keepdim=True)

    shelf_of_workers(picky(Once()))
    with Fleet(tmp_path) as fleet:
        streams = [fleet.open(processors_of(HED)) for _ in range(3)]
        for stream in streams:
            stream.put(picture_of(stream.number))
        fleet.work()
        assert [stream.reports[-1].phase for stream in streams] == ["failed", "ready", "ready"]
        assert [len(stream.made) for stream in streams] == [0, 1, 1]
        assert streams[0].returned == [0]


def test_a_request_that_fails_is_told_by_its_own_stream() -> None:
    failed: Future[nn.Module] = Future()
    failed.set_exception(RuntimeError("a defect"))

    class Broken(AnnotatorShelf):
        def request(self, name: str, *, engines: bool = False) -> "Future[nn.Module]":
            return failed

    (works,) = chains(1, AnnotatorShelf(CPU, loaders={"hed": LOADERS["hed"]}), wanted("hed"))
    broken = ProcessorChain([wanted("hed")], Broken(CPU, loaders={}))
    good, bad = together([works.look(scene(0, SIDE)), broken.look(scene(1, SIDE))])
    assert good.error is None
    assert isinstance(bad.error, RuntimeError)
