"""The parts of jobs that need no worker: events, limits, buckets, the builder's words."""

import contextlib
import errno
import json
import sys
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from sdstream.api.operations import OPERATIONS
from sdstream.clock import SystemClock
from sdstream.errors import CommandFailed, InvalidParams, RequestError, Unavailable
from sdstream.file_errors import DiskFull
from sdstream.gateway.routes import GatewayRoutes
from sdstream.job_errors import BakeFailed, InvalidJob, JobFailed, NotMedia, ResultTooLarge, StorageFailed
from sdstream.jobs.bake import BakeAction, parse_progress
from sdstream.jobs.directory import MemoryDirectory, SessionEntry
from sdstream.jobs.inputs import BakeInput, BucketConfig, Job, RenderInput, Source, parse_job, session_id_of
from sdstream.jobs.outputs import (
    MAX_EVENT_BYTES,
    OutputBudget,
    error_event,
    error_of,
    json_safe,
    make_event,
    stretched_interval,
)
from sdstream.jobs.pictures import read_picture
from sdstream.jobs.render import RenderAction
from sdstream.jobs.sessions import Limits, decide_end
from sdstream.jobs.sources import fetch_source
from sdstream.jobs.storage import Store, find_bucket
from sdstream.params import ModelTable
from sdstream.settings import Settings
from tests.media.test_file_times import film

ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary() | st.dates(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.integers(), inner) | st.tuples(inner),
    max_leaves=20,
)


@settings(max_examples=50, deadline=None)
@given(ANYTHING)
def test_whatever_a_job_says_is_strict_json_and_utf_8(value: Any) -> None:
    text = json.dumps(json_safe(value), allow_nan=False, ensure_ascii=False)
    assert json.loads(text.encode()) == json_safe(value)


def test_a_lone_surrogate_is_escaped() -> None:
    assert json_safe({"\ud800": "a\udc00b"}) == {"\\ud800": "a\\udc00b"}


def test_an_event_that_no_chunk_takes_is_refused() -> None:
    with pytest.raises(ResultTooLarge):
        make_event("status", text="x" * MAX_EVENT_BYTES)


def test_a_week_of_status_events_stays_within_what_the_platform_keeps() -> None:
    age, count = 0.0, 0
    while age < 7 * 24 * 3600:
        age += stretched_interval(5.0, age)
        count += 1
    assert 1000 < count < 2000
    budget = OutputBudget()
    event = make_event("status", **{f"member_{number}": "x" * 20 for number in range(20)})
    assert all(budget.allows(event) for _ in range(count))


def test_an_output_that_is_full_takes_no_more() -> None:
    budget = OutputBudget(100)
    assert budget.allows({"event": "x" * 40})
    assert not budget.allows({"event": "x" * 60})


def test_an_error_is_one_string_with_its_code_and_comes_back_as_its_class() -> None:
    details = [{"field": f"params.{name}", "problem": "wrong", "suggestion": None} for name in ("width", "seed")]
    event = error_event(InvalidParams("params.width: wrong (and 1 more)", details=details))
    assert event["error"] == "STREAMS/INVALID_PARAMS: params.width: wrong (and 1 more); params.seed: wrong"
    known = error_of(JobFailed("words", job_id="1", error_code="STREAMS/INVALID_PARAMS"))
    assert type(known) is InvalidParams
    unknown = JobFailed("words", job_id="1", error_code="TIMED_OUT")
    assert error_of(unknown) is unknown
    assert "secret" not in str(error_event(RuntimeError("secret")))


LIMITS = Limits(max_seconds=100, idle_seconds=10, status_seconds=5)


@pytest.mark.parametrize(
    ("age", "idle", "reason"), [(0, 0, None), (99, 9, None), (50, 10, "idle"), (100, 0, "max_seconds")]
)
def test_when_a_session_ends_by_itself(age: float, idle: float, reason: str | None) -> None:
    assert decide_end(age, idle, LIMITS) == reason


def test_a_session_id_follows_from_the_job() -> None:
    job = {"id": "sync-1/ü", "input": {"action": "start"}}
    assert session_id_of(parse_job(job)) == session_id_of(parse_job(job)) == "str_sync-1--"
    assert (
        session_id_of(parse_job({"id": "1", "input": {"action": "start", "session_id": "my-session"}})) == "my-session"
    )


def test_an_s3_config_that_is_wrong_does_not_show_its_secret() -> None:
    config = {"accessId": "id", "accessSecret": "s3cret", "endpointUrl": "ftp://x"}
    with pytest.raises(InvalidJob, match=r"s3Config\.endpointUrl") as refused:
        parse_job({"id": "1", "input": {"action": "list"}, "s3Config": config})
    assert "s3cret" not in str(refused.value) + str(refused.value.details)
    assert "s3cret" not in repr(BucketConfig.model_validate(config | {"endpointUrl": "https://x"}))


