"""Generated requests: whatever comes, no 5xx, no leak, and the streams go on."""

import json
import random
import re
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.support.goes import without_a_gap
from tests.support.offers import without_candidates
from tests.support.peers import Publisher, Viewer, preserved
from tests.support.rest import SHARED_PARAMS, SMALL, Rest
from tests.support.server import LiveServer
from tests.support.waiting import eventually

for media_type in ("application/sdp", "application/trickle-ice-sdpfrag"):
    schemathesis.serializer.alias(media_type, "text/plain")

FUZZ = settings(
    max_examples=60,
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=(
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.text(max_size=10), children, max_size=4),
    max_leaves=12,
)
PARAMS = st.dictionaries(
    st.sampled_from([*SHARED_PARAMS, "ip_adapter", "cached_attention", "ip_adapter_style_image_url"]), JSON, max_size=4
)
BODIES = st.one_of(
    JSON,
    st.fixed_dictionaries({"params": PARAMS}),
    st.fixed_dictionaries({"params": PARAMS.map(lambda params: SMALL | params)}),
    st.fixed_dictionaries({"pipeline_id": JSON, "pipeline_params": JSON}),
    st.fixed_dictionaries({"pipeline": JSON, "params": PARAMS, "name": JSON, "output_rtmp_url": JSON}),
)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server of their own, so that a leak shows and nobody else's streams are met."""
    live = LiveServer(tmp_path_factory.mktemp("fuzzed"), max_streams=2000, create_rate=1000, update_rate=1000)
    live.start()
    yield live
    live.stop()


class Client:
    """A blocking client for hypothesis; every stream it makes is deleted at the end."""

    def __init__(self, live: LiveServer) -> None:
        self.http = httpx.Client(
            base_url=live.url, headers={"Authorization": f"Bearer {live.key}"}, timeout=30, follow_redirects=False
        )
        self.stream = self.http.post("/v1/streams", json={"params": SMALL}).json()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        for entry in self.http.get("/v1/streams").json()["data"]:
            self.http.delete("/v1/streams", params={"id": entry["id"]})
        self.http.close()


@pytest.mark.slow
def test_generated_calls_keep_to_the_openapi_document(fuzzed: LiveServer) -> None:
    schema = schemathesis.openapi.from_url(f"{fuzzed.url}/openapi.json")
    checks = [
        not_a_server_error,
        status_code_conformance,
        content_type_conformance,
        response_headers_conformance,
        response_schema_conformance,
    ]
    quickest: dict[str, float] = {}
    with Client(fuzzed) as client:
        stream = client.stream
        real = {
            "id": stream["id"],
            "stream_id": stream["id"],
            "stream_key": stream["stream_key"],
            "playback_id": stream["output_playback_id"],
            "output_playback_id": stream["output_playback_id"],
        }

        def call(case: Any, known: bool) -> None:
            if known and case.method != "DELETE":
                case.path_parameters = {
                    name: real.get(name, value) for name, value in (case.path_parameters or {}).items()
                }
            start = time.monotonic()
            response = case.call(headers={"Authorization": f"Bearer {fuzzed.key}"}, timeout=30)
            took = time.monotonic() - start
            case.validate_response(response, checks=checks)
            label = f"{case.method} {case.operation.path}"
            quickest[label] = min(took, quickest.get(label, took))

        for result in schema.get_all_operations():
            operation: Any = result.ok()  # pyright: ignore[reportAttributeAccessIssue]
            if not operation.path.endswith("/events"):  # an answer without an end; test_update reads it
                settings(FUZZ, max_examples=25)(given(case=operation.as_strategy(), known=st.booleans())(call))()
    assert len(quickest) >= 12, quickest
    assert max(quickest.values()) < 1, quickest


@pytest.mark.slow
def test_generated_json_is_never_a_server_error(fuzzed: LiveServer) -> None:
    statuses: set[int] = set()
    with Client(fuzzed) as client:
        path = f"/v1/streams/{client.stream['id']}"

        @settings(FUZZ, max_examples=150)
        @given(body=BODIES)
        def send(body: Any) -> None:
            text = json.dumps(body)  # infinities included, as Python clients send them
            headers = {"Content-Type": "application/json"}
            for method, address in (("POST", "/v1/streams"), ("PATCH", path), ("POST", f"/beta{path[3:]}/prompts")):
                response = client.http.request(method, address, content=text, headers=headers)
                statuses.add(response.status_code)
                assert response.status_code in (200, 201, 400, 404), f"{method} {address} {body}: {response.text[:400]}"
                if response.status_code >= 400:
                    assert response.json()["success"] is False

        send()
        assert client.http.get(path).status_code == 200
    assert statuses >= {200, 201, 400}


