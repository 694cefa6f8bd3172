"""The whole way with a model: camera in, diffusion in the worker, picture out. The model is tiny and random."""

import asyncio
import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from sdstream.diffusion.libraries import diffusers
from sdstream.diffusion.tiny import write_tiny_model
from sdstream.diffusion.tiny_conditions import write_tiny_controlnet
from tests.contract.films import FilmTrack, peak_ratio, write_film
from tests.contract.test_media_files import film
from tests.diffusion.checkers import write_checker
from tests.project.commands import environment, sdstream
from tests.support.events import event_log
from tests.support.outputs import output_log
from tests.support.peers import CardTrack, Publisher, Viewer
from tests.support.pictures import Picture, TestCard
from tests.support.rest import Rest, block
from tests.support.sdks import PythonSdk
from tests.support.server import LiveServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

SIZE = {"width": 384, "height": 384}
TURBO: dict[str, Any] = {"model_id": "stabilityai/sd-turbo", "t_index_list": [20], "prompt": "a cat", "seed": 1, **SIZE}
TURBO |= {"use_safety_checker": False}  # that of this model takes offence at everything
Pixels = NDArray[numpy.uint8]
START: dict[str, Any] = TURBO | {
    "prompt": [["the cat", 1.0], ["a hat in rain", 0.5]],
    "seed": [[3, 0.5], [4, 0.7]],
    "negative_prompt": "rain",
    "guidance_scale": 1.6,
}
WORKING = ("ONLINE", "DEGRADED_INPUT", "DEGRADED_INFERENCE")
"""Pictures come out. A busy machine need not keep the camera's rate."""
KNOBS: list[dict[str, Any]] = [
    {"guidance_scale": 3.0},
    {"negative_prompt": "a dog"},
    {"delta": 0.1},
    {"prompt_interpolation_method": "linear"},
    {"normalize_prompt_weights": False},
    {"prompt": [["the cat", 0.2], ["a hat in rain", 0.5]]},
    {"prompt": "an ant in the inn"},
    {"seed_interpolation_method": "slerp"},
    {"normalize_seed_weights": False},
    {"seed": [[3, 0.5], [4, 0.1]]},
    {"seed": 2},
    {"num_inference_steps": 70},
    {"t_index_list": [30]},
    {"t_index_list": [10, 30]},
    {"do_add_noise": False},
    {"image_preprocessing": block("blur")},
    {"image_postprocessing": block("sharpen")},
    {"use_safety_checker": True},
    {"use_safety_checker": False},
    {"latent_preprocessing": block("latent_feedback")},
]
"""Each hot row of table 3.1 that a model without conditioning shows. They are turned one after the other, and the next
differs from all before it; with more than one prompt and seed, and with guidance, each has something to change."""
STEADY = 0.25
"""Mean difference of colour channels, 0 to 255, that two snapshots of an unchanged stream stay below."""
CHANGED = 1.0
"""What a turned knob exceeds."""
DIFFERENT = 12.0
"""What a diffused picture differs from its original at least."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with a tiny SD-Turbo and no other model: the hub's cache is empty."""
    folder = tmp_path_factory.mktemp("diffusion")
    model = folder / "tiny"
    write_tiny_model(model, "sd-turbo", width=16)
    kind: Any = diffusers.UNet2DConditionModel
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        unet = kind.from_config(  # attention where pixels are few, as it is slow
            kind.load_config(model / "unet"),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        )
    unet.save_pretrained(model / "unet", safe_serialization=True)
    write_checker(model / "safety_checker", threshold=-2.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(folder / "hub"))
        models = json.dumps({"stabilityai/sd-turbo": str(model)})
        # Pictures of random weights are noise to a codec: at this rate it keeps them, and a busy machine loses of it.
        live = LiveServer(folder, models=models, video_bitrate=50_000_000, video_bitrate_follows=False)
        live.start()
    yield live
    live.stop()


@pytest.fixture(scope="module")
def controlnet(server: LiveServer) -> str:
    """The id of a ControlNet that is in the server's data directory, tiny and random."""
    name = "thibaud/controlnet-sd21-canny-diffusers"
    kind: Any = diffusers.UNet2DConditionModel
    write_tiny_controlnet(
        server.data_dir / "models" / name, kind.from_pretrained(server.folder / "tiny", subfolder="unet")
    )
    return name


