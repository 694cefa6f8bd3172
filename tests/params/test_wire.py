"""What goes out: every key, only values that the SDKs know, and the same again when read back."""

import json
from typing import Any

import pytest
from daydream.models.createstreamop import CreateStreamResponse
from daydream.models.getstreambyidop import GetStreamByIDResponse
from daydream.models.updatestreamop import UpdateStreamResponse

from sdstream.errors import InvalidParams
from sdstream.params import ModelTable, Sd15Params, StreamParams, dump_params, image_apart, load_params, wire_params
from sdstream.params.controlnets import CONTROLNETS, controlnet_ids
from sdstream.params.presets import daydream_preset
from sdstream.params.problems import Notes
from sdstream.params.variants import VARIANTS
from sdstream.params.vocabulary import IMAGE_PROCESSOR_NAMES
from tests.params.requests import DREAMSHAPER, MODELS, PUBLIC_IDS, SD_TURBO, SDXL_TURBO, created

STREAM = {
    "id": "str_x",
    "stream_key": "stk_x",
    "created_at": "2026-02-03T10:20:30.000Z",
    "pipeline": "streamdiffusion",
    "name": "untitled",
    "author": "local",
    "from_playground": False,
    "gateway_host": "localhost",
    "is_smoke_test": False,
    "output_playback_id": "pb_x",
    "output_stream_url": None,
    "whip_url": "http://localhost/live/video-to-video/stk_x/whip",
}
RESPONSES = [CreateStreamResponse, GetStreamByIDResponse, UpdateStreamResponse]


def _everything(model_id: str) -> StreamParams:
    """Parameters of `model_id` with every optional part present."""
    family = created(model_id).family
    ids = [name for name in controlnet_ids(family) if CONTROLNETS[name].in_sdks]
    processors = [{"type": name} for name in IMAGE_PROCESSOR_NAMES if name not in ("upscale", "realesrgan_trt")]
    params: dict[str, Any] = {
        "prompt": [["a", 1], ["b", 0.5]],
        "seed": [[1, 0.5], [2, 0.5]],
        "lora_dict": {"owner/repo": 0.8},
        "controlnets": [
            {"model_id": name, "preprocessor": CONTROLNETS[name].preprocessor, "conditioning_scale": 1.5}
            for name in ids
        ],
        "image_preprocessing": {"processors": processors[:16]},
        "image_postprocessing": {"processors": [*processors[16:], {"type": "upscale"}]},
        "latent_preprocessing": {"processors": [{"type": "latent_feedback"}]},
        "latent_postprocessing": {"processors": []},
    }
    if family != "sd-turbo":
        params |= {
            "ip_adapter": {"type": "faceid" if family == "sdxl-turbo" else "regular", "weight_type": "ease in-out"},
            "ip_adapter_style_image_url": "https://example.org/x.png",
            "cached_attention": {"interval": 1440},
            "t_index_list": [10],
        }
    return created(model_id, **params)


@pytest.mark.parametrize("response", RESPONSES)
@pytest.mark.parametrize("model_id", PUBLIC_IDS)
@pytest.mark.parametrize("make", [created, _everything])
def test_the_python_sdk_reads_every_variant(make: Any, model_id: str, response: Any) -> None:
    wire = json.loads(json.dumps(wire_params(make(model_id)), allow_nan=False))
    read = response.model_validate({**STREAM, "params": wire}).params
    assert (read.model_id, read.width, read.prompt, read.seed) == (
        model_id,
        wire["width"],
        wire["prompt"],
        wire["seed"],
    )
    assert [entry.model_id for entry in read.controlnets] == [entry["model_id"] for entry in wire["controlnets"]]


@pytest.mark.parametrize("model_id", PUBLIC_IDS)
def test_no_key_of_the_sdk_variant_is_missing(model_id: str) -> None:
    wire = wire_params(created(model_id))
    read = GetStreamByIDResponse.model_validate({**STREAM, "params": wire}).params
    assert set(type(read).model_fields) == set(wire)


@pytest.mark.parametrize("model_id", PUBLIC_IDS)
def test_nested_objects_have_every_key(model_id: str) -> None:
    wire = wire_params(_everything(model_id))
    assert all(
        set(entry)
        == {
            "model_id",
            "conditioning_scale",
            "preprocessor",
            "preprocessor_params",
            "enabled",
            "control_guidance_start",
            "control_guidance_end",
        }
        for entry in wire["controlnets"]
    )
    blocks = [wire[f"{kind}_{when}processing"] for kind in ("image", "latent") for when in ("pre", "post")]
    assert all(set(block) == {"enabled", "processors"} for block in blocks)
    assert all(set(entry) == {"type", "enabled", "params"} for block in blocks for entry in block["processors"])
    if "ip_adapter" in wire:
        assert set(wire["ip_adapter"]) == {"type", "enabled", "scale", "weight_type"}
        assert set(wire["cached_attention"]) == {"enabled", "max_frames", "interval"}


