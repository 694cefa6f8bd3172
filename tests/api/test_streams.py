"""E1 to E6 and E11: shapes, codes and who may do what."""

import base64
import hashlib
import json
import re
from collections.abc import Callable

import pytest
import structlog.testing

from sdstream.errors import Conflict
from tests.api.conftest import CREATE, KEY, Site

MEMBERS = [
    "id",
    "stream_key",
    "created_at",
    "pipeline",
    "params",
    "name",
    "author",
    "from_playground",
    "gateway_host",
    "is_smoke_test",
    "output_playback_id",
    "output_stream_url",
    "whip_url",
]


async def test_create_answers_201_with_all_members(site: Site) -> None:
    answer = await site.client.post("/v1/streams", json=CREATE)
    assert answer.status_code == 201
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert [name for name in MEMBERS if body.get(name) is None] == []
    assert body["pipeline"] == "streamdiffusion"


async def test_id_is_the_first_key_for_text_searchers(site: Site) -> None:
    text = (await site.client.post("/v1/streams", json=CREATE)).text
    assert text.startswith('{"id":"str_1"')
    assert text.count('"id"') == 1


async def test_slashes_are_not_escaped(site: Site) -> None:
    text = (await site.client.post("/v1/streams", json=CREATE)).text
    assert '"whip_url":"http://media.example/live/video-to-video/stk_1/whip"' in text


async def test_created_at_is_iso_8601_with_milliseconds(site: Site) -> None:
    stream = await site.create()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", stream["created_at"])


async def test_read_answers_the_same_object(site: Site) -> None:
    stream = await site.create(prompt="x")
    assert (await site.client.get(f"/v1/streams/{stream['id']}")).json() == stream


async def test_list_is_an_object_also_when_empty(site: Site) -> None:
    assert (await site.client.get("/v1/streams")).json() == {"success": True, "data": []}


async def test_list_shows_whole_streams(site: Site) -> None:
    stream = await site.create()
    assert (await site.client.get("/v1/streams")).json()["data"] == [stream]


async def test_lists_and_stream_objects_show_the_state_without_a_whole_status(site: Site) -> None:
    stream = await site.create()
    await site.publish(stream)
    listed = (await site.client.get("/v1/streams")).json()["data"][0]
    patched = (await site.client.patch(f"/v1/streams/{stream['id']}", json={"params": {"prompt": "x"}})).json()
    assert (stream["status"], listed["status"], patched["status"]) == ("OFFLINE", "ONLINE", "ONLINE")
    assert site.streams.statuses == 0


async def test_user_id_filters_the_list(site: Site) -> None:
    stream = await site.create()
    client = site.client
    assert len((await client.get("/v1/streams", params={"user_id": stream["author"]})).json()["data"]) == 1
    assert (await client.get("/v1/streams", params={"user_id": "usr_other"})).json()["data"] == []


async def test_a_long_data_uri_is_shortened_in_lists_only(site: Site) -> None:
    image = "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(4000) + b"IEND").decode()
    stream = await site.create(ip_adapter_style_image_url=image)
    assert stream["params"]["ip_adapter_style_image_url"] == image
    listed = (await site.client.get("/v1/streams")).json()["data"][0]
    assert len(listed["params"]["ip_adapter_style_image_url"]) < 100


async def test_an_update_of_something_else_does_not_answer_with_the_whole_data_uri(site: Site) -> None:
    images = [
        "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + bytes(n) + b"IEND").decode()
        for n in (4000, 5000)
    ]
    stream = await site.create(model_id="stabilityai/sdxl-turbo", ip_adapter_style_image_url=images[0])
    path = f"/v1/streams/{stream['id']}"
    answer = (await site.client.patch(path, json={"params": {"prompt": "new"}})).json()
    assert len(answer["params"]["ip_adapter_style_image_url"]) < 100
    again = (await site.client.patch(path, json={"params": answer["params"]})).json()
    assert again["applied"] == "unchanged"
    changed = (await site.client.patch(path, json={"params": {"ip_adapter_style_image_url": images[1]}})).json()
    assert changed["params"]["ip_adapter_style_image_url"] == images[1]
    read = (await site.client.get(path)).json()
    assert read["params"]["ip_adapter_style_image_url"] == images[1]


async def test_delete_by_query_and_then_404(site: Site) -> None:
    stream = await site.create()
    first = await site.client.delete("/v1/streams", params={"id": stream["id"]})
    assert (first.status_code, first.json()) == (200, {"success": True, "data": {}})
    second = await site.client.delete("/v1/streams", params={"id": stream["id"]})
    assert (second.status_code, second.json()["code"]) == (404, "STREAMS/NOT_FOUND")


async def test_delete_by_path(site: Site) -> None:
    stream = await site.create()
    assert (await site.client.delete(f"/v1/streams/{stream['id']}")).status_code == 200
    assert site.streams.records == {}


