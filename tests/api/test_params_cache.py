"""Encoded parameters: kept for one revision, never for another, never a long data URI in a list."""

import base64
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import msgspec

from sdstream.api.params_cache import MOST_ENTRIES, ParamsCache
from sdstream.params import SdxlTurboParams, wire_params
from sdstream.streams.views import StreamRecord

IMAGE = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(900) + b"IEND").decode()
RECORD = StreamRecord(
    id="str_1",
    stream_key="stk_1",
    output_playback_id="pb_1",
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    name="a",
    author="b",
    params=SdxlTurboParams(model_id="stabilityai/sdxl-turbo"),
)


def decode(raw: msgspec.Raw) -> dict[str, Any]:
    return msgspec.json.decode(raw)


def changed(**members: Any) -> StreamRecord:
    params = SdxlTurboParams.model_validate({"model_id": "stabilityai/sdxl-turbo", **members})
    return replace(RECORD, params=params)


def test_it_is_the_wire_form() -> None:
    assert decode(ParamsCache().encoded(RECORD)) == msgspec.json.decode(msgspec.json.encode(wire_params(RECORD.params)))


def test_the_same_parameters_are_encoded_once() -> None:
    cache = ParamsCache()
    assert cache.encoded(RECORD) is cache.encoded(RECORD)


def test_new_parameters_replace_the_old() -> None:
    cache = ParamsCache()
    cache.encoded(RECORD)
    assert decode(cache.encoded(changed(prompt="new")))["prompt"] == "new"


def test_a_data_uri_is_shortened_only_where_asked_in_any_order() -> None:
    cache = ParamsCache()
    record = changed(ip_adapter_style_image_url=IMAGE)
    for shorten in (False, True, False):
        shown = decode(cache.encoded(record, shorten=shorten))["ip_adapter_style_image_url"]
        assert (len(shown) < 100) is shorten


def test_its_size_is_bounded() -> None:
    cache = ParamsCache()
    for number in range(MOST_ENTRIES + 5):
        cache.encoded(replace(RECORD, id=f"str_{number}"))
    assert len(cache) == MOST_ENTRIES
