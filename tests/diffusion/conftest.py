"""Tiny models, made once for all tests of this folder; torch keeps to one core."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from sdstream.diffusion.loading.models import Model, load_model
from sdstream.diffusion.schedule import Prediction
from sdstream.diffusion.tiny import write_tiny_model
from sdstream.diffusion.tiny_conditions import EMBEDDING, write_tiny_adapter, write_tiny_controlnet
from sdstream.directories import ModelPlaces
from sdstream.settings import Family
from sdstream.worker.files.published import ADAPTERS, FACES
from tests.worker.annotators import make_depth_model
from tests.worker.faces import write_tiny_faces

CPU = torch.device("cpu")


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> None:
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)


CANNY = "thibaud/controlnet-sd21-canny-diffusers"
DEPTH = "thibaud/controlnet-sd21-depth-diffusers"
TEMPORAL = "daydreamlive/TemporalNet2-stable-diffusion-2-1"
SD15_CANNY = "lllyasviel/control_v11p_sd15_canny"
SD15_DEPTH = "lllyasviel/control_v11f1p_sd15_depth"


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory, tiny_model: Callable[..., Model]) -> ModelPlaces:
    """A data directory's `models` with tiny ControlNets, an IP-Adapter and a depth network; no way to the hub."""
    root = tmp_path_factory.mktemp("steering")
    unet = tiny_model("sd-turbo").unet
    for seed, (name, channels) in enumerate({CANNY: 3, DEPTH: 3, TEMPORAL: 6}.items()):
        write_tiny_controlnet(root / name, unet, channels=channels, seed=seed)
    make_depth_model().save_pretrained(root / "depth-anything/Depth-Anything-V2-Small-hf")
    for seed, name in enumerate((SD15_CANNY, SD15_DEPTH)):
        write_tiny_controlnet(root / name, tiny_model("sd15").unet, seed=seed)
    for (family, kind), files in ADAPTERS.items():
        file = root / files.repository / files.adapter
        write_tiny_adapter(file.parent, file.name, tiny_model(family).unet, face=kind == "faceid")
        encoder = root / files.repository / files.encoder
        if files.encoder and not encoder.exists():
            (file.parent / "image_encoder").rename(encoder)
    faces = root / FACES.repository / Path(FACES.files[0]).parent
    write_tiny_faces(faces, EMBEDDING)
    return ModelPlaces(root, None, offline=True)


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a tiny model of a family once; do not change it."""

    @cache
    def write(family: Family, prediction: Prediction = "epsilon") -> Path:
        directory = tmp_path_factory.mktemp("models") / family
        write_tiny_model(directory, family, width=16, prediction=prediction)
        return directory

    return write


@pytest.fixture(scope="session")
def tiny_model(tiny_directory: Callable[..., Path]) -> Callable[..., Model]:
    """Loads a tiny model of a family once."""

    @cache
    def load(family: Family, prediction: Prediction = "epsilon", taesd: bool = True) -> Model:
        return load_model(tiny_directory(family, prediction), family, CPU, taesd=taesd)

    return load