def entry(mailbox: str) -> SessionEntry:
    return SessionEntry(
        session_id="session-1",
        mailbox=mailbox,
        worker_id="w",
        job_id="j",
        control_url="http://x",
        token="sds_secret",
        author="a",
        stream_key="stk_secret",
        playback_id="pb",
        created_at=0.0,
    )


async def test_whoever_has_a_session_keeps_it() -> None:
    directory = MemoryDirectory()
    first, second = entry("one"), entry("two")
    assert await directory.claim(first) is None
    assert await directory.claim(second) is first
    await directory.release(second)
    assert await directory.find_by_token("pb") is first
    await directory.release(first)
    assert await directory.find("session-1") is None
    assert "secret" not in repr(first)


KEYS = {"BUCKET_ACCESS_KEY_ID": "id", "BUCKET_SECRET_ACCESS_KEY": "s3cret"}


@pytest.mark.parametrize(
    ("variables", "endpoint", "name", "region", "links"),
    [
        (
            {"BUCKET_ENDPOINT_URL": "https://films.s3.eu-west-1.amazonaws.com"},
            "https://s3.eu-west-1.amazonaws.com",
            "films",
            "eu-west-1",
            True,
        ),
        (
            {"BUCKET_ENDPOINT_URL": "https://s3api-eu-ro-1.runpod.io/", "BUCKET_NAME": "volume-id"},
            "https://s3api-eu-ro-1.runpod.io",
            "volume-id",
            "EU-RO-1",
            False,
        ),
        ({"BUCKET_ENDPOINT_URL": "http://minio:9000/films"}, "http://minio:9000", "films", "us-east-1", True),
        (
            {"BUCKET_ENDPOINT_URL": "https://account.r2.cloudflarestorage.com/films", "BUCKET_REGION": "auto"},
            "https://account.r2.cloudflarestorage.com",
            "films",
            "auto",
            True,
        ),
    ],
)
def test_a_bucket_is_understood(variables: dict[str, str], endpoint: str, name: str, region: str, links: bool) -> None:
    bucket = find_bucket(None, variables | KEYS)
    assert bucket is not None
    assert (bucket.endpoint, bucket.name, bucket.region, bucket.links) == (endpoint, name, region, links)
    assert "s3cret" not in repr(bucket)


def test_a_bucket_without_keys_or_a_name_is_an_error_and_none_is_none() -> None:
    assert find_bucket(None, KEYS) is None
    with pytest.raises(StorageFailed, match="BUCKET_ACCESS_KEY_ID"):
        find_bucket(None, {"BUCKET_ENDPOINT_URL": "https://s3.example.org/b"})
    with pytest.raises(StorageFailed, match="no name"):
        find_bucket(None, {"BUCKET_ENDPOINT_URL": "https://s3.example.org"} | KEYS)


@pytest.mark.parametrize(
    "url", ["http://[", "http://127.0.0.1:99999/b", "https:///b", "http://a name/b", "http://a_b", "ftp://x/b"]
)
def test_a_wrong_address_of_a_bucket_is_told_before_boto3_stumbles_over_it(url: str) -> None:
    with pytest.raises(StorageFailed, match=r"^BUCKET_ENDPOINT_URL is not the address"):
        find_bucket(None, {"BUCKET_ENDPOINT_URL": url} | KEYS)
    if url.startswith("http"):
        own = BucketConfig(accessId="id", accessSecret="s3cret", endpointUrl=url)
        with pytest.raises(InvalidJob, match=r"^s3Config\.endpointUrl: is not the address") as refused:
            find_bucket(own, {})
        assert url not in str(refused.value), "it may hold a key"


async def test_a_name_that_no_bucket_has_is_told_as_one() -> None:
    own = BucketConfig(accessId="id", accessSecret="s3cret", endpointUrl="http://127.0.0.1:1", bucketName="a b/c")
    bucket = find_bucket(own, {})
    assert bucket is not None
    with pytest.raises(StorageFailed, match="a b/c was not asked: its name, or a key, is none"):
        await Store(bucket).check("key")


