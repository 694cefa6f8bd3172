"""Acceptance statements 36 to 39 of the contract: what the status says and to whom."""

import time

from tests.support.mediamtx import on_both
from tests.support.peers import Publisher, Viewer
from tests.support.rest import Rest
from tests.support.waiting import eventually

ORIGIN = {"Origin": "https://www.example.org"}


@on_both
async def test_36_status_before_whip_is_offline(rest: Rest) -> None:
    stream = await rest.create()
    response = await rest.http.get(f"/v1/streams/{stream['id']}/status")
    assert response.status_code == 200
    body = response.json()
    assert body["success"] is True
    assert body["error"] is None
    assert body["data"]["state"] == "OFFLINE"
    assert body["data"]["stream_id"] == stream["id"]
    assert not (body["data"].get("gateway_status") or {}).get("whep_url")


@on_both
async def test_37_status_after_whip_has_the_whep_url_and_becomes_online(rest: Rest) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"]) as publisher:
        status = await rest.status(stream["id"])
        assert status["gateway_status"]["whep_url"] == publisher.whep_url
        status = await rest.wait_state(stream["id"], "ONLINE")
        async with Viewer(status["gateway_status"]["whep_url"]) as viewer:
            await viewer.wait_kind("card")
    await rest.wait_state(stream["id"], "OFFLINE")


@on_both
async def test_37_a_camera_that_stops_sending_is_degraded_input(rest: Rest) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"]) as publisher:
        await rest.wait_state(stream["id"], "ONLINE")
        publisher.track.paused = True
        await rest.wait_state(stream["id"], "DEGRADED_INPUT")
        publisher.track.paused = False
        await rest.wait_state(stream["id"], "ONLINE")


async def test_38_status_needs_no_key_and_carries_cors(rest: Rest) -> None:
    stream = await rest.create()
    path = f"/v1/streams/{stream['id']}/status"
    response = await rest.anonymous.get(path, headers=ORIGIN)
    assert response.status_code == 200
    assert response.json()["data"]["state"] == "OFFLINE"
    assert response.headers["access-control-allow-origin"] in ("*", ORIGIN["Origin"])
    missing = await rest.anonymous.get("/v1/streams/str_nobody/status", headers=ORIGIN)
    assert missing.status_code == 404
    assert missing.headers["access-control-allow-origin"] in ("*", ORIGIN["Origin"])


@on_both
async def test_39_status_has_both_layouts_and_integer_milliseconds(rest: Rest) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"], fps=24) as publisher, Viewer(publisher.whep_url) as viewer:
        await viewer.wait_kind("card")

        async def settled() -> bool:
            status = await rest.status(stream["id"])
            inference, source = status["inference_status"], status["input_status"]
            rates = inference["fps"], inference["input_fps"], inference["output_fps"], source["fps"]
            return all(18 < rate < 30 for rate in rates)

        await eventually(settled, seconds=30, what="four rates of about 24 a second")
        await rest.change(stream["id"], {"prompt": "noted"})

        async def counted() -> bool:
            statistics = (await rest.status(stream["id"]))["gateway_status"]["ingest_metrics"]["stats"]
            return statistics["conn_quality"] == "good" and any(
                track["type"] == "video" and track["packets_received"] > 20 for track in statistics["track_stats"]
            )

        await eventually(counted, what="twenty packets in track_stats, and hardly a lost one among all")
        status = await rest.status(stream["id"])
    inference, source = status["inference_status"], status["input_status"]
    now = time.time() * 1000
    moments = [
        status["start_time"],
        status["last_state_update_time"],
        source["last_input_time"],
        inference["last_input_time"],
        inference["last_output_time"],
        inference["last_params_update_time"],
        inference["start_time"],
    ]
    for moment in moments:
        assert isinstance(moment, int)
        assert now - 120_000 < moment <= now + 1000
    assert inference["last_params"]["model_id"] == stream["params"]["model_id"]
    assert len(inference["last_params_hash"]) == 32
    assert inference["restart_count"] == 0
    assert status["type"] == "status"
    statistics = status["gateway_status"]["ingest_metrics"]["stats"]
    assert statistics["conn_quality"] == "good"
    assert statistics["peer_conn_stats"]["BytesReceived"] > 1000
