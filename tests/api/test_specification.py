"""The OpenAPI document against what is really sent."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import jsonschema_rs
import pytest

from sdstream.api.operations import OPERATIONS
from sdstream.api.specification import build_document
from sdstream.params import ModelTable, apply_update, parse_create
from sdstream.settings import Settings
from tests.api.conftest import CREATE, OFFER, Site

DOCUMENT = build_document()
API_PAGE = Path(__file__).parents[2] / "docs" / "api.md"
METHODS = {"get", "post", "patch", "delete"}


def operation(operation_id: str) -> dict[str, Any]:
    described = OPERATIONS[operation_id]
    return DOCUMENT["paths"][described.path][described.method.lower()]


def conform(operation_id: str, answer: httpx.Response) -> None:
    """Insist that `answer` is one of those that the document describes."""
    responses = operation(operation_id)["responses"]
    assert str(answer.status_code) in responses, f"{operation_id} does not document {answer.status_code}"
    described = responses[str(answer.status_code)]
    for name in described["headers"]:
        assert name in answer.headers, f"{operation_id} {answer.status_code} lacks the header {name}"
    content = described.get("content")
    if content is None:
        assert answer.content == b""
        return
    media_type = answer.headers["content-type"].split(";")[0]
    schema = {**content[media_type]["schema"], "components": DOCUMENT["components"]}
    if media_type == "application/json":
        jsonschema_rs.Draft202012Validator(schema).validate(answer.json())


async def conduct(site: Site) -> list[tuple[str, httpx.Response]]:
    """One good call of nearly every operation, and some bad ones."""
    client, nobody = site.client, site.client_with(None)
    sdp = {"Content-Type": "application/sdp"}
    fragment = {"Content-Type": "application/trickle-ice-sdpfrag"}
    created = await client.post("/v1/streams", json=CREATE)
    stream = created.json()
    path = f"/v1/streams/{stream['id']}"
    calls = [
        ("create_stream", created),
        ("create_stream", await client.post("/v1/streams?dry_run=true", json=CREATE)),
        ("create_stream", await client.post("/v1/streams", json={"params": {"width": 1}})),
        ("create_stream", await nobody.post("/v1/streams", json=CREATE)),
        ("list_streams", await client.get("/v1/streams")),
        ("get_stream", await client.get(path)),
        ("get_stream", await client.get("/v1/streams/no")),
        ("get_stream_status", await nobody.get(path + "/status")),
        ("update_stream", await client.patch(path, json={"params": {"prompt": [["a", 1], ["b", 0.5]]}})),
        ("update_stream", await client.patch(path, json=[])),
        ("update_prompts", await client.post(f"/beta/streams/{stream['id']}/prompts", json={"params": {"delta": 1}})),
        ("get_snapshot", await client.get(path + "/snapshot.jpg")),
        ("get_tap", await client.get(path + "/tap/canny.jpg")),
        ("watch", await nobody.post(stream["whep_url"], content=OFFER, headers=sdp)),
        ("publish", await nobody.post(stream["whip_url"], content=OFFER)),
    ]
    published = await nobody.post(stream["whip_url"], content=OFFER, headers=sdp)
    watched = await nobody.post(stream["whep_url"], content=OFFER, headers=sdp)
    session, view = published.headers["location"], watched.headers["location"]
    calls += [
        ("publish", published),
        ("watch", watched),
        ("get_stream_status", await nobody.get(path + "/status")),
        ("get_snapshot", await client.get(path + "/snapshot.jpg")),
        ("watch_motion_jpeg", await nobody.head(stream["whep_url"].replace("/whep", "/pictures.mjpeg"))),
        ("trickle_publish", await nobody.patch(session, content="a=x", headers=fragment)),
        ("trickle_watch", await nobody.patch(view, content="a=x", headers=fragment)),
        ("end_publish_session", await nobody.delete(session)),
        ("end_publish_session", await nobody.delete(session)),
        ("end_watch_session", await nobody.delete(view)),
        ("follow_events", await client.head(path + "/events")),
        ("list_models", await client.get("/v1/models")),
        ("list_parameters", await nobody.get("/v1/parameters")),
        ("get_capacity", await client.get("/v1/capacity")),
        ("create_api_key", await client.post("/v1/api-key", json={"name": "x"})),
        ("get_version", await nobody.get("/v1/version")),
        ("get_health", await nobody.get("/health")),
        ("get_readiness", await nobody.get("/ready")),
        ("ping", await nobody.get("/ping")),
        ("get_metrics", await nobody.get("/metrics")),
        *await outputs(site, stream),
        ("delete_stream_by_path", await client.delete(path)),
        ("delete_stream", await client.delete("/v1/streams", params={"id": (await site.create())["id"]})),
        ("delete_stream", await client.delete("/v1/streams")),
    ]
    return calls


async def outputs(site: Site, stream: dict[str, Any]) -> list[tuple[str, httpx.Response]]:
    """Calls about HLS and recordings, of which there are a whole and an unfinished one."""
    client, path = site.client, f"/v1/streams/{stream['id']}/recordings"
    folder = site.streams.recordings.folder / stream["id"]
    folder.mkdir(parents=True)
    (folder / "20260102-030405.mp4").write_bytes(bytes(100))
    (folder / "20260102-040506.mp4.recording").write_bytes(bytes(100))
    whole, unfinished = f"{path}/20260102-030405.mp4", f"{path}/20260102-040506.mp4"
    hls = f"/hls/{stream['output_playback_id']}"
    calls = [
        ("get_ingest", await client.get(f"/v1/streams/{stream['id']}/ingest")),
        ("get_ingest", await site.client_with(None).get(f"/v1/streams/{stream['id']}/ingest")),
        ("list_recordings", await client.get(path)),
        ("list_recordings", await site.client_with(None).get(path)),
        ("get_recording", await client.get(whole)),
        ("get_recording", await client.get(whole, headers={"Range": "bytes=10-19"})),
        ("get_recording", await client.get(unfinished)),
        ("get_recording", await client.get(f"{path}/no.mp4")),
        ("delete_recording", await client.delete(unfinished)),
        ("delete_recording", await client.delete(whole)),
        ("delete_recording", await client.delete(whole)),
        ("watch_hls", await site.client_with(None).get(f"{hls}/index.m3u8")),
        ("watch_hls", await site.client_with(None).get(f"{hls}/segment-1.m4s")),
        ("watch_motion_jpeg", await site.client_with(None).get("/playback/pb_unknown/pictures.mjpeg")),
    ]
    assert [answer.status_code for _, answer in calls[:11]] == [200, 401, 200, 401, 200, 206, 409, 404, 409, 200, 404]
    assert [entry["finished"] for entry in calls[2][1].json()["data"]] == [True, False]
    return calls


async def test_what_is_sent_is_what_is_documented(make_site: Callable[..., Site]) -> None:
    calls = await conduct(make_site(api_key_endpoint=True))
    for operation_id, answer in calls:
        conform(operation_id, answer)
    assert {operation_id for operation_id, _ in calls} == set(OPERATIONS)


async def test_no_member_is_sent_that_is_not_documented(make_site: Callable[..., Site]) -> None:
    for operation_id, answer in await conduct(make_site(api_key_endpoint=True)):
        described = (
            operation(operation_id)["responses"][str(answer.status_code)].get("content", {}).get("application/json")
        )
        if described is not None and answer.content:
            schema = close({**described["schema"], "components": DOCUMENT["components"]})
            jsonschema_rs.Draft202012Validator(schema).validate(answer.json())


def close(node: Any) -> Any:
    """A schema whose objects have no members but those that it names."""
    if isinstance(node, list):
        return [close(item) for item in node]
    if not isinstance(node, dict):
        return node
    closed = {name: close(value) for name, value in node.items()}
    return (
        closed | {"additionalProperties": False} if node.get("type") == "object" and node.get("properties") else closed
    )


@pytest.mark.parametrize("model_id", ModelTable.from_settings(Settings.model_validate({})).ids())
async def test_a_stream_of_each_model_conforms(site: Site, model_id: str) -> None:
    answer = await site.client.post("/v1/streams", json={"params": {"model_id": model_id}})
    conform("create_stream", answer)


async def test_the_document_is_served(site: Site) -> None:
    assert (await site.client_with(None).get("/openapi.json")).json() == DOCUMENT


def test_every_reference_leads_somewhere() -> None:
    def walk(node: Any) -> None:
        if isinstance(node, dict):
            reference = node.get("$ref")
            if isinstance(reference, str):
                assert reference.removeprefix("#/components/schemas/") in DOCUMENT["components"]["schemas"]
            for child in node.values():
                walk(child)
        elif isinstance(node, list):
            for child in node:
                walk(child)

    walk(DOCUMENT)


@pytest.mark.parametrize("operation_id", OPERATIONS)
def test_examples_fit_their_schemas(operation_id: str) -> None:
    described = operation(operation_id)
    contents = [response.get("content", {}) for response in described["responses"].values()]
    contents.append(described.get("requestBody", {}).get("content", {}))
    for content in contents:
        for body in content.values():
            if "example" in body:
                schema = {**body["schema"], "components": DOCUMENT["components"]}
                jsonschema_rs.Draft202012Validator(schema).validate(body["example"])


def test_request_examples_are_accepted() -> None:
    models = ModelTable.from_settings(Settings.model_validate({}))
    create = operation("create_stream")["requestBody"]["content"]["application/json"]["example"]
    update = operation("update_stream")["requestBody"]["content"]["application/json"]["example"]
    assert apply_update(parse_create(create, models).params, update, models).params.prompt == "neon rain"


def test_extensions_are_marked() -> None:
    daydream = {"/v1/streams", "/v1/streams/{id}", "/v1/streams/{id}/status", "/v1/api-key"}
    for path, entries in DOCUMENT["paths"].items():
        ours = path.startswith(("/live/", "/playback/", "/beta/")) and not path.endswith(".mjpeg")
        ours = ours or path in daydream
        for entry in entries.values():
            assert entry.get("x-sdstream-extension", False) is not ours


def test_every_operation_is_in_the_documentation() -> None:
    text = API_PAGE.read_text("utf-8")
    missing = [name for name, entry in OPERATIONS.items() if f"`{entry.method} {entry.path}`" not in text]
    assert missing == []