def mutations(offer: str, seed: int) -> Iterator[str]:
    """The offer, broken in one of many ways, again and again."""
    dice = random.Random(seed)
    lines = offer.split("\r\n")
    while True:
        broken = list(lines)
        for _ in range(dice.randint(1, 4)):
            at = dice.randrange(len(broken))
            match dice.randrange(9):
                case 0:
                    del broken[at]
                case 1:
                    broken.insert(at, broken[dice.randrange(len(broken))])
                case 2:
                    other = dice.randrange(len(broken))
                    broken[at], broken[other] = broken[other], broken[at]
                case 3:
                    broken[at] = broken[at][: dice.randint(0, len(broken[at]))]
                case 4:
                    broken[at] = "".join(
                        str(dice.randrange(10**6)) if letter.isdigit() and dice.random() < 0.5 else letter
                        for letter in broken[at]
                    )
                case 5:
                    letters = list(broken[at]) or ["x"]
                    letters[dice.randrange(len(letters))] = chr(dice.randrange(1, 0x3000))
                    broken[at] = "".join(letters)
                case 6:
                    broken[at] = broken[at] * dice.randint(2, 40)
                case 7:
                    del broken[at:]
                case 8:  # Python converts no number of more than 4300 digits
                    digits = dice.choice("9٩") * dice.choice((20, 3500, 5000))
                    broken[at] = re.sub("[0-9]+", digits, broken[at], count=1)
            if not broken:
                broken = [""]
        yield "\r\n".join(broken)


@pytest.mark.slow
@pytest.mark.parametrize("role", ["whip", "whep"])
@pytest.mark.alone
async def test_broken_offers_are_refused_and_leave_nothing_behind(fuzzed: LiveServer, role: str) -> None:
    async with Rest(fuzzed) as rest:
        watched = await rest.create()
        async with Publisher(watched["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
            await viewer.wait_kind("card")
            files = fuzzed.footprint().files
            victim = await rest.create()
            with preserved(publisher, viewer):

                async def send(go: int) -> None:
                    statuses = await _send_broken_offers(rest, victim, role, count=120)
                    assert set(statuses) <= {201, 400, 404, 413, 429}, statuses
                    assert statuses.count(400) > 30

                await without_a_gap(viewer, send, 1.5)
            assert (await rest.http.delete("/v1/streams", params={"id": victim["id"]})).status_code == 200
            await viewer.wait_kind("card")
            await eventually(
                lambda: fuzzed.footprint().files <= files + 3,
                seconds=60,
                what=lambda: f"back to {files} open files; now {fuzzed.footprint().files}",
            )


async def _send_broken_offers(rest: Rest, stream: dict[str, Any], role: str, count: int) -> list[int]:
    template = Viewer("http://unused") if role == "whep" else Publisher("http://unused", audio=True)
    offer = without_candidates(await template.prepare())
    await template.connection.close()
    statuses: list[int] = []
    if role == "whep":  # somebody must publish, or everything is 404
        async with Publisher(stream["whip_url"]) as publisher:
            await _post_all(rest, publisher.whep_url, offer, count, statuses)
    else:
        await _post_all(rest, stream["whip_url"], offer, count, statuses)
    return statuses


async def _post_all(rest: Rest, url: str, offer: str, count: int, statuses: list[int]) -> None:
    for broken, _ in zip(mutations(offer, seed=7), range(count), strict=False):
        response = await rest.http.post(
            url, content=broken.encode("utf-8", "replace"), headers={"Content-Type": "application/sdp"}
        )
        assert response.status_code < 500, f"{response.status_code} {response.text[:300]} for\n{broken}"
        statuses.append(response.status_code)
        if response.status_code == 201:
            await rest.http.delete(str(httpx.URL(url).join(response.headers["location"])))


@pytest.mark.slow
@pytest.mark.alone
async def test_opening_and_closing_sessions_leaves_files_threads_and_memory_flat(fuzzed: LiveServer) -> None:
    async with Rest(fuzzed) as rest:

        async def round_trip() -> None:
            stream = await rest.create()
            async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
                await viewer.wait_kind("card")
            assert (await rest.http.delete("/v1/streams", params={"id": stream["id"]})).status_code == 200

        for _ in range(2):
            await round_trip()
        before = fuzzed.footprint()
        for _ in range(10):
            await round_trip()

        def flat() -> bool:
            now = fuzzed.footprint()
            return (
                now.files <= before.files + 3
                and now.threads <= before.threads + 2
                and now.memory < before.memory + 25_000_000
            )

        await eventually(flat, seconds=60, what=lambda: f"back to {before}; it is {fuzzed.footprint()}")
