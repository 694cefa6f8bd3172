"""Acceptance statements 24, 25, 29 to 32, 34 and 35 of the contract: what a PATCH merges, answers and refuses."""

import asyncio
import math
import time
from typing import Any

import pytest

from tests.contract.conftest import SdkOnServer
from tests.support.bodies import CANNY, DEPTH, SDXL, data_uri
from tests.support.events import event_log
from tests.support.goes import best_below, without_a_gap
from tests.support.peers import Publisher, Viewer
from tests.support.rest import SMALL, Rest, block, check_error
from tests.support.server import LiveServer
from tests.support.waiting import eventually


async def test_24_patch_merges_and_answers_the_full_object(sdk: SdkOnServer, rest: Rest) -> None:
    before = await rest.create(
        {"model_id": "stabilityai/sdxl-turbo", "controlnets": [CANNY], "t_index_list": [11], "seed": 42}
    )
    change = {"model_id": "stabilityai/sdxl-turbo", "prompt": "a new prompt"}
    response = await rest.patch(before["id"], change, pipeline="streamdiffusion")
    assert response.status_code == 200
    after = response.json()
    assert after["params"] == before["params"] | {"prompt": "a new prompt"}
    assert {name: after[name] for name in ("id", "stream_key", "whip_url", "created_at", "output_playback_id")} == {
        name: before[name] for name in ("id", "stream_key", "whip_url", "created_at", "output_playback_id")
    }
    body = {"pipeline": "streamdiffusion", "params": change | {"prompt": "by the SDK"}}
    updated = (await sdk.call("update", id=before["id"], body=body)).expect()
    assert "is_unknown" not in updated["params"]
    assert updated["params"]["prompt"] == "by the SDK"
    # The SDK injects nothing here that could change the rest.
    assert (await rest.get(before["id"]))["params"] == before["params"] | {"prompt": "by the SDK"}


async def test_25_patch_needs_neither_pipeline_nor_model(rest: Rest) -> None:
    stream = await rest.create({"model_id": "Lykon/dreamshaper-8"})
    response = await rest.http.patch(f"/v1/streams/{stream['id']}", json={"params": {"prompt": "x"}})
    assert response.status_code == 200
    assert response.json()["params"] == stream["params"] | {"prompt": "x"}


@pytest.mark.parametrize(
    "params",
    [
        {"width": 512},
        {"height": 448, "prompt": "must not be stored"},
        {"image_postprocessing": block({"type": "upscale", "params": {"scale_factor": 2.0}})},
    ],
    ids=["width", "height and prompt", "upscale"],
)
@pytest.mark.alone
async def test_29_a_new_size_is_refused_while_live(rest: Rest, params: dict[str, Any]) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        await viewer.wait_kind("card")

        async def change(go: int) -> None:
            check_error(await rest.patch(stream["id"], params), 409, "STREAMS/CONFLICT")
            assert (await rest.get(stream["id"]))["params"] == stream["params"]
            picture = await viewer.wait_kind("card")
            assert picture.size == (384, 384)

        await without_a_gap(viewer, change)


async def test_29_the_sdks_raise_conflict(sdk: SdkOnServer, rest: Rest) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"]) as publisher:
        await publisher.wait_connected()
        body = {"pipeline": "streamdiffusion", "params": {"model_id": SMALL["model_id"], "width": 448}}
        failure = (await sdk.call("update", id=stream["id"], body=body)).expect_failure("ConflictError", 409)
        assert failure.code == "STREAMS/CONFLICT"


async def test_29_a_new_size_is_accepted_while_idle(rest: Rest) -> None:
    stream = await rest.create()
    await rest.change(stream["id"], {"width": 448, "height": 512})
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        assert (await viewer.wait_kind("card")).size == (448, 512)


async def test_30_a_patch_before_ingest_is_in_force_at_the_start(rest: Rest) -> None:
    stream = await rest.create()
    answer = await rest.change(stream["id"], {"image_preprocessing": block("canny")})
    assert answer["params"]["image_preprocessing"]["processors"][0]["type"] == "canny"
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        cards: list[float] = []
        viewer.on_picture = lambda picture: cards.append(picture.at) if picture.is_card() else None
        await viewer.wait_kind("edges")
        assert cards == []


@pytest.mark.slow
@pytest.mark.alone
async def test_31_thirty_patches_a_second_for_ten_seconds(rest: Rest) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        await viewer.wait_kind("card")

        async def send(start: float, number: int) -> int:
            await asyncio.sleep(max(0.0, start + number / 30 - time.monotonic()))
            processor = "canny" if number == 299 else "passthrough"
            params = {"prompt": f"prompt {number}", "image_preprocessing": block(processor)}
            return (await rest.patch(stream["id"], params)).status_code

        async def slide(go: int) -> float:
            """Seconds, or infinity where pictures stopped for one."""
            start = time.monotonic()
            # One caller, one request after the other, as a slider does.
            answers = [await send(start, number) for number in range(300)]
            seconds = time.monotonic() - start
            assert set(answers) == {200}
            assert (await rest.get(stream["id"]))["params"]["prompt"] == "prompt 299"
            await viewer.wait_kind("edges")
            return seconds if viewer.longest_gap(start) < 1.0 else math.inf

        await best_below(slide, 13, "300 updates, infinite where pictures stopped for a second")


