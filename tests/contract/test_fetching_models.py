"""The whole way of a model that is not here: fetched while others stream, shown with percent, LoRAs fused and named."""

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sdstream.diffusion.tiny import write_tiny_model
from tests.support.events import event_log
from tests.support.hub import FakeHub
from tests.support.peers import Publisher, Viewer
from tests.support.rest import Rest
from tests.support.server import LiveServer
from tests.support.waiting import eventually

pytestmark = pytest.mark.slow

DREAM, LCM = "Lykon/dreamshaper-8", "latent-consistency/lcm-lora-sdv1-5"
WORKING = ("ONLINE", "DEGRADED_INPUT", "DEGRADED_INFERENCE")
"""Pictures come out. A busy machine need not keep the camera's rate."""
PARAMS = {"model_id": DREAM, "t_index_list": [20], "width": 384, "height": 384}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FakeHub]:
    """A hub with a tiny SD 1.5, a TAESD, the LCM LoRA, and a gated LoRA; what is held stops half way."""
    folder = tmp_path_factory.mktemp("hub")
    write_tiny_model(folder / "tiny", "sd15")
    hub = FakeHub()
    for name, part in (("madebyollin/taesd", "taesd"), (LCM, "lcm_lora")):
        shutil.move(folder / "tiny" / part, folder / part)
        hub.add(name, folder / part)
    hub.add("some/gated-lora", folder / "lcm_lora", gated=True)
    hub.add(DREAM, folder / "tiny")
    hub.token = "hf_never_to_be_seen"
    with hub.run():
        yield hub


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, hub: FakeHub) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("fetching")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("HF_HUB_OFFLINE", "0")
        patch.setenv("HF_HUB_CACHE", str(folder / "cache"))
        patch.setenv("HF_TOKEN", "hf_of_somebody_else")
        live = LiveServer(folder, shipped_pins="false")
        live.start()
    yield live
    live.stop()


async def test_a_model_is_fetched_while_others_stream_and_loras_are_named(
    server: LiveServer, hub: FakeHub, rest: Rest
) -> None:
    hub.hold, hub.held = threading.Event(), "unet/diffusion_pytorch_model.safetensors"
    other = await rest.create({"skip_diffusion": True, "width": 384, "height": 384})
    stream = await rest.create(PARAMS)
    async with Publisher(other["whip_url"]) as far, Viewer(far.whep_url) as neighbour:
        await neighbour.wait_kind("card", seconds=60)
        async with Publisher(stream["whip_url"], fps=15) as publisher, Viewer(publisher.whep_url) as viewer:
            lane = await eventually(lambda: downloading(rest, stream["id"]), seconds=60, what="a download under way")
            assert 0 < lane["percent"] < 100
            await viewer.wait_kind("placard")
            await neighbour.wait_kind("card")
            hub.hold.set()
            await rest.wait_state(stream["id"], *WORKING, seconds=60)
            await viewer.wait(lambda picture: not picture.is_placard(), what="a diffused picture")
            lane = (await rest.status(stream["id"]))["lane"]
            assert lane["loras"] == [{"name": LCM, "weight": 1.0}]
            async with event_log(rest, stream["id"]) as log:
                for name, code in (
                    ("some/gated-lora", "MODELS/ACCESS_DENIED"),
                    ("nothing", "MODELS/LORA_UNUSABLE"),
                ):
                    await rest.change(stream["id"], {"lora_dict": {name: 0.5}})
                    event = await log.wait("error", code=code)
                    assert name in event["message"]
                assert (await rest.status(stream["id"]))["lane"]["loras"] == lane["loras"], "the old ones stay"
                put = Path(server.data_dir) / "loras/mine.safetensors"
                shutil.copy(next((Path(server.data_dir) / "loras" / LCM).glob("*.safetensors")), put)
                answer = await rest.change(stream["id"], {"lora_dict": {"mine": 0.25}})
                await log.wait("effective", revision=answer["revision"])
            lane = (await rest.status(stream["id"]))["lane"]
            assert lane["loras"] == [{"name": LCM, "weight": 1.0}, {"name": "mine", "weight": 0.25}]
            await rest.wait_state(stream["id"], *WORKING)
    assert "hf_of_somebody_else" not in server.log_tail(limit=10_000_000)


async def downloading(rest: Rest, stream_id: str) -> dict[str, Any] | None:
    """The lane's report once some bytes of the model have come."""
    lane: dict[str, Any] | None = (await rest.status(stream_id))["lane"]
    if lane is None:
        return None
    held = lane["phase"] == "loading" and lane["detail"].startswith(f"downloading {DREAM}")
    return lane if held and lane["percent"] else None