@pytest.mark.alone
@pytest.mark.timeout(900)
async def test_27_a_stream_made_by_the_sdk_diffuses_and_follows_each_knob(server: LiveServer, rest: Rest) -> None:
    created = await PythonSdk().call(server.url, server.key, "create", pipeline="streamdiffusion", params=START)
    stream = created.expect()
    rest.remember(stream)
    card = TestCard()
    track = CardTrack(lambda number: card.draw(0), fps=16)  # always the same picture: only knobs change what comes out
    async with Publisher(stream["whip_url"], track=track) as publisher, Viewer(publisher.whep_url) as viewer:
        await rest.wait_state(stream["id"], *WORKING, seconds=120)
        seen = await viewer.wait(lambda picture: not picture.is_placard(), what="a diffused picture")
        assert seen.size == (384, 384)
        assert not seen.is_card()
        before = await settled(rest, stream["id"])
        assert distance(before, Picture(card.draw(0)).rgb) > DIFFERENT
        async with event_log(rest, stream["id"]) as log, output_log(rest, stream["id"]) as outputs:
            before = await settled(rest, stream["id"])
            start = time.monotonic()
            for knob in KNOBS:
                answer = await rest.change(stream["id"], knob)
                assert (answer["applied"], answer["changed"]) == ("hot", list(knob))
                try:
                    before = await settled(rest, stream["id"], unlike=before, pairs=2)
                except TimeoutError:
                    raise AssertionError(f"{knob} changes nothing that is seen") from None
            # Of a still picture, feedback of what comes out shows in how slowly another knob is followed.
            feedback = block({"type": "latent_feedback", "params": {"feedback_strength": 0.5}})
            change = {
                "latent_postprocessing": feedback,
                "latent_preprocessing": {"enabled": False},
                "t_index_list": [20],
            }
            assert (await rest.change(stream["id"], change))["applied"] == "hot"
            before = await settled(rest, stream["id"], unlike=before, pairs=2)
            for seed in (9, 10, 11, 12):  # who is kept from looking sees what it comes to in the end alone
                await rest.change(stream["id"], {"seed": seed})
                on_the_way = await other_snapshot(rest, stream["id"], unlike=before)
                before = await settled(rest, stream["id"], pairs=2)
                if distance(before, on_the_way) > CHANGED:
                    break
            else:
                raise AssertionError("no picture was seen on the way to another seed's")
            assert log.named("loading") == []
            assert "LOADING" not in log.states()
            assert outputs.held_up(start) < 1.0


@pytest.mark.alone
async def test_33_controlnets_come_go_and_are_turned_while_pictures_flow(
    server: LiveServer, rest: Rest, controlnet: str
) -> None:
    entry = {"model_id": controlnet, "conditioning_scale": 0.0, "preprocessor": "canny", "enabled": True}
    stream = await rest.create(TURBO | {"controlnets": [entry]})
    card = TestCard()
    track = CardTrack(lambda number: card.draw(0), fps=16)
    async with Publisher(stream["whip_url"], track=track) as publisher, Viewer(publisher.whep_url) as viewer:
        await rest.wait_state(stream["id"], *WORKING, seconds=120)
        await viewer.wait(lambda picture: not picture.is_placard(), what="a diffused picture")
        async with output_log(rest, stream["id"]) as outputs:
            plain = before = await settled(rest, stream["id"])
            start = time.monotonic()
            for scale in (1.5, 0.6):
                changed = [entry | {"conditioning_scale": scale}]
                answer = await rest.change(stream["id"], {"controlnets": changed})
                assert answer["applied"] == "hot"
                after = await settled(rest, stream["id"], unlike=before)
                before = after
            tap = await rest.http.get(f"/v1/streams/{stream['id']}/tap/canny.jpg")
            assert tap.status_code == 200
            control = numpy.asarray(Image.open(io.BytesIO(tap.content)).convert("L"))
            assert control.shape == (320, 320)
            assert (control < 60).mean() + (control > 200).mean() > 0.8, "white lines on black"
            assert (await rest.http.get(f"/v1/streams/{stream['id']}/tap/hed.jpg")).status_code == 404
            # A preprocessor whose weights are not here is named, and its net adds nothing: the plain picture is back.
            await rest.change(stream["id"], {"controlnets": [changed[0] | {"preprocessor": "hed"}]})
            after = await settled(rest, stream["id"], unlike=before)
            assert distance(after, plain) < CHANGED

            async def named() -> bool:
                status = await rest.status(stream["id"])
                return "ControlNetHED.pth" in (status["inference_status"]["last_error"] or "")

            await eventually(named, what="the missing file")
            await rest.change(stream["id"], {"controlnets": [entry]})
            assert distance(await settled(rest, stream["id"]), plain) < CHANGED
            assert outputs.held_up(start) < 1.0


