"""Ten updates a second on a stream that diffuses: every picture of the camera comes out, once and in order."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import av
import numpy
import pytest

from tests.support.events import event_log
from tests.support.peers import CardTrack, Publisher, Viewer
from tests.support.pictures import Picture
from tests.support.rest import Rest
from tests.support.server import LiveServer
from tests.support.transparent import write_transparent_model
from tests.support.waiting import eventually

SIDE = 384
CELLS = 4
"""Of each side; one bit each, of which the last two are for parity."""
RATE = 8.0
"""Pictures a second at most: the camera waits until each has been seen, so none is lost because the machine is slow."""
SECONDS = 30.0
LEAST = 150
"""Updates. A machine that is too slow for ten a second is given longer."""
PATIENCE = 5.0
"""Seconds after which a picture is not waited for any more."""
LOST = 1
"""Pictures that the network may lose; updates that lose any would lose many more."""
TURBO = {"model_id": "stabilityai/sd-turbo", "t_index_list": [49], "width": SIDE, "height": SIDE, "prompt": "one"}
KNOBS: tuple[dict[str, Any], ...] = (
    {"prompt": "an ant"},
    {"seed": 5},
    {"guidance_scale": 2.5, "negative_prompt": "rain"},
    {"prompt": [["a dog", 0.7], ["the cat", 0.3]]},
    {"delta": 0.4},
    {"guidance_scale": 1.0, "negative_prompt": ""},
    {"seed": [[1, 0.5], [2, 0.5]]},
    {"num_inference_steps": 50, "t_index_list": [48]},
    {"num_inference_steps": 50, "t_index_list": [49]},
)


def bits_of(number: int) -> list[int]:
    bits = [(number >> shift) & 1 for shift in range(CELLS * CELLS - 2)]
    return [*bits, sum(bits) % 2, 1 - sum(bits) % 2]


def draw(number: int) -> av.VideoFrame:
    """A picture that carries `number` in large cells of black and white."""
    cells = numpy.array(bits_of(number), numpy.uint8).reshape(CELLS, CELLS) * 200 + 25
    luma = numpy.kron(cells, numpy.ones((SIDE // CELLS, SIDE // CELLS), numpy.uint8))
    return av.VideoFrame.from_ndarray(
        numpy.vstack([luma, numpy.full((SIDE // 2, SIDE), 128, numpy.uint8)]), format="yuv420p"
    )


def number_in(picture: Picture) -> int | None:
    """The number, or None when there is none to be read."""
    cell = SIDE // CELLS
    luma = picture.luma.reshape(CELLS, cell, CELLS, cell)[:, cell // 3 : -cell // 3, :, cell // 3 : -cell // 3]
    means = luma.mean(axis=(1, 3)).flatten()
    if picture.size != (SIDE, SIDE) or ((means > 90) & (means < 160)).any():
        return None
    bits = [int(mean > 125) for mean in means]
    number = sum(bit << place for place, bit in enumerate(bits[:-2]))
    return number if bits == bits_of(number) else None


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("updates")
    write_transparent_model(folder / "model")
    models = json.dumps({"stabilityai/sd-turbo": str(folder / "model")})
    live = LiveServer(folder, models=models, offline="true")
    live.start()
    yield live
    live.stop()


async def frames_out(rest: Rest) -> int:
    """The pictures that the worker has made of streams, by the server's metrics."""
    text = (await rest.http.get("/metrics")).text
    return int(float(text.split("\nsdstream_frames_out_total ")[1].split("\n")[0]))


@pytest.mark.slow
async def test_ten_updates_a_second_lose_and_repeat_no_picture(server: LiveServer, rest: Rest) -> None:
    stream = await rest.create(TURBO)
    seen: list[int] = []
    loop = asyncio.get_running_loop()
    track = CardTrack(lambda number: drawn(number), fps=RATE)
    waits_since: float | None = None
    gated = False

    def drawn(number: int) -> av.VideoFrame:
        nonlocal waits_since
        if gated:
            track.paused, waits_since = True, loop.time()
        return draw(number)

    def read(picture: Picture) -> None:
        number = number_in(picture)
        if number is not None:
            seen.append(number)
            track.paused = gated and number != track.sent - 1

    def forgo_a_lost_picture() -> None:
        if track.paused and waits_since is not None and loop.time() - waits_since > PATIENCE:
            track.paused = False

    def came_back() -> bool:
        forgo_a_lost_picture()
        return seen[-1] == track.sent - 1 and not track.paused

    async with Publisher(stream["whip_url"], track=track) as publisher, Viewer(publisher.whep_url) as viewer:
        viewer.on_picture = read
        await viewer.wait(lambda picture: number_in(picture) is not None, seconds=60, what="a number")
        async with event_log(rest, stream["id"]) as log:  # that the worker became ready has been told by now
            gated = True
            await eventually(
                came_back, seconds=60, what=lambda: f"that the last of {track.sent} came back after {seen[-5:]}"
            )
            first, came_out = track.sent, await frames_out(rest)
            del seen[:]
            started, sent, newest = loop.time(), 0, 0
            while loop.time() - started < SECONDS or sent < LEAST:
                answer = await rest.change(stream["id"], {"prompt": f"the {sent}th"} | KNOBS[sent % len(KNOBS)])
                assert answer["applied"] == "hot"
                sent, newest = sent + 1, answer["revision"]
                forgo_a_lost_picture()
                await asyncio.sleep(max(0.0, started + sent * 0.1 - loop.time()))
            effective = await log.wait("effective", revision=newest, seconds=60)
            track.limit = track.sent

            def all_came_back() -> bool:
                forgo_a_lost_picture()
                return seen[-1] == track.sent - 1 or (not track.paused and seen[-1] == track.sent - 1 - LOST)

            await eventually(all_came_back, what=lambda: f"that the last of {track.sent} came back after {seen[-5:]}")
            came_out = await frames_out(rest) - came_out
    given = track.sent - first
    assert given > 10
    assert seen == sorted(seen), "a picture came after a later one"
    # A viewer may see one twice: the encoder sends a picture that nothing follows again. The worker made each once.
    assert abs(came_out - given) <= LOST
    assert len(set(range(first, track.sent)) - set(seen)) <= LOST
    told = [event["effective_frame"] for event in log.named("effective")]
    assert told == sorted(told)
    assert effective["effective_frame"] == told[-1]
    assert log.named("error") == log.named("worker") == []
