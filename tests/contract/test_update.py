"""Acceptance statements 24 to 35 of the contract: what a PATCH merges, answers and does to a running stream."""

import asyncio
import base64
import io
import time
from typing import Any

import pytest
from PIL import Image

from tests.contract.conftest import SdkOnServer
from tests.support.events import event_log
from tests.support.peers import Publisher, Viewer, preserved
from tests.support.rest import SMALL, Rest, block, check_error
from tests.support.server import LiveServer
from tests.support.waiting import eventually

SDXL = {"model_id": "stabilityai/sdxl-turbo", "skip_diffusion": True}
CANNY = {
    "model_id": "xinsir/controlnet-canny-sdxl-1.0",
    "conditioning_scale": 0.4,
    "preprocessor": "canny",
    "enabled": True,
}
DEPTH = {
    "model_id": "xinsir/controlnet-depth-sdxl-1.0",
    "conditioning_scale": 0.2,
    "preprocessor": "depth_tensorrt",
    "enabled": True,
}


def data_uri(colour: str = "red") -> str:
    picture = io.BytesIO()
    Image.new("RGB", (32, 32), colour).save(picture, "PNG")
    return f"data:image/png;base64,{base64.b64encode(picture.getvalue()).decode()}"


HOT_ROWS: list[tuple[str, dict[str, Any]]] = [
    ("prompt", {"prompt": "a paper city"}),
    ("weighted prompt", {"prompt": [["a", 1.0], ["b", 0.5]]}),
    ("guidance_scale", {"guidance_scale": 1.4}),
    ("delta", {"delta": 0.5}),
    ("t_index_list", {"t_index_list": [20, 30]}),
    ("seed", {"seed": 5}),
    ("num_inference_steps", {"num_inference_steps": 40}),
    ("negative_prompt", {"negative_prompt": "grey"}),
    ("prompt_interpolation_method", {"prompt_interpolation_method": "linear"}),
    ("normalize_prompt_weights", {"normalize_prompt_weights": False}),
    ("seed_interpolation_method", {"seed_interpolation_method": "slerp"}),
    ("normalize_seed_weights", {"normalize_seed_weights": False}),
    ("use_safety_checker", {"use_safety_checker": False}),
    ("conditioning_scale", {"controlnets": [CANNY | {"conditioning_scale": 0.9}, DEPTH]}),
    ("ip_adapter.enabled", {"ip_adapter": {"enabled": True}}),
    ("ip_adapter.scale", {"ip_adapter": {"scale": 0.8}}),
    ("ip_adapter.weight_type", {"ip_adapter": {"weight_type": "style transfer"}}),
    ("ip_adapter_style_image_url", {"ip_adapter_style_image_url": data_uri()}),
    ("image_preprocessing", {"image_preprocessing": block("blur")}),
    ("image_postprocessing", {"image_postprocessing": block("sharpen")}),
    ("latent_preprocessing", {"latent_preprocessing": block("latent_feedback")}),
    ("latent_postprocessing", {"latent_postprocessing": block("latent_feedback")}),
    ("cached_attention.max_frames", {"cached_attention": {"max_frames": 2}}),
    ("cached_attention.interval", {"cached_attention": {"interval": 7}}),
]
"""Every H row of table 3.1."""

RELOAD_ROWS: list[tuple[str, dict[str, Any]]] = [
    ("controlnet preprocessor", {"controlnets": [CANNY | {"preprocessor": "passthrough"}, DEPTH]}),
    ("control_guidance_end", {"controlnets": [CANNY | {"control_guidance_end": 0.5}, DEPTH]}),
    ("ip_adapter.type", {"ip_adapter": {"type": "faceid"}}),
    ("cached_attention.enabled", {"cached_attention": {"enabled": False}}),
    ("skip_diffusion", {"skip_diffusion": False}),
    ("model_id", {"model_id": "stabilityai/sd-turbo", "controlnets": []}),
    ("lora_dict", {"lora_dict": {"some/repo": 0.5}}),
    ("use_lcm_lora", {"use_lcm_lora": False}),
    ("acceleration", {"acceleration": "none", "cached_attention": {"enabled": False}}),
]
"""The R rows of table 3.1 that cannot be hot."""


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


