"""Acceptance statements 26 to 28 and 33 of the contract: which changes are hot, which reload, and what viewers see."""

import time
from typing import Any

import pytest

from tests.support.bodies import CANNY, DEPTH, SDXL, TILE, data_uri
from tests.support.events import event_log
from tests.support.goes import best_below, in_time, without_a_gap
from tests.support.peers import Publisher, Viewer, preserved
from tests.support.rest import SMALL, Rest, block
from tests.support.waiting import eventually

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
    ("lcm_lora_id", {"lcm_lora_id": "some/other"}),
    ("do_add_noise", {"do_add_noise": False}),
    ("enable_similar_image_filter", {"enable_similar_image_filter": True}),
    ("similar_image_filter_threshold", {"similar_image_filter_threshold": 0.9}),
    ("similar_image_filter_max_skip_frame", {"similar_image_filter_max_skip_frame": 5}),
]
"""Every H row of table 3.1, and the R rows that it allows to be hot and that are cheap here."""

RELOAD_ROWS: list[tuple[str, dict[str, Any]]] = [
    ("controlnet preprocessor", {"controlnets": [CANNY | {"preprocessor": "passthrough"}, DEPTH]}),
    ("control_guidance_start", {"controlnets": [CANNY | {"control_guidance_start": 0.5}, DEPTH]}),
    ("control_guidance_end", {"controlnets": [CANNY | {"control_guidance_end": 0.5}, DEPTH]}),
    ("controlnet enabled", {"controlnets": [CANNY | {"enabled": False}, DEPTH]}),
    ("preprocessor_params", {"controlnets": [CANNY | {"preprocessor_params": {"low_threshold": 50}}, DEPTH]}),
    ("a ControlNet removed", {"controlnets": [CANNY]}),
    ("a ControlNet added", {"controlnets": [CANNY, DEPTH, TILE]}),
    ("ip_adapter.type", {"ip_adapter": {"type": "faceid"}}),
    ("cached_attention.enabled", {"cached_attention": {"enabled": False}}),
    ("skip_diffusion", {"skip_diffusion": False}),
    ("model_id", {"model_id": "stabilityai/sd-turbo", "controlnets": []}),
    ("lora_dict", {"lora_dict": {"some/repo": 0.5}}),
    ("use_lcm_lora", {"use_lcm_lora": False}),
    ("use_denoising_batch", {"use_denoising_batch": False}),
    ("acceleration", {"acceleration": "none", "cached_attention": {"enabled": False}}),
]
"""The other R rows of table 3.1."""


@pytest.mark.alone
async def test_26_resending_the_same_size_changes_nothing(rest: Rest) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        await viewer.wait_kind("card")
        async with event_log(rest, stream["id"]) as log:

            async def resend(go: int) -> None:
                answer = await rest.change(stream["id"], {"width": 384, "height": 384})
                assert answer["applied"] == "unchanged"
                answer = await rest.change(stream["id"], {"width": 384, "height": 384, "prompt": f"x{go}"})
                assert (answer["applied"], answer["changed"]) == ("hot", ["prompt"])
                await log.wait("effective", revision=answer["revision"])

            await without_a_gap(viewer, resend)
            assert log.named("loading") == []
            assert "LOADING" not in log.states()


@pytest.mark.alone
async def test_27_every_hot_row_is_hot_on_a_live_stream(rest: Rest) -> None:
    attention = {"enabled": True, "max_frames": 1, "interval": 1}
    adapter = {"enabled": False, "scale": 0.5}
    first = {"controlnets": [CANNY, DEPTH], "cached_attention": attention, "ip_adapter": adapter, "t_index_list": [11]}

    async def turn_each(go: int) -> float:
        stream = await rest.create(SDXL | first)
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
            gap = viewer.longest_gap(start)
            await viewer.wait_kind("card")
        return gap

    await best_below(turn_each, 1.0, "the longest time without a picture")


@pytest.mark.parametrize(
    ("params", "kind"),
    [
        ({"image_preprocessing": block("canny")}, "edges"),
        ({"image_postprocessing": block("canny")}, "edges"),
        ({"image_preprocessing": block("passthrough", "canny")}, "edges"),
    ],
    ids=["pre", "post", "second of two"],
)
@pytest.mark.alone
async def test_27_a_processor_changes_the_picture_without_a_gap(rest: Rest, params: dict[str, Any], kind: Any) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        await viewer.wait_kind("card")
        name = next(iter(params))

        async def on_and_off(go: int) -> None:
            on = {name: params[name] | {"enabled": True}}
            assert (await rest.change(stream["id"], on if go else params))["applied"] == "hot"
            await viewer.wait_kind(kind)
            off = {name: params[name] | {"enabled": False}}
            assert (await rest.change(stream["id"], off))["applied"] == "hot"
            await viewer.wait_kind("card")

        await without_a_gap(viewer, on_and_off)


