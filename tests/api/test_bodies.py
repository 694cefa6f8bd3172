"""Whatever the body: an answer below 500, and no stream that nobody asked for."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sdstream.api import bodies
from sdstream.api.bodies import MOST_COMMAS, parse_object
from sdstream.errors import BadRequest
from sdstream.params import IMAGE_PROCESSORS, SdxlTurboParams
from tests.api.conftest import Site

NAMES = st.sampled_from(
    [*SdxlTurboParams.model_fields, "processors", "type", "enabled", "params", "conditioning_scale"]
)
WORDS = st.sampled_from(["stabilityai/sd-turbo", "stabilityai/sdxl-turbo", "slerp", *IMAGE_PROCESSORS]) | st.text()
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | WORDS
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES | st.text(), inner, max_size=4),
    max_leaves=12,
)
PARAMS = st.dictionaries(NAMES, VALUES, max_size=6)
BODIES = st.fixed_dictionaries(
    {}, optional={"params": PARAMS | VALUES, "pipeline": VALUES, "name": VALUES, "pipeline_params": VALUES}
)
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def read_or_none(content: bytes) -> dict[str, Any] | None:
    """The object, None where the body is refused; anything else is raised."""
    try:
        return parse_object(content)
    except BadRequest:
        return None


def test_an_object_is_read() -> None:
    assert parse_object(b'{"a": [1, 2.5, "x", null, true]}') == {"a": [1, 2.5, "x", None, True]}


def test_an_escaped_pair_of_surrogates_is_a_character() -> None:
    assert parse_object(b'{"a": "\\ud83d\\ude00"}') == {"a": "😀"}


@given(st.dictionaries(st.text(), VALUES, max_size=5))
def test_what_json_writes_is_read_back(value: dict[str, Any]) -> None:
    assert parse_object(json.dumps(value).encode()) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_a_bad_request(content: bytes) -> None:
    assert isinstance(read_or_none(content), dict | None)


@pytest.mark.parametrize("depth", [10, 500, 100_000])
def test_depth_never_ends_the_server(depth: int) -> None:
    content = b'{"a":' + b"[" * depth + b"]" * depth + b"}"
    value = read_or_none(content)
    assert value is None or list(value) == ["a"]


@FUZZ
@given(body=BODIES)
async def test_a_create_with_any_json_is_answered(site: Site, body: dict[str, Any]) -> None:
    site.streams.records.clear()
    site.clock.advance(10)
    answer = await site.client.post("/v1/streams", json=body)
    assert answer.status_code in (201, 400), answer.text
    assert len(site.streams.records) == (answer.status_code == 201)


@FUZZ
@given(body=BODIES)
async def test_an_update_with_any_json_is_answered_and_all_or_nothing(site: Site, body: dict[str, Any]) -> None:
    site.clock.advance(10)
    stream = await site.create()
    before = site.streams.records[stream["id"]]
    answer = await site.client.patch(f"/v1/streams/{stream['id']}", json=body)
    assert answer.status_code in (200, 400), answer.text
    if answer.status_code == 400:
        assert site.streams.records[stream["id"]] is before


@FUZZ
@given(content=st.binary(max_size=300) | st.text(max_size=100).map(lambda text: b"v=0\r\n" + text.encode()))
async def test_an_offer_of_any_bytes_is_answered(site: Site, content: bytes) -> None:
    site.clock.advance(10)
    stream = await site.create()
    answer = await site.client.post(stream["whip_url"], content=content, headers={"Content-Type": "application/sdp"})
    assert answer.status_code in (201, 400)


def test_a_repeated_member_among_very_many_is_found_in_one_pass() -> None:
    # Quadratic work would take hours here, and the test's time limit ends it.
    members = ",".join(f'"member{number}":0' for number in range(200_000))
    with pytest.raises(BadRequest, match="'member199999' twice"):
        parse_object(f'{{{members},"member199999":0}}'.encode())


def test_a_body_of_very_many_values_is_refused_before_it_is_parsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """To parse it holds the interpreter, and so every stream, for as long as that takes."""
    monkeypatch.setattr(bodies, "_DECODER", None)
    with pytest.raises(BadRequest, match="more values"):
        parse_object(b'{"seed": [' + b"1," * MOST_COMMAS + b"1,1]}")


async def test_a_long_body_is_answered_like_a_short_one(site: Site) -> None:
    params = {"model_id": "stabilityai/sd-turbo", "unknown": ["x" * 100] * 4000}
    answer = await site.client.post("/v1/streams", json={"params": params})
    assert answer.status_code == 201, answer.text
