"""The table of models: public ids, moved sources, further ids, wrong settings."""

import json
from typing import Any

import pytest

from sdstream.errors import ConfigurationError, InvalidParams
from sdstream.params import ModelEntry, ModelTable, dump_params, load_params, parse_create
from sdstream.params.controlnets import CONTROLNETS
from sdstream.params.problems import Notes
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


MINE = "me/my-lines"
CANNY = "thibaud/controlnet-sd21-canny-diffusers"


def _with_nets(nets: dict[str, Any]) -> ModelTable:
    return ModelTable.from_settings(load_settings({}, {"SDSTREAM_CONTROLNETS": json.dumps(nets)}))


def _body(net: str, model: str = SD_TURBO) -> dict[str, Any]:
    return {"params": {"model_id": model, "controlnets": [{"model_id": net, "conditioning_scale": 0.5}]}}


def test_a_controlnet_of_the_settings_is_taken_stored_and_read_back() -> None:
    table = _with_nets(
        {MINE: {"source": "/nets/lines", "family": "sd-turbo", "conditioning_channels": 6, "preprocessor": "canny"}}
    )
    request = parse_create(_body(MINE), table)
    (net,) = request.params.controlnets
    assert (net.model_id, net.facts.source, net.facts.conditioning_channels) == (MINE, "/nets/lines", 6)
    assert (net.facts.preprocessor, net.facts.kind) == ("canny", None)
    assert any(MINE in warning and "SDKs" in warning for warning in request.warnings)
    assert load_params(dump_params(request.params), table) == request.params


def test_a_controlnet_of_the_settings_of_another_family_is_refused_by_name() -> None:
    table = _with_nets({MINE: {"source": "/nets/lines", "family": "sd15"}})
    with pytest.raises(InvalidParams) as refused:
        parse_create(_body(MINE), table)
    assert "belongs to the sd15 family" in json.dumps(refused.value.details)


def test_without_the_setting_a_controlnet_is_unknown_and_stored_streams_live_without_it() -> None:
    table = _with_nets({MINE: {"source": "/nets/lines", "family": "sd-turbo"}})
    stored = dump_params(parse_create(_body(MINE), table).params)
    with pytest.raises(InvalidParams, match="not a value it can have"):
        parse_create(_body(MINE), _table())
    notes = Notes()
    assert load_params(stored, _table(), notes=notes).controlnets == ()
    assert notes.as_tuple() == (f"ControlNet {MINE} is not known and was left out",)


def test_daydreams_controlnet_can_come_from_elsewhere() -> None:
    table = _with_nets({CANNY: {"source": "/nets/canny"}})
    assert table.controlnets[CANNY].source == "/nets/canny"
    assert table.controlnets[CANNY].preprocessor == "canny"
    assert set(table.controlnets) == set(CONTROLNETS)


@pytest.mark.parametrize(
    ("net", "given", "message"),
    [
        (MINE, {"source": "x"}, "needs a family"),
        (CANNY, {"source": "x", "family": "sd15"}, "the family of .* is sd-turbo, not sd15"),
        (CANNY, {"source": "x", "conditioning_channels": 6}, "is 3, not 6"),
        (MINE, {"source": "x", "family": "sd15", "preprocessor": "cany"}, "did you mean 'canny'"),
        (MINE, {"source": "x", "family": "sd15", "conditioning_channels": 4}, "conditioning_channels"),
        (MINE, {"source": ""}, "source"),
    ],
)
def test_wrong_controlnets_in_the_settings_stop_the_start(net: str, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        _with_nets({net: given})
