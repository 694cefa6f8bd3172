"""What sdstream offers beyond Daydream."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from sdstream.api.context import Context
from sdstream.api.routes.extensions import ExtensionRoutes
from sdstream.errors import NoPictureYet
from sdstream.worker.ports import WorkerHealth, WorkerPhase
from tests.api.conftest import Site
from tests.support.hollow import write_hollow_model


async def test_a_snapshot_is_a_jpeg_that_is_not_kept(site: Site) -> None:
    stream = await site.create()
    await site.publish(stream)
    answer = await site.client.get(f"/v1/streams/{stream['id']}/snapshot.jpg")
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.content.startswith(b"\xff\xd8")


async def test_no_snapshot_before_the_first_picture(site: Site) -> None:
    stream = await site.create()
    answer = await site.client.get(f"/v1/streams/{stream['id']}/snapshot.jpg")
    assert (answer.status_code, answer.json()["code"]) == (404, NoPictureYet.code)


async def test_a_tap_is_a_jpeg_of_a_processor_that_exists_and_has_made_something(site: Site) -> None:
    stream = await site.create()
    await site.publish(stream)
    path = f"/v1/streams/{stream['id']}/tap"
    answer = await site.client.get(f"{path}/canny.jpg")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/jpeg")
    assert answer.headers["cache-control"] == "no-store"
    for name in ("depth", "no_such_thing"):
        answer = await site.client.get(f"{path}/{name}.jpg")
        assert answer.status_code == 404
        assert name in answer.json()["error"]


async def test_a_snapshot_is_encoded_once_for_all_who_wait(site: Site) -> None:
    stream = await site.create()
    await site.publish(stream)
    client = site.client
    answers = await asyncio.gather(*(client.get(f"/v1/streams/{stream['id']}/snapshot.jpg") for _ in range(10)))
    assert {answer.status_code for answer in answers} == {200}
    assert site.streams.snapshots < 10


async def test_a_later_snapshot_is_a_new_one(site: Site) -> None:
    stream = await site.create()
    await site.publish(stream)
    for _ in range(2):
        await site.client.get(f"/v1/streams/{stream['id']}/snapshot.jpg")
    assert site.streams.snapshots == 2


async def test_models_name_the_default(site: Site) -> None:
    models = (await site.client.get("/v1/models")).json()["data"]
    assert {model["id"] for model in models} == set(site.streams.models.ids())
    assert [model["id"] for model in models if model["default"]] == [site.settings.default_model]


async def test_models_tell_what_is_on_this_machine_and_where_to_operators_alone(
    make_site: Callable[..., Site], tmp_path: Path
) -> None:
    here = tmp_path / "models"
    write_hollow_model(here / "one")
    (write_hollow_model(here / "two") / "scheduler/scheduler_config.json").unlink()
    (here / "lllyasviel/Annotators").mkdir(parents=True)
    (here / "lllyasviel/Annotators/ControlNetHED.pth").write_bytes(bytes(10))
    site = make_site(
        data_dir=tmp_path,
        offline=True,
        models={f"me/{name}": {"source": str(here / name), "family": "sd15"} for name in ("one", "two")},
        controlnets={"me/net": {"source": "me/net", "family": "sd15", "preprocessor": "hed"}},
    )
    found = (await site.client.get("/v1/models")).json()
    models = {entry["id"]: entry for entry in found["data"]}
    size = sum(file.stat().st_size for file in (here / "one").rglob("*") if file.is_file())
    assert (models["me/one"]["present"], models["me/one"]["bytes"]) == (True, size)
    assert models["me/one"]["path"] == str(here / "one")
    missing = "scheduler/scheduler_config.json"
    assert (models["me/two"]["present"], models["me/two"]["missing"]) == (False, [missing])
    assert models["me/two"]["problem"] == f"{here / 'two' / missing} is missing"
    (net,) = [entry for entry in found["controlnets"] if entry["id"] == "me/net"]
    assert (net["present"], net["missing"]) == (False, ["config.json", "diffusion_pytorch_model.safetensors"])
    assert (net["preprocessor"], net["fetched_when_needed"]) == ("hed", False)
    networks = {entry["name"]: entry for entry in found["processor_networks"]}
    assert (networks["hed"]["present"], networks["hed"]["bytes"]) == (True, 10)
    assert networks["depth"]["processors"] == ["depth", "depth_tensorrt"]
    assert {(entry["family"], entry["type"]) for entry in found["ip_adapters"]} >= {("sd15", "regular")}
    key = site.keys.create("guest", author="usr_guest", operator=False)
    guest = (await site.client_with(key).get("/v1/models")).json()
    told = [entry for part in ("data", "controlnets") for entry in guest[part]]
    assert {entry[name] for entry in told for name in ("path", "problem")} == {None}


async def test_the_catalogue_has_every_parameter_of_a_stream(site: Site) -> None:
    names = {entry["name"] for entry in (await site.client.get("/v1/parameters")).json()["data"]}
    assert set((await site.create())["params"]) <= names


async def test_capacity_tells_the_limits(site: Site) -> None:
    data = (await site.client.get("/v1/capacity")).json()["data"]
    assert (data["max_streams"], data["accepting"], data["worker_phase"]) == (16, True, "ready")


@pytest.mark.parametrize(
    ("phase", "warming", "ready", "ping"),
    [
        (WorkerPhase.READY, False, 200, 200),
        (WorkerPhase.READY, True, 503, 204),
        (WorkerPhase.STARTING, True, 503, 204),
        (WorkerPhase.RESTARTING, False, 503, 204),
        (WorkerPhase.FAILED, True, 503, 503),
        (WorkerPhase.STOPPED, False, 503, 503),
    ],
)
async def test_health_ready_and_ping_follow_the_worker(
    site: Site, phase: WorkerPhase, warming: bool, ready: int, ping: int
) -> None:
    site.streams.health = WorkerHealth(phase, is_warming=warming)
    with capture_logs() as lines:
        answers = {path: await site.client_with(None).get(path) for path in ("/health", "/ready", "/ping")}
    assert [line for line in lines if line["log_level"] != "debug"] == [], "a probe that is answered is no fault"
    assert {path: answer.status_code for path, answer in answers.items()} == {
        "/health": 200,
        "/ready": ready,
        "/ping": ping,
    }
    assert answers["/health"].json()["worker"]["phase"] == phase.value


async def test_health_tells_of_defects_that_were_caught(site: Site) -> None:
    site.streams.caught = 3
    body = (await site.client_with(None).get("/health")).json()
    assert (body["status"], body["faults"]) == ("ok", 3)


async def test_metrics_are_prometheus_text(site: Site) -> None:
    await site.create()
    answer = await site.client_with(None).get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert "sdstream_streams 1.0" in answer.text.splitlines()


def routes(site: Site, heartbeat: float) -> ExtensionRoutes:
    context = Context(site.streams, site.settings, site.keys, site.clock)
    return ExtensionRoutes(context, heartbeat_seconds=heartbeat)


def follow(site: Site, stream_id: str, after: int | None = None, heartbeat: float = 60) -> Any:
    return routes(site, heartbeat).lines(site.streams.events(stream_id, after))


async def test_an_event_is_id_name_and_data(site: Site) -> None:
    stream = await site.create()
    lines = follow(site, stream["id"], after=0)
    assert await anext(lines) == b"retry: 2000\n\n"
    site.streams.emit(stream["id"], "state", state="ONLINE", previous="LOADING", reason="")
    fields = dict(line.split(": ", 1) for line in (await anext(lines)).decode().strip().split("\n"))
    assert (fields["id"], fields["event"]) == ("1", "state")
    data = json.loads(fields["data"])
    assert (data["state"], data["previous"], data["stream_id"]) == ("ONLINE", "LOADING", stream["id"])
    await lines.aclose()


async def test_silence_is_filled_with_comments(site: Site) -> None:
    stream = await site.create()
    lines = follow(site, stream["id"], heartbeat=0.01)
    await anext(lines)
    assert (await anext(lines)).startswith(b":")
    assert (await anext(lines)).startswith(b":")
    await lines.aclose()


async def test_a_follower_who_leaves_is_forgotten(site: Site) -> None:
    stream = await site.create()
    lines = follow(site, stream["id"], heartbeat=0.01)
    await anext(lines)
    await anext(lines)
    assert site.streams.followers == 1
    await lines.aclose()
    assert site.streams.followers == 0


async def test_events_resume_after_the_last_one_seen_and_end_with_the_stream(site: Site) -> None:
    stream = await site.create()
    for count in range(3):
        site.streams.emit(stream["id"], "viewers", count=count)
    site.streams.emit(stream["id"], "deleted", reason="requested")
    answer = await site.client.get(f"/v1/streams/{stream['id']}/events", headers={"Last-Event-ID": "2"})
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert [line for line in answer.text.splitlines() if line.startswith("id: ")] == ["id: 3", "id: 4"]


@pytest.mark.parametrize("given", ["x", "-1", "9" * 30, "1.5", ""])
async def test_a_foreign_last_event_id_counts_as_none(site: Site, given: str) -> None:
    stream = await site.create()
    site.streams.emit(stream["id"], "viewers", count=1)

    async def delete_soon() -> None:
        await site.streams.followed.wait()
        site.streams.emit(stream["id"], "deleted", reason="requested")

    task = asyncio.create_task(delete_soon())
    answer = await site.client.get(f"/v1/streams/{stream['id']}/events", headers={"Last-Event-ID": given})
    await task
    assert [line for line in answer.text.splitlines() if line.startswith("event: ")] == ["event: deleted"]


async def test_events_of_an_unknown_stream_are_404(site: Site) -> None:
    assert (await site.client.get("/v1/streams/unknown/events")).status_code == 404