@pytest.mark.parametrize("by", ["path", "query"])
async def test_a_delete_that_asks_for_a_dry_run_deletes_nothing(site: Site, by: str) -> None:
    stream = await site.create()
    path, query = f"/v1/streams/{stream['id']}", {"dry_run": "true"}
    if by == "path":
        answer = await site.client.delete(path, params=query)
    else:
        answer = await site.client.delete("/v1/streams", params=query | {"id": stream["id"]})
    assert answer.status_code == 400
    assert "nothing was deleted" in answer.json()["error"]
    assert (await site.client.get(path)).status_code == 200


async def test_delete_without_id_is_400_and_names_it(site: Site) -> None:
    answer = await site.client.delete("/v1/streams")
    assert answer.status_code == 400
    assert answer.json()["details"][0]["field"] == "id"


async def test_update_says_what_it_did(site: Site) -> None:
    stream = await site.create()
    body = (await site.client.patch(f"/v1/streams/{stream['id']}", json={"params": {"prompt": "x"}})).json()
    assert (body["applied"], body["changed"], body["revision"]) == ("hot", ["prompt"], 2)
    assert body["params"]["prompt"] == "x"


async def test_a_client_that_sends_back_what_it_got_is_not_warned(site: Site) -> None:
    stream = await site.create()
    path = f"/v1/streams/{stream['id']}"
    first = (await site.client.patch(path, json=stream)).json()
    second = (await site.client.patch(path, json={**first, "params": {**first["params"], "prompt": "x"}})).json()
    made = (await site.client.post("/v1/streams", json=second)).json()
    assert [answer["warnings"] for answer in (first, second, made)] == [[], [], []]
    assert (first["applied"], second["applied"]) == ("unchanged", "hot")


async def test_a_client_that_sends_another_name_is_warned(site: Site) -> None:
    stream = await site.create()
    answer = await site.client.patch(f"/v1/streams/{stream['id']}", json={**stream, "name": "another"})
    assert answer.json()["warnings"] == ["name is fixed when a stream is created and was ignored"]


async def test_update_keeps_what_is_not_sent(site: Site) -> None:
    stream = await site.create(seed=5, t_index_list=[1, 2])
    body = (await site.client.patch(f"/v1/streams/{stream['id']}", json={"params": {"prompt": "x"}})).json()
    assert body["params"] == {**stream["params"], "prompt": "x"}


async def test_dry_run_stores_nothing(site: Site) -> None:
    stream = await site.create()
    path = f"/v1/streams/{stream['id']}"
    answer = await site.client.patch(path, params={"dry_run": "true"}, json={"params": {"skip_diffusion": True}})
    assert (answer.json()["applied"], answer.json()["dry_run"]) == ("reload", True)
    assert (await site.client.get(path)).json()["params"]["skip_diffusion"] is False


async def test_a_dry_run_of_a_create_makes_no_stream_and_names_none(site: Site) -> None:
    stream = await site.create(prompt="x")
    answer = await site.client.post(
        "/v1/streams?dry_run=true", json={**CREATE, "params": {**CREATE["params"], "prompt": "x"}}
    )
    assert answer.status_code == 200
    planned = answer.json()
    own = ("id", "stream_key", "created_at", "output_playback_id", "output_stream_url")
    urls = ("whip_url", "whep_url", "hls_url")
    assert planned == stream | dict.fromkeys((*own, *urls)) | {"dry_run": True}
    assert [each["id"] for each in (await site.client.get("/v1/streams")).json()["data"]] == [stream["id"]]


async def test_a_dry_run_of_a_bad_create_is_refused_as_the_create_is(site: Site) -> None:
    bad = {"params": {"width": 1}}
    tried = await site.client.post("/v1/streams?dry_run=true", json=bad)
    meant = await site.client.post("/v1/streams", json=bad)
    assert (tried.status_code, tried.json()["details"]) == (meant.status_code, meant.json()["details"])
    assert tried.status_code == 400


async def test_a_dry_run_by_the_old_path_stores_nothing(site: Site) -> None:
    stream = await site.create()
    path = f"/beta/streams/{stream['id']}/prompts?dry_run=true"
    answer = await site.client.post(path, json={"params": {"prompt": "never"}})
    assert (answer.status_code, answer.json()["message"]) == (200, "parameters hot")
    assert (await site.client.get(f"/v1/streams/{stream['id']}")).json() == stream


async def test_a_dry_run_that_is_no_boolean_is_400(site: Site) -> None:
    stream = await site.create()
    assert (await site.client.post("/v1/streams?dry_run=perhaps", json=CREATE)).status_code == 400
    answer = await site.client.patch(f"/v1/streams/{stream['id']}?dry_run=perhaps", json={"params": {}})
    assert answer.status_code == 400
    assert answer.json()["details"][0]["field"] == "dry_run"


async def test_a_refused_change_is_409(site: Site) -> None:
    stream = await site.create()
    site.streams.failure = Conflict("the size cannot change while live")
    answer = await site.client.patch(f"/v1/streams/{stream['id']}", json={"params": {"width": 640}})
    assert (answer.status_code, answer.json()["code"]) == (409, "STREAMS/CONFLICT")