async def test_a_disk_that_takes_no_object_is_no_fault_of_the_bucket() -> None:
    bucket = find_bucket(None, {"BUCKET_ENDPOINT_URL": "http://127.0.0.1:1/b"} | KEYS)
    assert bucket is not None

    def full(client: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(Unavailable, match="disk does not take the object: No space left"):
        await Store(bucket)._do(full)


def test_a_bucket_may_be_at_an_address_of_either_kind() -> None:
    found = [
        find_bucket(None, {"BUCKET_ENDPOINT_URL": f"http://{host}/b"} | KEYS) for host in ("[::1]:9000", "10.0.0.1")
    ]
    assert [bucket and bucket.endpoint for bucket in found] == ["http://[::1]:9000", "http://10.0.0.1"]


@pytest.mark.parametrize(("width", "height"), [(1, 1), (20_000, 1), (1, 300)])
def test_a_picture_too_narrow_for_a_colour_is_refused_and_told(width: int, height: int, tmp_path: Path) -> None:
    file = tmp_path / "source"
    Image.new("RGB", (width, height)).save(file, "PNG")
    with pytest.raises(NotMedia, match=f"{width}x{height} pixels"):
        read_picture(file)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no device that is full")
async def test_a_source_that_the_disk_does_not_take_is_no_internal_error() -> None:
    source = Source(base64=b64encode(bytes(100)).decode())
    job = Job("job", RenderInput(action="render", source=source))
    with pytest.raises(Unavailable, match="disk does not take the source: No space left"):
        await fetch_source(job, source, Path("/dev/full"), Settings())


def test_the_builders_progress_is_understood() -> None:
    line = "[2/3] sd-turbo--unet--512x512: building the engine, 40 %, 31 s"
    assert parse_progress(line) == {
        "engine": "sd-turbo--unet--512x512",
        "index": 2,
        "count": 3,
        "detail": "building the engine",
        "percent": 40,
        "seconds": 31,
    }
    without = parse_progress("[1/3] sd-turbo--unet: exporting, 2 s")
    assert without is not None
    assert (without["detail"], without["percent"]) == ("exporting", None)
    assert parse_progress("a warning, 3 s") is None


BUILDER = """
import json, sys
assert sys.argv[1:] == ["bake", "--json", "--profile", "sd-turbo-512", "--sm", "89,120", "--push"], sys.argv
print("[1/1] sd-turbo--unet: building, 50 %, 3 s", file=sys.stderr)
print("builder: the profile is wrong", "  Take another.", sep="\\n", file=sys.stderr)
failed = EXIT == 1
engine = {"name": "unet", "status": "failed" if failed else "built", "error": "ENGINE: no" if failed else None}
pushing = {"pushed": ["decoder"], "unpushed": {"encoder": "ENGINE: no bucket"} if EXIT == 5 else {}}
print(json.dumps({"profile": "sd-turbo-512", "complete": not failed, "engines": [engine], **pushing}, indent=2))
sys.exit(EXIT)
"""


async def bake(tmp_path: Path, status: int) -> list[dict[str, Any]]:
    program = tmp_path / "builder.py"
    program.write_text(BUILDER.replace("EXIT", str(status)))
    wanted = BakeInput(action="bake", profile="sd-turbo-512", sm=(89, 120), push=True)
    return [event async for event in BakeAction((sys.executable, str(program))).run(Job("1", wanted), wanted)]


async def test_a_bake_tells_its_progress_and_its_engines(tmp_path: Path) -> None:
    progress, baked = await bake(tmp_path, 0)
    assert (progress["event"], progress["percent"]) == ("progress", 50)
    assert (baked["event"], baked["engines"][0]["status"]) == ("baked", "built")


async def test_a_bake_that_fails_says_which_engine_and_why(tmp_path: Path) -> None:
    with pytest.raises(BakeFailed, match="unet: ENGINE: no; pushed: decoder"):
        await bake(tmp_path, 1)
    with pytest.raises(StorageFailed, match="encoder is made and could not be pushed: ENGINE: no bucket"):
        await bake(tmp_path, 5)
    with pytest.raises(InvalidJob, match="the profile is wrong Take another"):
        await bake(tmp_path, 2)


def test_the_gateway_answers_for_every_endpoint_about_one_stream() -> None:
    context: Any = SimpleNamespace(settings=Settings.model_validate({}))
    fleet: Any = None
    own = {name for name, operation in OPERATIONS.items() if "{" in operation.path}
    assert own <= set(GatewayRoutes(context, fleet).endpoints())


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        (DiskFull("cannot write x"), Unavailable, "the worker's disk is full"),
        (CommandFailed("it is odd"), NotMedia, "odd"),
    ],
)
async def test_a_full_disk_is_not_blamed_on_the_source(
    failure: CommandFailed, kind: type[RequestError], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def pass_none(*_: object) -> int:
        raise failure

    @contextlib.asynccontextmanager
    async def no_lanes(*_: object) -> AsyncIterator[None]:
        yield

    monkeypatch.setattr("sdstream.jobs.render.pass_all", pass_none)
    monkeypatch.setattr(RenderAction, "_lanes", no_lanes)
    host: Any = SimpleNamespace(
        models=ModelTable.from_settings(Settings()), settings=Settings(), clock=SystemClock(), worker=None
    )
    content = b64encode(film(tmp_path / "film.ts").read_bytes()).decode()
    wanted = RenderInput(action="render", source=Source(base64=content), params={"skip_diffusion": True})
    with pytest.raises(kind, match=words):
        async for _ in RenderAction(host).run(Job("job", wanted), wanted):
            pass
