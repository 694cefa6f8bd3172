"""Where a stream goes besides WHEP, by API: bad targets, live changes, secrets, HLS and recordings."""

from pathlib import Path
from typing import Any

import av
import httpx
import pytest

from tests.support.events import event_log
from tests.support.mediamtx import on_both
from tests.support.peers import Publisher
from tests.support.rest import Rest, check_error, fields_of
from tests.support.waiting import eventually

SECRET = "sk-4711-0815"
NOWHERE = f"{'x' * 64}.example.org"
"""A name that no resolver is asked for: one of its parts is too long."""


@pytest.mark.parametrize(
    ("member", "value", "field"),
    [
        ("output_rtmp_url", "http://live.example.org/app/key", "output_rtmp_url"),
        ("output_rtmp_url", "rtmp://127.0.0.1/app/key", "output_rtmp_url"),
        ("output_rtmp_url", "rtmp://localhost/app/key", "output_rtmp_url"),
        ("output_rtmp_url", "rtmps://10.0.0.7/app/key", "output_rtmp_url"),
        ("output_rtmp_url", "rtmp://[::1]/app/key", "output_rtmp_url"),
        ("outputs", ["rtmp://live.example.org/app/key", "rtmp://192.168.1.1/a/b"], "outputs[1]"),
        ("outputs", "rtmp://live.example.org/app/key", "outputs"),
        ("outputs", [f"rtmp://live.example.org/app/{number}" for number in range(9)], "outputs"),
        ("recording", {"enabled": "yes"}, "recording.enabled"),
        ("recording", {"format": "webm"}, "recording.format"),
        ("recording", 5, "recording"),
    ],
)
async def test_bad_outputs_are_refused_and_change_nothing(rest: Rest, member: str, value: Any, field: str) -> None:
    error = check_error(await rest.post_stream({"params": {}, member: value}), 400, "STREAMS/INVALID_PARAMS")
    assert fields_of(error) == [field]
    stream = await rest.create(outputs=["rtmp://live.example.org/app/first"], recording={"enabled": False})
    error = check_error(await rest.patch(stream["id"], {}, **{member: value}), 400, "STREAMS/INVALID_PARAMS")
    assert fields_of(error) == [field]
    now = await rest.get(stream["id"])
    assert (now["outputs"], now["recording"]["enabled"], now["revision"]) == (stream["outputs"], False, 1)


async def test_targets_are_added_and_removed_without_their_keys_being_shown(rest: Rest) -> None:
    first, second = f"rtmp://{NOWHERE}/one/{SECRET}", f"rtmps://{NOWHERE}/two/{SECRET}"
    stream = await rest.create(output_rtmp_url=first, outputs=[second])
    assert stream["outputs"] == [f"rtmps://{NOWHERE}/two/***"]
    start = rest.server.log_size()
    async with event_log(rest, stream["id"]) as log, Publisher(stream["whip_url"]):
        await log.wait("output", state="waiting", target=f"rtmp://{NOWHERE}/one/***")
        await log.wait("output", state="waiting", target=f"rtmps://{NOWHERE}/two/***")
        status = await rest.status(stream["id"])
        assert [output["target"] for output in status["outputs"]] == [
            f"rtmp://{NOWHERE}/one/***",
            f"rtmps://{NOWHERE}/two/***",
        ]
        # What answers show stands for what is stored.
        answer = await rest.patch(stream["id"], {}, outputs=stream["outputs"])
        assert answer.json()["applied"] == "unchanged"
        answer = await rest.patch(stream["id"], {}, output_rtmp_url="")
        assert (answer.json()["applied"], answer.json()["changed"]) == ("hot", ["output_rtmp_url"])
        status = await rest.status(stream["id"])
        assert [output["target"] for output in status["outputs"]] == [f"rtmps://{NOWHERE}/two/***"]
        await rest.patch(stream["id"], {}, outputs=[])
        assert (await rest.status(stream["id"]))["outputs"] == []
        shown = [str(log.entries), str(status), str(await rest.get(stream["id"]))]
    assert all(SECRET not in text for text in [*shown, rest.server.log_tail(start)])


async def test_a_dry_run_pushes_nowhere(rest: Rest) -> None:
    stream = await rest.create()
    url = f"/v1/streams/{stream['id']}?dry_run=true"
    answer = await rest.http.patch(url, json={"outputs": ["rtmp://live.example.org/app/key"]})
    assert (answer.json()["applied"], answer.json()["dry_run"]) == ("hot", True)
    assert (await rest.get(stream["id"]))["outputs"] == []


@on_both
async def test_a_recording_is_made_listed_and_fetched(rest: Rest, tmp_path: Path) -> None:
    stream = await rest.create()
    path = f"/v1/streams/{stream['id']}/recordings"
    async with event_log(rest, stream["id"]) as log, Publisher(stream["whip_url"]):
        await rest.wait_state(stream["id"], "ONLINE")
        answer = await rest.patch(stream["id"], {}, recording={"enabled": True, "format": "mp4"})
        assert answer.json()["recording"] == {"enabled": True, "format": "mp4"}
        name = (await log.wait("recording", state="started"))["name"]

        async def recorded() -> bool:
            facts = (await rest.status(stream["id"]))["recording"]
            return facts is not None and facts["name"] == name and facts["seconds"] >= 1

        await eventually(recorded, what="a second of recording")
        check_error(await rest.http.get(f"{path}/{name}"), 409, "STREAMS/CONFLICT")
        await rest.patch(stream["id"], {}, recording={"enabled": False})

        async def finished() -> Any:
            listed = (await rest.http.get(path)).json()["data"]
            return listed if listed and listed[0]["finished"] else None

        listed = await eventually(finished, what="a finished recording")
    assert [entry["name"] for entry in listed] == [name]
    fetched = await rest.http.get(listed[0]["url"])
    assert fetched.status_code == 200
    assert len(fetched.content) == listed[0]["bytes"]
    file = tmp_path / "fetched.mp4"
    file.write_bytes(fetched.content)
    with av.open(str(file)) as container:
        assert {item.type for item in container.streams} == {"video", "audio"}
        assert sum(1 for packet in container.demux(video=0) if packet.pts is not None) >= 10
    check_error(await rest.anonymous.get(f"{path}/{name}"), 401)
    check_error(await rest.http.get(f"{path}/..%2f..%2fkeys.json"), 404)
    assert (await rest.http.delete(f"{path}/{name}")).status_code == 200
    check_error(await rest.http.get(f"{path}/{name}"), 404)


@on_both
async def test_hls_is_there_only_while_somebody_publishes(rest: Rest) -> None:
    stream = await rest.create()
    check_error(await rest.anonymous.get(stream["hls_url"]), 404, "STREAMS/NO_PICTURE_YET")
    check_error(await rest.anonymous.get(f"{rest.server.url}/hls/pb_no/index.m3u8"), 404, "STREAMS/NOT_FOUND")
    async with Publisher(stream["whip_url"]):

        async def listed() -> httpx.Response | None:
            """The playlist; it is asked for again where the first segment takes longer than a request waits for it."""
            answer = await rest.anonymous.get(stream["hls_url"], headers={"Origin": "https://player.example.org"})
            return answer if answer.status_code == 200 else None

        playlist = await eventually(listed, what="the playlist")
        assert playlist.headers["content-type"] == "application/vnd.apple.mpegurl"
        assert playlist.headers["access-control-allow-origin"] == "*"
        assert playlist.headers["cache-control"] == "no-cache"
        assert playlist.text.startswith("#EXTM3U\n")
        check_error(await rest.anonymous.get(stream["hls_url"].replace("index.m3u8", "../../secret")), 404)