async def test_another_owners_stream_is_403(site: Site) -> None:
    stream = await site.create()
    other = site.client_with(site.keys.create("other", operator=False))
    path = f"/v1/streams/{stream['id']}"
    answers = [
        await other.get(path),
        await other.patch(path, json={"params": {"prompt": "x"}}),
        await other.delete(path),
        await other.delete("/v1/streams", params={"id": stream["id"]}),
        await other.get(path + "/snapshot.jpg"),
        await other.get(path + "/events"),
        await other.post(f"/beta/streams/{stream['id']}/prompts", json={"params": {"prompt": "x"}}),
    ]
    assert {answer.status_code for answer in answers} == {403}
    assert site.streams.records[stream["id"]].params.prompt == "flowers"


async def test_an_owner_sees_only_own_streams(site: Site) -> None:
    await site.create()
    other = site.client_with(site.keys.create("other", operator=False))
    own = (await other.post("/v1/streams", json=CREATE)).json()
    assert [stream["id"] for stream in (await other.get("/v1/streams")).json()["data"]] == [own["id"]]


async def test_an_operator_touches_all_streams(site: Site) -> None:
    owner = site.client_with(site.keys.create("other", operator=False))
    stream = (await owner.post("/v1/streams", json=CREATE)).json()
    assert (await site.client.delete(f"/v1/streams/{stream['id']}")).status_code == 200


async def test_status_before_publishing(site: Site) -> None:
    stream = await site.create()
    body = (await site.client.get(f"/v1/streams/{stream['id']}/status")).json()
    assert (body["success"], body["error"], body["data"]["state"]) == (True, None, "OFFLINE")
    assert "whep_url" not in body["data"]["gateway_status"]


async def test_status_while_live(site: Site) -> None:
    stream = await site.create()
    await site.publish(stream)
    data = (await site.client.get(f"/v1/streams/{stream['id']}/status")).json()["data"]
    assert data["gateway_status"]["whep_url"] == stream["whep_url"]
    assert data["inference_status"]["fps"] == data["inference_status"]["output_fps"] == 29.5
    assert data["input_status"]["fps"] == data["inference_status"]["input_fps"] == 29.97
    assert data["latency_ms"] == {"total": {"p50": 12.3, "p95": 45.6}}


async def test_status_moments_are_integer_milliseconds(site: Site) -> None:
    stream = await site.create()
    await site.publish(stream)
    data = (await site.client.get(f"/v1/streams/{stream['id']}/status")).json()["data"]
    moments = [data["start_time"], data["input_status"]["last_input_time"], data["inference_status"]["last_error_time"]]
    assert all(type(moment) is int and moment > 1_700_000_000_000 for moment in moments)


async def test_status_tells_a_lossy_publisher(site: Site) -> None:
    stream = await site.create()
    await site.publish(stream)
    data = (await site.client.get(f"/v1/streams/{stream['id']}/status")).json()["data"]
    statistics = data["gateway_status"]["ingest_metrics"]["stats"]
    assert (statistics["conn_quality"], statistics["track_stats"][0]["packet_loss_pct"]) == ("bad", 10.0)


async def test_params_hash_is_md5_of_sorted_json(site: Site) -> None:
    stream = await site.create()
    inference = (await site.client.get(f"/v1/streams/{stream['id']}/status")).json()["data"]["inference_status"]
    text = json.dumps(inference["last_params"], sort_keys=True)
    assert inference["last_params_hash"] == hashlib.md5(text.encode()).hexdigest()


async def test_status_needs_no_key(site: Site) -> None:
    stream = await site.create()
    assert (await site.client_with(None).get(f"/v1/streams/{stream['id']}/status")).status_code == 200


async def test_status_needs_a_key_where_the_setting_says_so(make_site: Callable[..., Site]) -> None:
    site = make_site(anonymous_status=False)
    stream = await site.create()
    path = f"/v1/streams/{stream['id']}/status"
    assert (await site.client_with(None).get(path)).status_code == 401
    assert (await site.client_with(KEY).get(path)).status_code == 200


async def test_the_old_prompts_endpoint_merges(site: Site) -> None:
    stream = await site.create(seed=9)
    answer = await site.client.post(
        f"/beta/streams/{stream['id']}/prompts",
        json={"pipeline": "streamdiffusion", "model_id": "stabilityai/sdxl-turbo", "params": {"prompt": "x"}},
    )
    body = answer.json()
    assert (answer.status_code, body["success"], body["was_censored"]) == (200, True, False)
    params = site.streams.records[stream["id"]].params
    assert (params.prompt, params.seed) == ("x", 9)


async def test_the_playground_is_told_by_its_client_source(site: Site) -> None:
    answer = await site.client.post("/v1/streams", json=CREATE, headers={"x-client-source": "playground"})
    assert answer.json()["from_playground"] is True


async def test_warnings_come_back_and_are_logged_once(site: Site) -> None:
    stream = await site.create()
    body = {"params": {"prompt": "x", "no_such_parameter": 1}}
    with structlog.testing.capture_logs() as lines:
        answers = [await site.client.patch(f"/v1/streams/{stream['id']}", json=body) for _ in range(3)]
    assert all("no_such_parameter" in answer.json()["warnings"][0] for answer in answers)
    noted = [line for line in lines if line.get("warnings")]
    assert [line["stream_id"] for line in noted] == [stream["id"]]
