"""Which models are here: those of which a load would not say that something is missing or of no use."""

import json
import shutil
from pathlib import Path

import pytest

from sdstream.diffusion.loading.original_keys import ENCODERS, INPUT, VAE
from sdstream.directories import ModelPlaces
from sdstream.worker.files.presence import model_presence
from tests.support.hollow import EMPTY, write_hollow_model

UNET = "unet/diffusion_pytorch_model.safetensors"
HERE = ModelPlaces(offline=True)


@pytest.fixture(autouse=True)
def no_hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of this machine's is found."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_hollow_model(tmp_path / "model")


def safetensors(*keys: str) -> bytes:
    """A file with tensors of one number each."""
    told = {
        key: {"dtype": "F32", "shape": [1, 4], "data_offsets": [16 * at, 16 * at + 16]} for at, key in enumerate(keys)
    }
    header = json.dumps(told).encode()
    return len(header).to_bytes(8, "little") + header + bytes(16 * len(keys))


def test_a_whole_directory_is_here(model: Path) -> None:
    found = model_presence(str(model), "sd15", HERE)
    assert (found.present, found.path, found.missing, found.problem) == (True, model, (), "")


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "unet/config.json",
        UNET,
        "vae/config.json",
        "vae/diffusion_pytorch_model.safetensors",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "tokenizer/vocab.json",
    ],
)
def test_a_directory_that_lacks_what_a_load_needs_is_not_here(model: Path, name: str) -> None:
    (model / name).unlink()
    found = model_presence(str(model), "sd15", HERE)
    told = name.replace("vocab", "tokenizer")
    assert (found.present, found.path, found.missing) == (False, model, (told,))
    assert found.problem.startswith(f"{model / told} is missing")


def test_all_that_is_missing_is_named_at_once(model: Path) -> None:
    shutil.rmtree(model / "unet")
    (model / "scheduler/scheduler_config.json").unlink()
    found = model_presence(str(model), "sd15", HERE)
    assert found.missing == ("unet/config.json", "scheduler/scheduler_config.json", UNET)


def test_the_small_vae_stands_in_for_the_models_own(model: Path) -> None:
    (model / "vae/diffusion_pytorch_model.safetensors").unlink()
    shutil.copytree(model / "vae", model / "taesd")
    assert model_presence(str(model), "sd15", HERE).missing == ("taesd/diffusion_pytorch_model.safetensors",)
    (model / "taesd/diffusion_pytorch_model.safetensors").write_bytes(EMPTY)
    assert model_presence(str(model), "sd15", HERE).present
    assert not model_presence(str(model), "sd15", ModelPlaces(offline=True, full_vae=True)).present


def test_weights_in_half_precision_will_do(model: Path) -> None:
    (model / UNET).rename(model / "unet/diffusion_pytorch_model.fp16.safetensors")
    assert model_presence(str(model), "sd15", HERE).present


def test_what_cannot_be_used_is_told_in_the_words_of_a_load(model: Path) -> None:
    (model / UNET).write_bytes(EMPTY[:-1])
    found = model_presence(str(model), "sd15", HERE)
    assert (found.present, found.missing) == (False, (UNET,))
    assert f"{model / UNET} is not a whole safetensors file" in found.problem
    assert "of the sd15 family, not of sd-turbo" in model_presence(str(model), "sd-turbo", HERE).problem


def test_what_was_fetched_in_part_is_fetched_and_what_people_made_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    places = ModelPlaces(tmp_path)
    folder = write_hollow_model(tmp_path / "me/model")
    (folder / UNET).unlink()
    assert not model_presence("me/model", "sd15", places).fetched
    (folder / ".sdstream.json").write_text(json.dumps({"repository": "me/model", "commit": "c"}))
    found = model_presence("me/model", "sd15", places)
    assert (found.present, found.fetched) == (False, True)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"text", "is not a whole safetensors file"),
        (safetensors("lora_up"), "is a LoRA"),
        (safetensors(INPUT, f"{ENCODERS['sd-turbo'][0]}a", f"{VAE[0]}a"), "of the sd-turbo family, not of sd15"),
        (safetensors(INPUT, f"{ENCODERS['sd15'][0]}a", f"{VAE[0]}a"), "needs CLIP's tokenizer"),
    ],
    ids=["text", "LoRA", "another family", "no tokenizer"],
)
def test_a_single_file_that_no_load_takes_is_not_here(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    found = model_presence(str(file), "sd15", HERE)
    assert (found.present, found.path) == (False, file)
    assert said in found.problem
