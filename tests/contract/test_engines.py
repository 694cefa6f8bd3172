"""An engine on its way: missed, built behind a stream, put in force, found by the next worker, broken, put aside."""

import json
import re
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.project.commands import environment, sdstream
from tests.support.peers import CardTrack, Publisher, Viewer
from tests.support.pictures import TestCard
from tests.support.rest import Rest
from tests.support.server import LiveServer
from tests.support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PARAMS = {
    "model_id": "stabilityai/sd-turbo",
    "t_index_list": [20],
    "prompt": "a cat",
    "seed": 1,
    "width": 384,
    "height": 384,
    "acceleration": "tensorrt",
}
WORKING = ("ONLINE", "DEGRADED_INPUT", "DEGRADED_INFERENCE")
"""A machine that builds beside a stream need not keep the camera's rate."""
BUILD_SECONDS = 400.0
"""Half a minute of one core, and what else the machine does."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server on the CPU with a tiny SD-Turbo, which builds engines behind its streams."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("there is no C++ compiler here")
    folder = tmp_path_factory.mktemp("engines")
    made = sdstream("models", "tiny", str(folder / "tiny"), environment=environment(folder), seconds=200)
    assert made.returncode == 0, made.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(folder / "hub"))
        live = LiveServer(
            folder,
            models=json.dumps({"stabilityai/sd-turbo": str(folder / "tiny")}),
            engine_builds="always",
            engine_local_dir=folder / "local",
            worker_spare=False,
        )
        live.start(seconds=200)
    yield live
    live.stop()


class Running:
    """A stream with a camera and a viewer."""

    def __init__(self, rest: Rest, stream: dict[str, Any], viewer: Viewer) -> None:
        self.rest = rest
        self.id: str = stream["id"]
        self.viewer = viewer

    async def lane(self) -> dict[str, Any]:
        status: dict[str, Any] = (await self.rest.status(self.id))["lane"]
        return status

    async def is_in_force(self, name: str) -> bool:
        return (await self.lane())["acceleration_in_force"] == name

    async def shows_pictures(self) -> None:
        """Wait for one that comes after now and is neither a placard nor the camera's."""
        before = len(self.viewer.arrivals)
        await eventually(lambda: len(self.viewer.arrivals) > before, what="another picture", seconds=60)
        picture = await self.viewer.wait(lambda picture: not picture.is_placard(), what="a diffused picture")
        assert not picture.is_card()


async def events(rest: Rest) -> dict[str, int]:
    text = (await rest.http.get("/metrics")).text
    found = re.findall(r'sdstream_engine_events_total\{event="(\w+)"\} (\d+)', text)
    return {name: int(count) for name, count in found}


async def test_an_engine_is_built_put_in_force_found_again_and_put_aside_when_it_breaks(
    server: LiveServer,
) -> None:
    card = TestCard()
    async with Rest(server) as rest:
        stream = await rest.create(PARAMS)
        track = CardTrack(lambda number: card.draw(0), fps=16)
        async with Publisher(stream["whip_url"], track=track) as publisher, Viewer(publisher.whep_url) as viewer:
            await rest.wait_state(stream["id"], *WORKING, seconds=120)
            running = Running(rest, stream, viewer)
            await running.shows_pictures()
            assert await running.is_in_force("torch")

            async def says_so() -> bool:
                return "is being built" in json.dumps(await running.lane())

            await eventually(says_so, what="word of the build", seconds=60)
            await eventually(lambda: running.is_in_force("compiled"), what="the engine in force", seconds=BUILD_SECONDS)
            await running.shows_pictures()
            assert (await running.rest.status(stream["id"]))["inference_status"]["last_error"] is None

            async def counted() -> bool:
                return {"miss", "built", "swapped"} <= (await events(rest)).keys()

            await eventually(counted, what="the events", seconds=30)
    server.stop()
    server.settings["engine_builds"] = "never"
    server.start(seconds=200)
    async with Rest(server) as rest:
        stream = await rest.create(PARAMS)
        track = CardTrack(lambda number: card.draw(0), fps=16)
        async with Publisher(stream["whip_url"], track=track) as publisher, Viewer(publisher.whep_url) as viewer:
            running = Running(rest, stream, viewer)
            await rest.wait_state(stream["id"], *WORKING, seconds=120)
            await eventually(lambda: running.is_in_force("compiled"), what="the engine in force", seconds=60)
            await running.shows_pictures()
            assert "built" not in await events(rest)
    packages = [*server.folder.glob("local/*/*/package.pt2"), *server.data_dir.glob("engines/*/*/package.pt2")]
    assert len(packages) == 2, "on the volume and on the local disk"
    for package in packages:
        content = bytearray(package.read_bytes())
        content[len(content) // 2] ^= 1
        package.write_bytes(content)
    async with Rest(server) as rest:
        stream = await rest.create(PARAMS)
        track = CardTrack(lambda number: card.draw(0), fps=16)
        async with Publisher(stream["whip_url"], track=track) as publisher, Viewer(publisher.whep_url) as viewer:
            running = Running(rest, stream, viewer)
            await rest.wait_state(stream["id"], *WORKING, seconds=120)

            async def put_aside() -> bool:
                return (await events(rest)).get("broken", 0) >= 2

            await eventually(put_aside, what="the broken engine told", seconds=60)
            await running.shows_pictures()
            assert await running.is_in_force("torch")
            assert "python -m builder bake" in json.dumps(await running.lane())
    assert not any(package.exists() for package in packages)
    assert list(server.data_dir.glob("engines/.quarantine/*/reason.txt"))
    assert "has the hash" in server.log_tail(limit=1_000_000)