async def test_26_resending_the_same_size_changes_nothing(rest: Rest) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        await viewer.wait_kind("card")
        async with event_log(rest, stream["id"]) as log:
            start = time.monotonic()
            answer = await rest.change(stream["id"], {"width": 384, "height": 384})
            assert answer["applied"] == "unchanged"
            answer = await rest.change(stream["id"], {"width": 384, "height": 384, "prompt": "x"})
            assert (answer["applied"], answer["changed"]) == ("hot", ["prompt"])
            await log.wait("effective", revision=answer["revision"])
            assert log.named("loading") == []
            assert "LOADING" not in log.states()
        assert viewer.longest_gap(start) < 1.0


async def test_27_every_hot_row_is_hot_on_a_live_stream(rest: Rest) -> None:
    attention = {"enabled": True, "max_frames": 1, "interval": 1}
    adapter = {"enabled": False, "scale": 0.5}
    stream = await rest.create(
        SDXL
        | {"controlnets": [CANNY, DEPTH], "cached_attention": attention, "ip_adapter": adapter, "t_index_list": [11]}
    )
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        await viewer.wait_kind("card")
        async with event_log(rest, stream["id"]) as log:
            start = time.monotonic()
            revision = stream["revision"]
            for row, params in HOT_ROWS:
                answer = await rest.change(stream["id"], params)
                assert answer["applied"] == "hot", f"{row} is {answer['applied']}"
                assert answer["revision"] == revision + 1
                revision = answer["revision"]
            await log.wait("effective", revision=revision)
            assert log.named("loading") == []
            assert "LOADING" not in log.states()
        assert viewer.longest_gap(start) < 1.0
        await viewer.wait_kind("card")


@pytest.mark.parametrize(
    ("params", "kind"),
    [
        ({"image_preprocessing": block("canny")}, "edges"),
        ({"image_postprocessing": block("canny")}, "edges"),
        ({"image_preprocessing": block("passthrough", "canny")}, "edges"),
    ],
    ids=["pre", "post", "second of two"],
)
async def test_27_a_processor_changes_the_picture_without_a_gap(rest: Rest, params: dict[str, Any], kind: Any) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        await viewer.wait_kind("card")
        start = time.monotonic()
        assert (await rest.change(stream["id"], params))["applied"] == "hot"
        await viewer.wait_kind(kind)
        name = next(iter(params))
        off = {name: params[name] | {"enabled": False}}
        assert (await rest.change(stream["id"], off))["applied"] == "hot"
        await viewer.wait_kind("card")
        assert viewer.longest_gap(start) < 1.0


async def test_27_a_processors_number_is_hot_and_can_be_seen(rest: Rest) -> None:
    def blur(sigma: float) -> dict[str, Any]:
        return {"image_preprocessing": block({"type": "blur", "params": {"blur_intensity": sigma, "kernel_size": 31}})}

    stream = await rest.create(SMALL | blur(0.2))
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        sharp = (await viewer.wait_kind("card")).edge_step()
        start = time.monotonic()
        for sigma, limit in ((3.0, 0.6), (8.0, 0.3)):
            assert (await rest.change(stream["id"], blur(sigma)))["applied"] == "hot"
            await viewer.wait(lambda picture, most=limit * sharp: picture.edge_step() < most, what=f"blur of {sigma}")
        assert viewer.longest_gap(start) < 1.0


async def test_28_a_reload_answers_at_once_and_keeps_the_sessions(rest: Rest) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        await viewer.wait_kind("card")
        await rest.wait_state(stream["id"], "ONLINE")
        with preserved(publisher, viewer):
            async with event_log(rest, stream["id"]) as log:
                start = time.monotonic()
                answer = await rest.change(stream["id"], {"acceleration": "none"})
                assert time.monotonic() - start < 1.0
                assert answer["applied"] == "reload"
                await log.wait("state", state="LOADING")
                await log.wait("state", state="ONLINE", seconds=15)
            await viewer.wait_kind("card")
            assert (await rest.status(stream["id"]))["state"] == "ONLINE"


@pytest.mark.parametrize(("row", "params"), RELOAD_ROWS, ids=[row for row, _ in RELOAD_ROWS])
async def test_28_every_cold_row_is_a_reload(rest: Rest, row: str, params: dict[str, Any]) -> None:
    attention = {"enabled": True, "max_frames": 1, "interval": 1}
    stream = await rest.create(
        SDXL | {"controlnets": [CANNY, DEPTH], "cached_attention": attention, "t_index_list": [11]}
    )
    async with Publisher(stream["whip_url"], width=512, height=512) as publisher:
        await publisher.wait_connected()
        response = await rest.http.patch(
            f"/v1/streams/{stream['id']}", params={"dry_run": "true"}, json={"params": params}
        )
        assert response.status_code == 200, response.text
        assert response.json()["applied"] == "reload", row
        assert (await rest.get(stream["id"]))["params"] == stream["params"]