@pytest.mark.alone
async def test_27_a_processors_number_is_hot_and_can_be_seen(rest: Rest) -> None:
    def blur(sigma: float) -> dict[str, Any]:
        return {"image_preprocessing": block({"type": "blur", "params": {"blur_intensity": sigma, "kernel_size": 31}})}

    stream = await rest.create(SMALL | blur(0.2))
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        sharp = (await viewer.wait_kind("card")).edge_step()

        async def turn(go: int) -> None:
            if go:
                await rest.change(stream["id"], blur(0.2))
                await viewer.wait(lambda picture: picture.edge_step() > 0.7 * sharp, what="a sharp picture again")
            for sigma, limit in ((3.0, 0.6), (8.0, 0.3)):
                assert (await rest.change(stream["id"], blur(sigma)))["applied"] == "hot"
                await viewer.wait(
                    lambda picture, most=limit * sharp: picture.edge_step() < most, what=f"blur of {sigma}"
                )

        await without_a_gap(viewer, turn)


@pytest.mark.alone
async def test_28_a_reload_answers_at_once_and_keeps_the_sessions(rest: Rest) -> None:
    stream = await rest.create()
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        await viewer.wait_kind("card")
        await rest.wait_state(stream["id"], "ONLINE")
        with preserved(publisher, viewer):

            async def change(go: int) -> None:
                acceleration = "tensorrt" if go % 2 else "none"
                assert (await rest.change(stream["id"], {"acceleration": acceleration}))["applied"] == "reload"

            async with event_log(rest, stream["id"]) as log:
                await in_time(change, 1.0, "the answer to a PATCH that needs a reload")
                await log.wait("state", state="LOADING")
                await log.wait("state", state="ONLINE")
            await viewer.wait_kind("card")
            await rest.wait_state(stream["id"], "ONLINE")


async def test_28_every_cold_row_is_a_reload(rest: Rest) -> None:
    attention = {"enabled": True, "max_frames": 1, "interval": 1}
    stream = await rest.create(
        SDXL | {"controlnets": [CANNY, DEPTH], "cached_attention": attention, "t_index_list": [11]}
    )
    async with Publisher(stream["whip_url"], width=512, height=512) as publisher:
        await publisher.wait_connected()
        for row, params in RELOAD_ROWS:
            response = await rest.http.patch(
                f"/v1/streams/{stream['id']}", params={"dry_run": "true"}, json={"params": params}
            )
            assert response.status_code == 200, f"{row}: {response.text}"
            assert response.json()["applied"] == "reload", row
        assert (await rest.get(stream["id"]))["params"] == stream["params"]


@pytest.mark.parametrize(
    ("applied", "params", "undone"),
    [
        ("reload", {"skip_diffusion": False}, {"skip_diffusion": True}),
        (
            "hot",
            {"image_preprocessing": {"processors": [{"type": "depth"}]}},
            {"image_preprocessing": {"processors": []}},
        ),
    ],
    ids=["reload", "hot"],
)
@pytest.mark.alone
async def test_28_params_that_cannot_be_loaded_leave_the_picture_and_are_reported(
    rest: Rest, applied: str, params: dict[str, Any], undone: dict[str, Any]
) -> None:
    stream = await rest.create()

    async def try_and_undo(go: int) -> None:
        before = (await rest.get(stream["id"]))["revision"]
        async with event_log(rest, stream["id"]) as log:
            answer = await rest.change(stream["id"], params)
            assert answer["applied"] == applied
            await log.wait("error", code="MODELS/UNAVAILABLE")
            status = await rest.status(stream["id"])
            assert status["inference_status"]["last_error"] == status["lane"]["error_message"] != ""
            # What needs a reload leaves the old params in force; a processor alone is left out of the new ones.
            in_force = before if applied == "reload" else answer["revision"]
            assert (status["lane"]["phase"], status["lane"]["revision"]) == ("ready", in_force)
            await rest.wait_state(stream["id"], "DEGRADED_INFERENCE")
            assert (await rest.change(stream["id"], undone))["revision"] == answer["revision"] + 1
            await rest.wait_state(stream["id"], "ONLINE")

        async def forgotten() -> bool:
            status = await rest.status(stream["id"])
            return status["inference_status"]["last_error"] is status["lane"]["error_message"] is None

        await eventually(forgotten, what="that the error is over")

    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        await viewer.wait_kind("card")
        await rest.wait_state(stream["id"], "ONLINE")
        with preserved(publisher, viewer):
            await without_a_gap(viewer, try_and_undo)
            await viewer.wait_kind("card")


async def test_28_a_stream_that_asks_for_diffusion_shows_a_placard_with_the_reason(rest: Rest) -> None:
    stream = await rest.create({"model_id": "stabilityai/sdxl-turbo"})
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        status = await rest.wait_state(stream["id"], "ERROR")
        assert status["reason"]
        assert status["inference_status"]["last_error"]
        await viewer.wait_kind("placard")
        with preserved(publisher, viewer):
            await rest.change(stream["id"], {"prompt": "still answers"})


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
