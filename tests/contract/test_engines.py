"""An engine on its way through a live server: missed, baked, in force, broken, put aside; pictures all the while."""

import asyncio
import json
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from sdstream.diffusion.tiny import write_tiny_model
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
"""A busy machine need not keep the camera's rate."""
BUILD_SECONDS = 400.0
"""Half a minute of one core, and what else the machine does."""
PROFILE = """
family = "sd-turbo"
model = {model}
sizes = ["384x384"]
slots = [1]
components = ["frame"]
guidance = ["self"]
[targets]
compiled = []
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server on the CPU with a tiny SD-Turbo and no engines."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("there is no C++ compiler here")
    folder = tmp_path_factory.mktemp("engines")
    write_tiny_model(folder / "tiny", "sd-turbo", width=16, levels=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(folder / "hub"))
        live = LiveServer(
            folder,
            models=json.dumps({"stabilityai/sd-turbo": str(folder / "tiny")}),
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
        picture = await self.viewer.wait(lambda picture: not picture.is_placard(), seconds=60, what="a diffused one")
        assert not picture.is_card()


async def events(rest: Rest) -> dict[str, int]:
    text = (await rest.http.get("/metrics")).text
    found = re.findall(r'sdstream_engine_events_total\{event="(\w+)"\} (\d+)', text)
    return {name: int(count) for name, count in found}


def bake(server: LiveServer) -> None:
    """Bake the frame of the streams into the server's volume, in a process of its own."""
    file = server.folder / "frame.toml"
    file.write_text(PROFILE.format(model=json.dumps(str(server.folder / "tiny"))))
    command = [sys.executable, "-m", "builder", "bake", "--profile", str(file)]
    command += ["--engines", str(server.data_dir / "engines")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=BUILD_SECONDS)
    assert done.returncode == 0, done.stderr


@asynccontextmanager
async def running(server: LiveServer) -> AsyncGenerator[Running]:
    """A stream that shows pictures."""
    card = TestCard()
    async with Rest(server) as rest:
        stream = await rest.create(PARAMS)
        track = CardTrack(lambda number: card.draw(0), fps=16)
        async with Publisher(stream["whip_url"], track=track) as publisher, Viewer(publisher.whep_url) as viewer:
            await rest.wait_state(stream["id"], *WORKING, seconds=120)
            made = Running(rest, stream, viewer)
            await made.shows_pictures()
            yield made


async def test_an_engine_is_missed_then_found_and_put_in_force_and_put_aside_when_it_breaks(
    server: LiveServer,
) -> None:
    async with running(server) as stream:

        async def names_the_command() -> bool:
            return "python -m builder bake" in json.dumps(await stream.lane())

        await eventually(names_the_command, what="word of what is missing", seconds=60)
        assert await stream.is_in_force("torch")
    await asyncio.to_thread(bake, server)
    async with running(server) as stream:
        await eventually(lambda: stream.is_in_force("compiled"), what="the engine in force", seconds=60)
        await stream.shows_pictures()
        assert (await stream.rest.status(stream.id))["inference_status"]["last_error"] is None

        async def counted() -> bool:
            return {"miss", "fetched", "swapped"} <= (await events(stream.rest)).keys()

        await eventually(counted, what="the events", seconds=30)
    packages = [*server.folder.glob("local/*/*/package.pt2"), *server.data_dir.glob("engines/*/*/package.pt2")]
    assert len(packages) == 2, "on the volume and on the local disk"
    for package in packages:
        content = bytearray(package.read_bytes())
        content[len(content) // 2] ^= 1
        package.write_bytes(content)
    async with running(server) as stream:

        async def put_aside() -> bool:
            return (await events(stream.rest)).get("broken", 0) >= 2

        await eventually(put_aside, what="the broken engine told", seconds=60)
        await stream.shows_pictures()
        assert await stream.is_in_force("torch")
    assert not any(package.exists() for package in packages)
    assert list(server.data_dir.glob("engines/.quarantine/*/reason.txt"))
    await eventually(lambda: "has the hash" in server.log_tail(limit=1_000_000), what="the reason in the log")
