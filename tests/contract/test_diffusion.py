"""The whole way with a model: camera in, diffusion in the worker, picture out. The model is tiny and random."""

import json
from collections.abc import Iterator

import numpy
import pytest

from tests.project.commands import environment, sdstream
from tests.support.peers import CardTrack, Publisher, Viewer
from tests.support.pictures import Picture, TestCard
from tests.support.rest import Rest
from tests.support.sdks import PythonSdk
from tests.support.server import LiveServer

pytestmark = pytest.mark.slow

SIZE = {"width": 384, "height": 384}
TURBO = {"model_id": "stabilityai/sd-turbo", "t_index_list": [20], "prompt": "a cat", "seed": 1, **SIZE}
STEADY = 6.0
"""Mean difference of colour channels that the codec alone stays below, 0 to 255."""
DIFFERENT = 12.0
"""Mean difference of colour channels that two pictures of one thing do not reach."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with a tiny SD-Turbo and no other model: the hub's cache is empty."""
    folder = tmp_path_factory.mktemp("diffusion")
    model = folder / "tiny"
    made = sdstream("models", "tiny", str(model), environment=environment(folder))
    assert made.returncode == 0, made.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(folder / "hub"))
        live = LiveServer(folder, models=json.dumps({"stabilityai/sd-turbo": str(model)}), worker_spare=False)
        live.start()
    yield live
    live.stop()


async def test_a_stream_made_by_the_sdk_diffuses_and_follows_its_knobs(server: LiveServer, rest: Rest) -> None:
    created = await PythonSdk().call(server.url, server.key, "create", pipeline="streamdiffusion", params=TURBO)
    stream = created.expect()
    rest.remember(stream)
    card = TestCard()
    track = CardTrack(lambda number: card.draw(0), fps=16)  # always the same picture: only knobs change what comes out
    async with Publisher(stream["whip_url"], track=track) as publisher, Viewer(publisher.whep_url) as viewer:
        await rest.wait_state(stream["id"], "ONLINE", seconds=25)
        first = await settled(viewer)
        assert first.size == (384, 384)
        assert not first.is_card()
        assert first.number() is None
        assert not first.is_placard()
        assert distance(first, Picture(card.draw(0))) > DIFFERENT
        for change in ({"prompt": "an ant in the inn"}, {"seed": 2}):
            before = await settled(viewer)
            answer = await rest.change(stream["id"], change)
            assert (answer["applied"], answer["changed"]) == ("hot", list(change))
            await viewer.wait(lambda picture, old=before: distance(picture, old) > DIFFERENT, what=f"{change} seen")


async def test_a_stream_whose_model_is_not_here_says_so(rest: Rest) -> None:
    stream = await rest.create({"model_id": "prompthero/openjourney-v4", "use_lcm_lora": False, **SIZE})
    async with Publisher(stream["whip_url"]) as publisher, Viewer(publisher.whep_url) as viewer:
        status = await rest.wait_state(stream["id"], "ERROR")
        assert "prompthero/openjourney-v4 is not on this machine" in status["reason"]
        await viewer.wait_kind("placard")


async def settled(viewer: Viewer) -> Picture:
    """A picture that the next one equals but for the codec."""
    last: list[Picture] = []

    def is_steady(picture: Picture) -> bool:
        last.append(picture)
        return len(last) > 1 and distance(picture, last[-2]) < STEADY

    return await viewer.wait(is_steady, what="two equal pictures")


def distance(one: Picture, other: Picture) -> float:
    """Mean absolute difference of the colour channels, 0 to 255."""
    return float(numpy.abs(one.rgb.astype(numpy.int16) - other.rgb.astype(numpy.int16)).mean())
