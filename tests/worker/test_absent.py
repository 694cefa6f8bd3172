"""What params ask for and this machine cannot give, found without a worker and without the network."""

from pathlib import Path
from typing import Any

import pytest

from sdstream.diffusion.fetching.selection import LORA, NETWORK
from sdstream.directories import ModelPlaces
from sdstream.params import ModelTable, parse_create
from sdstream.worker.files.absent import absent_parts
from sdstream.worker.files.loras import LCM_LORAS
from sdstream.worker.files.published import ADAPTERS
from tests.support.bodies import data_uri
from tests.support.hollow import write_hollow_model

SD15 = "Lykon/dreamshaper-8"
CANNY = "lllyasviel/control_v11p_sd15_canny"
IMAGE = data_uri()


@pytest.fixture
def table(tmp_path: Path) -> ModelTable:
    """No model but an SD 1.5, which has every file and no weights; nothing may be fetched."""
    write_hollow_model(tmp_path / "models" / SD15)
    touch(tmp_path / "loras" / LCM_LORAS["sd15"] / LORA)
    return ModelTable(places=ModelPlaces(tmp_path / "models", tmp_path / "loras", offline=True))


def touch(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(b"")


def found(table: ModelTable, **params: Any) -> list[tuple[str, str]]:
    """Places and codes of what is missing of a stream of the SD 1.5."""
    request = parse_create({"params": {"model_id": SD15, **params}}, table)
    return [(part.place, part.code) for part in absent_parts(request.params, table)]


def test_nothing_is_missing_of_a_model_that_is_here(table: ModelTable) -> None:
    assert found(table) == []


def test_each_part_that_is_not_here_is_named_where_the_params_name_it(table: ModelTable) -> None:
    net = {"model_id": CANNY, "preprocessor": "canny", "conditioning_scale": 0.5}
    style = {"ip_adapter": {"enabled": True}, "ip_adapter_style_image_url": IMAGE}
    assert found(table, controlnets=[net], lora_dict={"nobody/none": 1.0, "no name": 1.0}, **style) == [
        ("lora_dict", "MODELS/LORA_UNUSABLE"),
        ("lora_dict", "MODELS/LORA_UNUSABLE"),
        ("controlnets[0]", "MODELS/UNAVAILABLE"),
        ("ip_adapter", "MODELS/UNAVAILABLE"),
    ]
    assert found(table, model_id="stabilityai/sd-turbo") == [("model_id", "MODELS/UNAVAILABLE")]


def test_what_has_no_effect_is_not_looked_for(table: ModelTable) -> None:
    net = {"model_id": CANNY, "preprocessor": "canny", "conditioning_scale": 0.0}
    style = {"ip_adapter": {"enabled": False}, "ip_adapter_style_image_url": IMAGE}
    assert found(table, controlnets=[net], lora_dict={"nobody/none": 0.0}, **style) == []
    assert found(table, model_id="stabilityai/sd-turbo", skip_diffusion=True) == []


def test_what_is_here_is_not_missing(table: ModelTable) -> None:
    folder = table.places.models
    assert folder is not None
    for name in NETWORK:
        touch(folder / CANNY / name)
    for repository, names in ADAPTERS["sd15", "regular"].sources:
        for name in names:
            touch(folder / repository / name)
    net = {"model_id": CANNY, "preprocessor": "canny", "conditioning_scale": 0.5}
    style = {"ip_adapter": {"enabled": True}, "ip_adapter_style_image_url": IMAGE}
    assert found(table, controlnets=[net], **style) == []


def test_the_lora_of_few_steps_is_missed_where_the_model_needs_it(table: ModelTable, tmp_path: Path) -> None:
    (tmp_path / "loras" / LCM_LORAS["sd15"] / LORA).unlink()
    assert found(table) == [("use_lcm_lora", "MODELS/LORA_UNUSABLE")]
    assert found(table, use_lcm_lora=False) == []


def test_what_may_be_fetched_is_not_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    monkeypatch.setattr("sdstream.diffusion.fetching.sources.is_offline", lambda: False)
    table = ModelTable(places=ModelPlaces(tmp_path / "models", tmp_path / "loras"))
    net = {"model_id": CANNY, "preprocessor": "canny", "conditioning_scale": 0.5}
    assert found(table, controlnets=[net], lora_dict={"nobody/none": 1.0}) == []
    assert found(table, lora_dict={"no name": 1.0}) == [("lora_dict", "MODELS/LORA_UNUSABLE")]


def test_a_model_that_no_load_would_take_is_missing_in_the_words_of_a_load(table: ModelTable, tmp_path: Path) -> None:
    weights = tmp_path / "models" / SD15 / "unet/diffusion_pytorch_model.safetensors"
    weights.unlink()
    request = parse_create({"params": {"model_id": SD15}}, table)
    (part,) = absent_parts(request.params, table)
    assert (part.place, part.message) == ("model_id", f"{weights} is missing")