async def test_28_a_switch_to_diffusion_before_it_exists_says_so_and_can_be_undone(rest: Rest) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        await viewer.wait_kind("card")
        with preserved(publisher, viewer):
            assert (await rest.change(stream["id"], {"skip_diffusion": False}))["applied"] == "reload"
            status = await rest.wait_state(stream["id"], "ERROR")
            assert status["inference_status"]["last_error"]
            await viewer.wait_kind("placard")
            await rest.change(stream["id"], {"skip_diffusion": True})
            await viewer.wait_kind("card", seconds=15)


async def test_28_a_stream_that_asks_for_diffusion_shows_a_placard_with_the_reason(rest: Rest) -> None:
    stream = await rest.create({"model_id": "stabilityai/sdxl-turbo"})
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        status = await rest.wait_state(stream["id"], "ERROR")
        assert status["reason"]
        assert status["inference_status"]["last_error"]
        await viewer.wait_kind("placard")
        with preserved(publisher, viewer):
            await rest.change(stream["id"], {"prompt": "still answers"})


@pytest.mark.parametrize(
    "params",
    [
        {"width": 512},
        {"height": 448, "prompt": "must not be stored"},
        {"image_postprocessing": block({"type": "upscale", "params": {"scale_factor": 2.0}})},
    ],
    ids=["width", "height and prompt", "upscale"],
)
async def test_29_a_new_size_is_refused_while_live(rest: Rest, params: dict[str, Any]) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        await viewer.wait_kind("card")
        start = time.monotonic()
        check_error(await rest.patch(stream["id"], params), 409, "STREAMS/CONFLICT")
        assert (await rest.get(stream["id"]))["params"] == stream["params"]
        picture = await viewer.wait_kind("card")
        assert picture.size == (384, 384)
        assert viewer.longest_gap(start) < 1.0


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
async def test_31_thirty_patches_a_second_for_ten_seconds(rest: Rest) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        await viewer.wait_kind("card")
        start = time.monotonic()

        async def send(number: int) -> int:
            await asyncio.sleep(max(0.0, start + number / 30 - time.monotonic()))
            processor = "canny" if number == 299 else "passthrough"
            params = {"prompt": f"prompt {number}", "image_preprocessing": block(processor)}
            return (await rest.patch(stream["id"], params)).status_code

        # One caller, one request after the other, as a slider does.
        answers = [await send(number) for number in range(300)]
        assert set(answers) == {200}
        assert time.monotonic() - start < 13
        assert (await rest.get(stream["id"]))["params"]["prompt"] == "prompt 299"
        await viewer.wait_kind("edges")
        assert viewer.longest_gap(start) < 1.0


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
            start = time.monotonic()
            revision = 0
            for number in range(1, 21):
                answer = await rest.change(stream["id"], full | {"prompt": str(number)})
                assert (answer["applied"], answer["changed"]) == ("hot", ["prompt"])
                revision = answer["revision"]
                await asyncio.sleep(max(0.0, start + number / 10 - time.monotonic()))
            await log.wait("effective", revision=revision)
            assert log.named("loading") == []
            assert "LOADING" not in log.states()
        assert viewer.longest_gap(start) < 1.0


async def test_33_changed_scales_of_controlnets_are_hot_and_zero_is_allowed(rest: Rest) -> None:
    stream = await rest.create(SDXL | {"controlnets": [CANNY, DEPTH]})
    async with Publisher(stream["whip_url"]) as publisher:
        await publisher.wait_connected()
        for scale in (0.9, 0, 1.7):
            entries = [entry | {"conditioning_scale": scale} for entry in (CANNY, DEPTH)]
            answer = await rest.change(stream["id"], {"controlnets": entries})
            assert answer["applied"] == "hot"
            assert [entry["conditioning_scale"] for entry in answer["params"]["controlnets"]] == [scale, scale]
            assert all(entry["enabled"] for entry in answer["params"]["controlnets"])


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
    ],
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
                return bool((await rest.status(stream["id"]))["inference_status"]["last_error"])

            await eventually(reported, what="last_error naming the style image")


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