@pytest.mark.alone
async def test_32_full_bodies_ten_times_a_second_cause_no_reload(rest: Rest) -> None:
    full: dict[str, Any] = SDXL | {
        "prompt": "0",
        "negative_prompt": "blurry",
        "width": 512,
        "height": 512,
        "t_index_list": [11, 22],
        "seed": 42,
        "acceleration": "tensorrt",
        "use_denoising_batch": True,
        "do_add_noise": True,
        "enable_similar_image_filter": True,
        "similar_image_filter_threshold": 0.9,
        "similar_image_filter_max_skip_frame": 5,
        "controlnets": [CANNY, DEPTH],
        "ip_adapter": {"type": "regular", "enabled": False, "scale": 0.5},
        "image_preprocessing": block("passthrough"),
    }
    stream = await rest.create(full)
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        await viewer.wait_kind("card")
        async with event_log(rest, stream["id"]) as log:

            async def send(go: int) -> None:
                start, revision = time.monotonic(), 0
                for number in range(1, 21):
                    answer = await rest.change(stream["id"], full | {"prompt": f"{go}, {number}"})
                    assert (answer["applied"], answer["changed"]) == ("hot", ["prompt"])
                    revision = answer["revision"]
                    await asyncio.sleep(max(0.0, start + number / 10 - time.monotonic()))
                await log.wait("effective", revision=revision)

            await without_a_gap(viewer, send)
            assert log.named("loading") == []
            assert "LOADING" not in log.states()


async def test_34_nested_objects_merge_deeply(rest: Rest) -> None:
    adapter = {"type": "faceid", "enabled": True, "scale": 0.7, "weight_type": "style transfer"}
    attention = {"enabled": True, "max_frames": 2, "interval": 9}
    stream = await rest.create(
        {
            "model_id": "stabilityai/sdxl-turbo",
            "t_index_list": [11],
            "ip_adapter": adapter,
            "cached_attention": attention,
        }
        | {"image_preprocessing": block("blur")}
    )
    answer = await rest.change(stream["id"], {"ip_adapter": {"scale": 0.3}})
    assert answer["params"]["ip_adapter"] == adapter | {"scale": 0.3}
    answer = await rest.change(stream["id"], {"cached_attention": {"interval": 20}})
    assert answer["params"]["cached_attention"] == attention | {"interval": 20}
    answer = await rest.change(stream["id"], {"image_preprocessing": {"enabled": False}})
    processing = answer["params"]["image_preprocessing"]
    assert (processing["enabled"], processing["processors"][0]["type"]) == (False, "blur")
    # Nulls other than lora_dict's mean nothing.
    answer = await rest.change(stream["id"], {"ip_adapter": None, "prompt": None, "seed": None})
    assert answer["params"]["ip_adapter"] == adapter | {"scale": 0.3}
    assert answer["params"]["prompt"] == stream["params"]["prompt"]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:9/nothing.png",
        "https://no-such-host.invalid/a.png",
        "data:image/png;base64,AAAA",
        "file:///etc/passwd",
        "not a url at all",
        "data:text/html;base64,PGI+",
        data_uri(length=40),
    ],
    ids=["private", "no such host", "no picture", "file", "text", "another type", "broken off"],
)
async def test_35_a_bad_style_image_leaves_the_old_one_and_is_reported(rest: Rest, url: str) -> None:
    good = data_uri("blue")
    stream = await rest.create(SDXL | {"ip_adapter": {"enabled": True}, "ip_adapter_style_image_url": good})
    async with Publisher(stream["whip_url"]) as publisher:
        await publisher.wait_connected()
        response = await rest.patch(stream["id"], {"ip_adapter_style_image_url": url})
        if response.status_code == 400:
            check_error(response, 400)
            assert (await rest.get(stream["id"]))["params"]["ip_adapter_style_image_url"] == good
        else:
            assert response.status_code == 200

            async def reported() -> bool:
                return "style image" in ((await rest.status(stream["id"]))["inference_status"]["last_error"] or "")

            await eventually(reported, what="last_error naming the style image")


async def test_a_dry_run_of_a_create_says_what_would_be_and_makes_nothing(rest: Rest) -> None:
    body = {"pipeline": "streamdiffusion", "params": SMALL, "name": "planned"}
    answer = await rest.http.post("/v1/streams", params={"dry_run": "true"}, json=body)
    planned = answer.json()
    assert (answer.status_code, planned["dry_run"], planned["id"], planned["whip_url"]) == (200, True, None, None)
    assert (planned["name"], planned["params"]["width"]) == ("planned", SMALL["width"])
    streams = (await rest.http.get("/v1/streams")).json()["data"]
    assert "planned" not in [stream["name"] for stream in streams]


async def test_a_dry_run_says_what_would_happen_and_changes_nothing(rest: Rest, server: LiveServer) -> None:
    stream = await rest.create()
    response = await rest.http.patch(
        f"/v1/streams/{stream['id']}", params={"dry_run": "true"}, json={"params": {"prompt": "never"}}
    )
    assert response.status_code == 200
    assert response.json()["params"]["prompt"] == "never"
    assert await rest.get(stream["id"]) == stream


async def test_the_deprecated_prompts_endpoint_merges_too(rest: Rest) -> None:
    stream = await rest.create(SDXL | {"seed": 3})
    body = {"pipeline": "streamdiffusion", "model_id": "stabilityai/sdxl-turbo", "params": {"prompt": "old way"}}
    response = await rest.http.post(f"/beta/streams/{stream['id']}/prompts", json=body)
    assert response.status_code == 200
    assert {name: response.json()[name] for name in ("success", "was_censored")} == {
        "success": True,
        "was_censored": False,
    }
    assert (await rest.get(stream["id"]))["params"] == stream["params"] | {"prompt": "old way"}
