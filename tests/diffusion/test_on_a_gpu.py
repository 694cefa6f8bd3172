"""The worker's lanes on a CUDA GPU: whole streams, captured frames, everything that steers them, against the CPU.

All of it is skipped where there is no GPU. With TEST_DEVICE=cpu it runs on a CPU, to try the tests themselves.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy
import pytest
import torch

from sdstream.directories import ModelPlaces
from sdstream.frames import I420Frame
from sdstream.params import ModelEntry, ModelTable, StreamParams
from sdstream.settings import Family
from sdstream.worker.devices import Device
from tests.diffusion.fleet import Fleet, come_turn_and_go, params_of, picture_of, ran
from tests.diffusion.test_conditioning_rows import MODEL, ROWS, Row
from tests.diffusion.test_together import KINDS
from tests.support.memory import held_bytes

WHERE = os.environ.get("TEST_DEVICE", "cuda")
CPU = Device.choose("cpu")
FAMILIES: tuple[Family, ...] = ("sd-turbo", "sdxl-turbo")
LEVELS = 2.0
"""Steps of eight bits, in the mean over a picture, that half precision may move it."""
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(WHERE == "cuda" and not torch.cuda.is_available(), reason="needs a CUDA GPU"),
]


@pytest.fixture(scope="module")
def device() -> Device:
    return Device.choose(WHERE)


@pytest.fixture(autouse=True)
def _tidy(device: Device) -> Iterator[None]:
    yield
    device.give_back()


def apart(one: I420Frame, other: I420Frame) -> float:
    """The mean difference of two pictures, in steps of eight bits."""
    planes = zip(one.planes, other.planes, strict=True)
    return max(float(numpy.abs(a.astype(int) - b.astype(int)).mean()) for a, b in planes)


def pictures_of(fleet: Fleet, params: StreamParams, count: int = 4) -> list[I420Frame]:
    """What a stream makes of the first pictures."""
    stream = fleet.open(params)
    for number in range(count):
        ran(fleet, stream, number)
    fleet.close(stream)
    return [picture for _, _, picture in stream.made]


def once_each() -> list[Row]:
    """The first of the rows that begin with the same params: a GPU makes the same of the others."""
    return [row for place, row in enumerate(ROWS) if row.before not in [other.before for other in ROWS[:place]]]


@pytest.mark.parametrize("row", once_each(), ids=lambda row: row.name)
def test_what_steers_a_stream_makes_the_pictures_of_a_cpu(
    row: Row, device: Device, tiny_directory: Callable[..., Path], places: ModelPlaces
) -> None:
    models = ModelTable([ModelEntry(MODEL, "sd15", str(tiny_directory("sd15")))], places=places)
    params = params_of(model_id=MODEL, use_lcm_lora=False, **row.before)
    made: list[list[I420Frame]] = []
    for each in (CPU, device):
        with Fleet(tiny_directory("sd15"), models=models, device=each) as fleet:
            made.append(pictures_of(fleet, params))
    assert max(apart(one, other) for one, other in zip(*made, strict=True)) < LEVELS


@pytest.mark.parametrize("family", FAMILIES)
def test_streams_in_one_call_have_the_pictures_that_they_have_alone(
    family: Family, device: Device, tiny_directory: Callable[..., Path]
) -> None:
    name = f"stabilityai/{family}"
    models = ModelTable([ModelEntry(name, family, str(tiny_directory(family)))])
    kinds = [params_of(model_id=name, **kind) for kind in KINDS]
    with Fleet(tiny_directory(family), models=models, device=device) as fleet:
        alone = [pictures_of(fleet, params) for params in kinds]
    with Fleet(tiny_directory(family), models=models, device=device, overlap=True) as fleet:
        streams = [fleet.open(params) for params in kinds]
        for number in range(4):
            for stream in streams:
                stream.put(picture_of(number))
            fleet.work()
        assert max(fleet.calls()) > 1, "some rode together"
        for stream, wanted in zip(streams, alone, strict=True):
            made = [picture for _, _, picture in stream.made]
            assert max(apart(one, other) for one, other in zip(made, wanted, strict=True)) < LEVELS


def test_a_thousand_streams_that_come_turn_and_go_leave_the_memory_of_the_device_flat(
    device: Device, tiny_directory: Callable[..., Path]
) -> None:
    with Fleet(tiny_directory("sd-turbo"), device=device) as fleet:
        stays = fleet.open(params_of())

        def held() -> int:
            device.give_back()
            return device.memory()[0] or 0

        for number in range(200):
            come_turn_and_go(fleet, stays, number)
        before, resident = held(), held_bytes()
        for number in range(200, 1200):
            come_turn_and_go(fleet, stays, number)
        assert held() - before < 8 * 2**20
        assert held_bytes() - resident < 16 * 2**20


@pytest.mark.skipif(WHERE == "cpu", reason="a CPU's memory is not filled for a test")
def test_a_stream_that_finds_no_memory_is_told_so_and_the_others_go_on(
    device: Device, tiny_directory: Callable[..., Path]
) -> None:
    models = ModelTable([ModelEntry(f"stabilityai/{name}", name, str(tiny_directory(name))) for name in FAMILIES])
    with Fleet(tiny_directory("sd-turbo"), models=models, device=device) as fleet:
        stays = fleet.open(params_of())
        assert ran(fleet, stays, 0) == 1
        device.give_back()
        total = torch.cuda.get_device_properties(device.torch_device).total_memory
        held = torch.cuda.memory_reserved(device.torch_device)
        torch.cuda.set_per_process_memory_fraction(held / total, device.torch_device)
        try:
            other = fleet.open(params_of(model_id="stabilityai/sdxl-turbo"))
            assert other.reports[-1].error_code == "WORKER/OUT_OF_MEMORY"
            assert ran(fleet, stays, 1) == 1
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0, device.torch_device)
        fleet.update(other, params_of(model_id="stabilityai/sdxl-turbo", seed=3))
        assert ran(fleet, other, 2) == 2
