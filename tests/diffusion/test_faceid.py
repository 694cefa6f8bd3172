"""`ip_adapter.type: faceid` in a stream: the face in the style image steers it, and where none is the old one stays."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("onnx", reason="it makes the networks that find faces here; the extra `bake` brings it")
pytest.importorskip("onnxruntime", reason="the extra `faceid` brings it")

from sdstream.directories import ModelPlaces
from sdstream.model_errors import ModelUnavailable
from sdstream.params import ModelEntry, ModelTable, StreamParams, parse_create
from sdstream.worker.diffusion_pipeline import DiffusionPipeline
from sdstream.worker.files.published import ADAPTERS, FACES, needed_for
from sdstream.worker.pipelines import make_pipeline
from tests.diffusion.fleet import Fleet, difference, ran, small
from tests.diffusion.runs import distance, pictures
from tests.worker.faces import image_of

XL = "stabilityai/sdxl-turbo"
FILES = ADAPTERS["sdxl-turbo", "faceid"]


FACE, OTHER, NOBODY = image_of((150, 120, 60)), image_of((240, 150, 90)), image_of()


def params_of(image: str = FACE, **fields: Any) -> StreamParams:
    adapter = {"type": "faceid", "enabled": True, "scale": 0.8} | fields
    body = {"model_id": XL, "t_index_list": [20], "prompt": "the cat", "use_safety_checker": False}
    more = {"ip_adapter": adapter, "ip_adapter_style_image_url": image}
    return parse_create({"pipeline": "streamdiffusion", "params": body | more}, ModelTable()).params


@pytest.fixture
def models(tiny_directory: Callable[..., Path], places: ModelPlaces) -> ModelTable:
    return ModelTable([ModelEntry(XL, "sdxl-turbo", str(tiny_directory("sdxl-turbo")))], places=places)


def made(params: StreamParams, models: ModelTable) -> torch.Tensor:
    pipeline = make_pipeline(small(params), torch.device("cpu"), lambda detail, percent: None, models)
    assert isinstance(pipeline, DiffusionPipeline)
    (image,) = pictures(1)
    return pipeline.process(image)


def test_a_face_steers_the_picture_and_off_is_none(models: ModelTable) -> None:
    plain = made(params_of(enabled=False), models)
    first = made(params_of(), models)
    assert distance(first, plain) > 1e-3
    assert distance(made(params_of(OTHER), models), first) > 1e-5
    assert distance(made(params_of(type="regular"), models), first) > 1e-3
    assert torch.equal(made(params_of(scale=0.0), models), plain)


def test_another_face_is_hot_and_no_face_is_refused_while_the_old_picture_stays(
    models: ModelTable, tiny_directory: Callable[..., Path]
) -> None:
    with Fleet(tiny_directory("sdxl-turbo"), models=models) as fleet:
        stream, twin = fleet.open(params_of()), fleet.open(params_of())
        pipeline = stream.work.pipeline
        fleet.update(stream, params_of(NOBODY))
        report = stream.reports[-1]
        assert (report.phase, report.revision, report.refused_revision) == ("ready", 1, 2)
        assert (report.error_code, report.error_message) == ("STREAMS/NO_FACE", "there is no face in the style image")
        assert [ran(fleet, stream, 1), ran(fleet, twin, 1)] == [1, 1]
        assert difference(stream.newest, twin.newest) <= 1
        fleet.update(stream, params_of(OTHER))
        assert (stream.reports[-1].error_code, stream.work.pipeline) == (None, pipeline)
        assert ran(fleet, stream, 2) == 3


@pytest.mark.parametrize("gone", [f"{FILES.repository}/{FILES.adapter}", f"{FACES.repository}/{FACES.files[1]}"])
def test_a_file_that_is_missing_is_named_and_the_stream_runs_on(
    gone: str, models: ModelTable, tiny_directory: Callable[..., Path], tmp_path: Path
) -> None:
    assert models.places.models is not None
    for repository in {FILES.repository, FACES.repository, ADAPTERS["sdxl-turbo", "regular"].repository}:
        shutil.copytree(models.places.models / repository, tmp_path / repository)
    (tmp_path / gone).unlink()
    fewer = ModelTable(list(models.entries()), places=ModelPlaces(tmp_path, None, offline=True))
    with Fleet(tiny_directory("sdxl-turbo"), models=fewer) as fleet:
        stream = fleet.open(params_of(type="regular"))
        fleet.update(stream, params_of())
        report = stream.reports[-1]
        assert (report.phase, report.refused_revision, report.error_code) == ("ready", 2, ModelUnavailable.code)
        assert Path(gone).name in (report.error_message or "")
        assert ran(fleet, stream, 1) == 1


def test_what_faces_need_is_fetched_only_for_who_names_it() -> None:
    assert dict(needed_for("ip_adapter:faceid")) == {FILES.repository: FILES.files, FACES.repository: FACES.files}
    assert FACES.repository not in dict(needed_for("ip_adapter"))
    assert FACES.repository not in dict(needed_for("ip_adapter:sdxl-turbo"))
