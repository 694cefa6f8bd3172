"""Addresses of other protocols than WebRTC."""

from datetime import UTC, datetime

from sdstream.api.ingest import ingest_object
from sdstream.params import ModelTable, parse_create
from sdstream.settings import Settings
from sdstream.streams.names import new_record

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


def test_the_embedded_back_end_has_none() -> None:
    settings = Settings(mediamtx_rtmp_port=1935)
    assert ingest_object(RECORD, settings, "h") == {"publish": [], "watch": []}
