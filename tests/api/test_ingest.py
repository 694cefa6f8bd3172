"""Addresses of other protocols than WebRTC."""

from collections.abc import Callable
from datetime import UTC, datetime

import pytest

from sdstream.api.ingest import ingest_object
from sdstream.params import ModelTable, parse_create
from sdstream.reachability import Place, Role
from sdstream.settings import Settings
from sdstream.streams.names import new_record
from tests.api.conftest import KEY, Site

SETTINGS = Settings(media_backend="mediamtx", mediamtx_rtmp_port=1935, mediamtx_srt_port=8890)
RECORD = new_record(
    parse_create({}, ModelTable.from_settings(Settings())),
    "author",
    datetime(2026, 1, 1, tzinfo=UTC),
    from_playground=False,
)


def test_each_port_that_is_set_has_its_addresses() -> None:
    key, playback = RECORD.stream_key, RECORD.output_playback_id
    made = ingest_object(RECORD, SETTINGS, "video.example.org")
    assert [entry["url"] for entry in made["publish"]] == [
        f"rtmp://video.example.org:1935/in/{key}",
        f"srt://video.example.org:8890?streamid=publish:in/{key}&pkt_size=1316",
    ]
    assert made["publish"][0]["server"] == "rtmp://video.example.org:1935/in"
    assert made["publish"][0]["key"] == key
    assert made["watch"][0]["url"] == f"rtmp://video.example.org:1935/out/{playback}"


def test_an_ipv6_host_stands_in_brackets() -> None:
    assert ingest_object(RECORD, SETTINGS, "2001:db8::1")["publish"][0]["url"].startswith("rtmp://[2001:db8::1]:1935/")


POD = Place(Role.POD, "abc", public_ip="203.0.113.7", tcp_ports={1935: 21935})
PROXY = "abc-8080.proxy.runpod.net"


def test_on_runpod_they_are_those_that_its_mapping_leads_to() -> None:
    # The proxy by whose name the caller came passes HTTP alone, a mapped port has another number outside, SRT is UDP.
    made = ingest_object(RECORD, SETTINGS, PROXY, POD)
    assert [entry["server"] for entry in made["publish"]] == ["rtmp://203.0.113.7:21935/in"]
    assert made["watch"][0]["url"] == f"rtmp://203.0.113.7:21935/out/{RECORD.output_playback_id}"


def test_on_runpod_a_port_that_nothing_leads_to_has_no_address() -> None:
    assert ingest_object(RECORD, SETTINGS, PROXY, Place(Role.POD, "abc")) == {"publish": [], "watch": []}


@pytest.mark.parametrize("host", ["127.0.0.1", "abc.runpod.internal"])
def test_callers_from_inside_runpod_are_told_the_ports_themselves(host: str) -> None:
    made = ingest_object(RECORD, SETTINGS, host, POD)
    assert made["publish"][0]["server"] == f"rtmp://{host}:1935/in"


def test_the_embedded_back_end_has_none() -> None:
    settings = Settings(mediamtx_rtmp_port=1935)
    assert ingest_object(RECORD, settings, "h") == {"publish": [], "watch": []}


async def test_the_endpoint_of_a_pod_tells_what_the_mapping_leads_to(
    make_site: Callable[..., Site], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"POD_ID": "abc", "PUBLIC_IP": "203.0.113.7", "TCP_PORT_1935": "21935"}.items():
        monkeypatch.setenv(f"RUNPOD_{name}", value)
    site = make_site(host="0.0.0.0", media_backend="mediamtx", mediamtx_rtmp_port=1935, mediamtx_srt_port=8890)
    stream = await site.create()
    client = site.client_with(KEY, f"https://{PROXY}")
    data = (await client.get(f"/v1/streams/{stream['id']}/ingest")).json()["data"]
    assert [entry["url"] for entry in data["publish"]] == [f"rtmp://203.0.113.7:21935/in/{stream['stream_key']}"]