def test_sd_turbo_has_no_adapters() -> None:
    assert not {"ip_adapter", "ip_adapter_style_image_url", "cached_attention"} & set(wire_params(created(SD_TURBO)))


def test_numbers_have_the_types_of_the_contract() -> None:
    wire = wire_params(created(SDXL_TURBO, guidance_scale=2, width=640.0, seed=3.0, t_index_list=[1.0]))
    types = [type(wire[name]) for name in ("guidance_scale", "width", "seed")]
    assert (types, type(wire["t_index_list"][0])) == ([float, int, int], int)


@pytest.mark.parametrize("family", VARIANTS)
def test_daydreams_presets_are_valid(family: Any) -> None:
    model_id = next(entry.id for entry in MODELS.entries() if entry.family == family)
    assert created(model_id, **daydream_preset(family)).controlnets


@pytest.mark.parametrize("make", [created, _everything])
@pytest.mark.parametrize("model_id", PUBLIC_IDS)
def test_the_store_gives_back_what_it_got(make: Any, model_id: str) -> None:
    params = make(model_id)
    assert load_params(dump_params(params), MODELS) == params
    assert load_params(dump_params(params)) == params


PICTURE = "data:image/png;base64,iVBORw0KGgo" + "A" * 4001 + "SUVORA=="


def test_a_style_image_is_kept_apart_from_stored_parameters() -> None:
    params = created(SDXL_TURBO, ip_adapter_style_image_url=PICTURE, prompt="beside it")
    text, image = dump_params(params), image_apart(params)
    assert image is not None
    assert image == PICTURE
    assert "AAAA" not in text
    assert load_params(text, MODELS, {image.digest: image}) == params
    with pytest.raises(InvalidParams, match="not kept"):
        load_params(text, MODELS)


def test_a_style_image_in_stored_parameters_of_an_earlier_version_is_read() -> None:
    params = created(SDXL_TURBO, ip_adapter_style_image_url=PICTURE)
    text = json.dumps({"family": params.family, **wire_params(params)})
    assert load_params(text, MODELS) == params


def test_a_style_image_with_an_address_is_not_kept_apart() -> None:
    params = created(SDXL_TURBO, ip_adapter_style_image_url="https://example.org/a.png")
    assert image_apart(params) is None
    assert load_params(dump_params(params), MODELS) == params


def test_the_name_of_a_kept_style_image_is_no_value_of_the_wire() -> None:
    name = json.loads(dump_params(created(SDXL_TURBO, ip_adapter_style_image_url=PICTURE)))[
        "ip_adapter_style_image_url"
    ]
    with pytest.raises(InvalidParams):
        created(SDXL_TURBO, ip_adapter_style_image_url=name)


def test_stored_parameters_of_a_lost_model_keep_their_family() -> None:
    table = ModelTable()
    text = dump_params(created(DREAMSHAPER)).replace(DREAMSHAPER, "gone/model")
    loaded = load_params(text, table)
    assert isinstance(loaded, Sd15Params)
    assert loaded.model_id == "gone/model"


def test_stored_parameters_of_another_version_are_read() -> None:
    stored = json.loads(dump_params(created(SD_TURBO, seed=5)))
    del stored["delta"]
    stored["later_member"] = 1
    notes = Notes()
    assert load_params(json.dumps(stored), MODELS, notes=notes) == created(SD_TURBO, seed=5)
    assert notes.as_tuple() == ("params.later_member is not known and was ignored",)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"family": "x"}', '{"family": []}', '{"family":"sd15","width":1}'])
def test_a_broken_store_text_is_refused(text: str) -> None:
    with pytest.raises(InvalidParams):
        load_params(text, MODELS)


def test_a_long_style_image_is_short_in_lists_and_whole_elsewhere() -> None:
    params = created(SDXL_TURBO, ip_adapter_style_image_url=PICTURE)
    whole, short = wire_params(params), wire_params(params, short_images=True)
    assert whole["ip_adapter_style_image_url"] == PICTURE
    assert short["ip_adapter_style_image_url"] == f"data:image/png;base64,... ({len(PICTURE)} characters)"
    assert list(short) == list(whole)
