"""Models weighed before they are read, and refused where they cannot fit: the old picture stays."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from sdstream.diffusion.fetching.selection import RemoteFile
from sdstream.diffusion.fusing import networks_of
from sdstream.diffusion.loading.models import Model, load_model
from sdstream.diffusion.loading.original_keys import UNET
from sdstream.diffusion.loading.weighing import listed_bytes, weight_bytes
from sdstream.errors import OutOfMemory
from sdstream.params import ModelEntry, ModelTable
from sdstream.settings import Family
from sdstream.worker import diffusion_pipeline
from sdstream.worker.loading.room import MemoryReport
from sdstream.worker.loading.shelf import ModelShelf
from tests.diffusion.fleet import MODEL, Fleet, params_of, ran

CPU = torch.device("cpu")
XL = "stabilityai/sdxl-turbo"
Directory = Callable[..., Path]


def held_by(model: Model) -> int:
    """The bytes of all weights of a loaded model."""
    networks = [*networks_of(model).values(), model.vae]
    return sum(weight.nbytes for network in networks for weight in network.parameters())


@pytest.mark.parametrize("family", ["sd15", "sd-turbo", "sdxl-turbo"])
@pytest.mark.parametrize("taesd", [True, False])
def test_a_directory_weighs_what_its_model_holds_once_loaded(
    tiny_directory: Directory, tiny_model: Callable[..., Model], family: Family, taesd: bool
) -> None:
    weighed = weight_bytes(tiny_directory(family), family, 4, half=False, taesd=taesd, taesd_elsewhere=None)
    assert weighed == held_by(tiny_model(family, taesd=taesd))


def test_shards_weigh_what_the_whole_file_does(tiny_directory: Directory, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny_directory("sd-turbo"), tmp_path / "sharded")
    whole = copy / "unet/diffusion_pytorch_model.safetensors"
    tensors = load_file(whole)
    whole.unlink()
    halves: dict[str, dict[str, torch.Tensor]] = {"1.safetensors": {}, "2.safetensors": {}}
    names = {key: sorted(halves)[number % 2] for number, key in enumerate(tensors)}
    for key, name in names.items():
        halves[name][key] = tensors[key]
    for name, half in halves.items():
        save_file(half, copy / "unet" / name)
    (copy / "unet/diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    of_parts, whole = (
        weight_bytes(path, "sd-turbo", 4, half=False, taesd=True, taesd_elsewhere=None)
        for path in (copy, tiny_directory("sd-turbo"))
    )
    assert of_parts == whole


def test_of_a_single_file_the_unet_is_weighed_alone(tmp_path: Path) -> None:
    file = tmp_path / "one.safetensors"
    tensors = {f"{UNET}a": torch.zeros(3, 5), f"{UNET}b": torch.zeros(7), "model_ema.a": torch.zeros(100)}
    save_file(tensors, file)
    assert weight_bytes(file, "sd15", 2, half=True, taesd=True, taesd_elsewhere=None) == 2 * (3 * 5 + 7)


@pytest.mark.parametrize(
    ("name", "half", "expected"),
    [
        ("unet/diffusion_pytorch_model.fp16.safetensors", True, 1000),
        ("unet/diffusion_pytorch_model.safetensors", True, 500),
        ("unet/diffusion_pytorch_model.safetensors", False, 1000),
        ("unet/diffusion_pytorch_model.fp16.safetensors", False, 2000),
        ("tokenizer/vocab.json", True, 0),
    ],
)
def test_a_listed_file_weighs_the_least_that_it_can_in_memory(name: str, half: bool, expected: int) -> None:
    assert listed_bytes([RemoteFile(name, 1000)], half=half) == expected


def test_a_load_tells_its_weight_before_it_reads_any(tiny_directory: Directory) -> None:
    told: list[object] = []

    def admit(need: int) -> None:
        told.append(need)
        raise OutOfMemory("no")

    with pytest.raises(OutOfMemory):
        load_model(tiny_directory("sd-turbo"), "sd-turbo", CPU, progress=lambda *step: told.append(step), admit=admit)
    assert told == [
        weight_bytes(tiny_directory("sd-turbo"), "sd-turbo", 4, half=False, taesd=True, taesd_elsewhere=None)
    ]


class FakeMemory:
    """A device whose memory is what a test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, total: int) -> None:
        self.total = total
        monkeypatch.setattr(diffusion_pipeline, "shelf", ModelShelf(memory=lambda device: MemoryReport(self.total)))


def weight_of(directory: Path, family: Family) -> int:
    return weight_bytes(directory, family, 4, half=False, taesd=True, taesd_elsewhere=None)


def test_a_stream_whose_model_cannot_fit_fails_at_once_by_name(
    tiny_directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    need = weight_of(tiny_directory("sd-turbo"), "sd-turbo")
    FakeMemory(monkeypatch, need - 1)
    with Fleet(tiny_directory("sd-turbo")) as fleet:
        stream = fleet.open(params_of())
        report = stream.reports[-1]
        assert (report.phase, report.error_code) == ("failed", OutOfMemory.code)
        assert f"({need} bytes)" in (report.error_message or "")
        assert f"({need - 1} bytes)" in (report.error_message or "")
        assert not [each for each in stream.reports if "UNet" in each.detail]


def test_a_model_that_cannot_fit_leaves_the_picture_and_nothing_makes_room_for_it(
    tiny_directory: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = FakeMemory(monkeypatch, 10**12)
    directories = tiny_directory("sd-turbo"), tiny_directory("sdxl-turbo")
    models = ModelTable(
        [ModelEntry(MODEL, "sd-turbo", str(directories[0])), ModelEntry(XL, "sdxl-turbo", str(directories[1]))]
    )
    with Fleet(directories[0], models=models) as fleet:
        stream = fleet.open(params_of())
        assert ran(fleet, stream, 1) == 1
        memory.total = weight_of(directories[1], "sdxl-turbo") - 1
        fleet.update(stream, params_of(model_id=XL))
        report = stream.reports[-1]
        assert (report.phase, report.revision, report.refused_revision) == ("ready", 1, 2)
        assert report.error_code == OutOfMemory.code
        assert "making room" not in [each.detail for each in stream.reports]
        assert ran(fleet, stream, 2) == 1
        memory.total += 1
        fleet.update(stream, params_of(model_id=XL))
        assert (stream.reports[-1].phase, stream.reports[-1].error_code) == ("ready", None)
