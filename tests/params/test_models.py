"""The table of models: public ids, moved sources, further ids, wrong settings."""

import pytest

from sdstream.errors import ConfigurationError
from sdstream.params import ModelEntry, ModelTable
from sdstream.settings import load_settings
from tests.params.requests import DREAMSHAPER, SD_TURBO, SDXL_TURBO


def _table(models: str = "", default: str = "") -> ModelTable:
    return ModelTable.from_settings(load_settings({}, {"SDSTREAM_MODELS": models, "SDSTREAM_DEFAULT_MODEL": default}))


def test_the_public_models_come_from_the_hub_by_default() -> None:
    assert _table().entries() == (
        ModelEntry("stabilityai/sd-turbo", "sd-turbo", "stabilityai/sd-turbo"),
        ModelEntry("stabilityai/sdxl-turbo", "sdxl-turbo", "stabilityai/sdxl-turbo"),
        ModelEntry("Lykon/dreamshaper-8", "sd15", "Lykon/dreamshaper-8"),
        ModelEntry("prompthero/openjourney-v4", "sd15", "prompthero/openjourney-v4"),
    )


def test_a_public_model_can_come_from_elsewhere() -> None:
    entry = _table('{"stabilityai/sd-turbo": "/models/sd-turbo.safetensors"}').get(SD_TURBO)
    assert entry == ModelEntry(SD_TURBO, "sd-turbo", "/models/sd-turbo.safetensors")


def test_a_further_model_is_added_and_not_public() -> None:
    table = _table('{"me/mine": {"source": "/models/mine", "family": "sd15"}}')
    entry = table.get("me/mine")
    assert entry == ModelEntry("me/mine", "sd15", "/models/mine")
    assert entry is not None
    assert not entry.public
    assert table.ids() == (SD_TURBO, SDXL_TURBO, DREAMSHAPER, "prompthero/openjourney-v4", "me/mine")


def test_an_unknown_id_has_no_entry() -> None:
    assert _table().get("no/such") is None


@pytest.mark.parametrize(
    ("models", "default", "message"),
    [
        ('{"me/mine": "/models/mine"}', "", "needs a family"),
        ('{"stabilityai/sd-turbo": {"source": "x", "family": "sd15"}}', "", "is of the sd-turbo family"),
        ("", "stabilityai/sd-turb", "did you mean 'stabilityai/sd-turbo'"),
        ("", "qqqqqqqq", "one of stabilityai/sd-turbo"),
    ],
)
def test_wrong_settings_stop_the_start(models: str, default: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        _table(models, default)