@pytest.mark.alone
@pytest.mark.timeout(600)
async def test_a_viewer_sees_what_render_makes_of_the_same_file(server: LiveServer, rest: Rest, tmp_path: Path) -> None:
    """The camera sends the packets of the file itself, so server and `render` decode the same pictures, and all that
    may differ is what the encoder for the viewer costs."""
    source, params = tmp_path / "film.mp4", tmp_path / "params.json"
    packets = write_film(film("bikes.mp4"), source, every=24, side=384)  # pictures that differ
    params.write_text(json.dumps(TURBO))
    command = ["render", str(source), str(tmp_path / "out.mkv"), "--params", str(params), "--quality", "0"]
    made = await asyncio.to_thread(
        sdstream,
        *command,
        environment=environment(tmp_path) | {"SDSTREAM_MODELS": str(server.settings["models"])},
        seconds=200,
    )
    assert made.returncode == 0, made.stderr
    with av.open(str(tmp_path / "out.mkv")) as container:
        rendered = [Picture(frame) for frame in container.decode(video=0)]
    assert len(rendered) == len(packets)
    created = await PythonSdk().call(server.url, server.key, "create", pipeline="streamdiffusion", params=TURBO)
    stream = created.expect()
    rest.remember(stream)
    seen: list[Picture] = []
    track = FilmTrack(packets, fps=16)
    async with Publisher(stream["whip_url"], track=track) as publisher, Viewer(publisher.whep_url) as viewer:
        await viewer.wait(lambda picture: not picture.is_placard(), seconds=60, what="a diffused picture")
        viewer.on_picture = seen.append
        # Long enough for the encoder to be set to this machine's rate.
        await eventually(lambda: len(seen) >= 40, seconds=120, what="forty pictures")
    ratios = numpy.array([[peak_ratio(picture, other) for other in rendered] for picture in seen])
    best = ratios.argmax(axis=1)
    print(f"best {ratios.max(axis=1).min():.1f}, others {numpy.sort(ratios, axis=1)[:, -2].max():.1f} dB")
    assert ratios.max(axis=1).min() >= 30
    assert len(set(best.tolist())) >= 5, "several pictures of the film; a busy machine leaves many out"
    # And it is not that everything is like everything: the other pictures, and the film itself, are far off.
    ratios[range(len(seen)), best] = 0
    assert ratios.max() < 30
    with av.open(str(source)) as container:
        assert max(peak_ratio(Picture(frame), rendered[0]) for frame in container.decode(video=0)) < 20


async def test_a_stream_whose_model_is_not_here_says_so(rest: Rest) -> None:
    stream = await rest.create({"model_id": "prompthero/openjourney-v4", "use_lcm_lora": False, **SIZE})
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        status = await rest.wait_state(stream["id"], "ERROR")
        assert "prompthero/openjourney-v4 is not on this machine" in status["reason"]
        await viewer.wait_kind("placard")


async def settled(rest: Rest, stream_id: str, unlike: Pixels | None = None, *, pairs: int = 3) -> Pixels:
    """The output once the camera's codec has come to rest: of new pictures in a row so many pairs are equal, and not
    `unlike`. Raises `TimeoutError` after a minute."""
    equal, made_at = 0, 0
    last: Pixels | None = None
    async with asyncio.timeout(60):
        while equal < pairs:
            made_at = await next_output(rest, stream_id, made_at)
            picture = await snapshot(rest, stream_id)
            same = last is not None and distance(picture, last) < STEADY
            other = unlike is None or distance(picture, unlike) > CHANGED
            equal = equal + 1 if same and other else 0
            last = picture
    assert last is not None
    return last


async def next_output(rest: Rest, stream_id: str, made_at: int) -> int:
    """Wait for a picture of the worker that is younger than `made_at`; when it came, in milliseconds."""

    async def newer() -> int | None:
        newest = (await rest.status(stream_id))["inference_status"]["last_output_time"]
        return newest if newest and newest > made_at else None

    return await eventually(newer, what="another picture")


async def snapshot(rest: Rest, stream_id: str) -> Pixels:
    """The output before any codec but JPEG, RGB [height, width, 3]."""
    reply = await rest.http.get(f"/v1/streams/{stream_id}/snapshot.jpg")
    assert reply.status_code == 200
    return numpy.asarray(Image.open(io.BytesIO(reply.content)).convert("RGB"))


async def other_snapshot(rest: Rest, stream_id: str, unlike: Pixels) -> Pixels:
    """The first output that is not like that one. Raises `TimeoutError` after a minute."""
    made_at = 0
    async with asyncio.timeout(60):
        while distance(picture := await snapshot(rest, stream_id), unlike) <= CHANGED:
            made_at = await next_output(rest, stream_id, made_at)
    return picture


def distance(one: Pixels, other: Pixels) -> float:
    """Mean absolute difference of the colour channels, 0 to 255."""
    return float(numpy.abs(one.astype(numpy.int16) - other.astype(numpy.int16)).mean())
