"""A long run: prompts change, viewers come and go, HLS is watched; what grows, what drifts, what is dropped.

    python -m bench.soak [--minutes 60] [--streams 2] [--model tiny] [--rate 30] [--json FILE]
    python -m bench.soak --comings 200

Without a model pictures go through the worker unchanged; with `tiny` each is diffused by a model of a few layers that
lets greys through, so that its number can still be read. The first form reports the slope of the server's memory, open
files and threads, the drift of the pictures' age, and the drops. The second has publishers and viewers come and go as
fast as they can, and says what is left of them.
Exits with 1 when something grew: memory by more than 20 MB an hour (or 20 MB in all for comings), files or threads.
"""

import argparse
import asyncio
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from bench.support.clip import FRAME_RATE, SIZE, Clip, make_clip
from bench.support.peers import Camera, MarkerViewer, PictureViewer, clock, until
from bench.support.targets import KEY, Sdstream, conditions, run_sdstream, settle
from sdstream.frames import PictureSize

SAMPLE_SECONDS = 5.0
TINY_SIZE = PictureSize(384, 384)
VISIT_SECONDS = 3.0
PROMPT_SECONDS = 2.0
MOST_MEGABYTES = 20.0
SPARE_FILES = 8
"""Files and threads that may be open at the end beyond those of the beginning: pools grow to their size once."""
AUTHORIZATION = {"Authorization": f"Bearer {KEY}"}


@dataclass
class Samples:
    """What was seen each few seconds, of the server's process alone (`footprint`)."""

    moments: list[float] = field(default_factory=list[float])
    megabytes: list[float] = field(default_factory=list[float])
    files: list[int] = field(default_factory=list[int])
    threads: list[int] = field(default_factory=list[int])

    def take(self, process_id: int) -> None:
        megabytes, files, threads = footprint(process_id)
        self.moments.append(clock.monotonic())
        self.megabytes.append(megabytes)
        self.files.append(files)
        self.threads.append(threads)

    def slope(self) -> float:
        """Megabytes an hour over the last four fifths, when caches and pools have their size."""
        start = len(self.moments) // 5
        if len(self.moments) - start < 3:
            return 0.0
        line = statistics.linear_regression(self.moments[start:], self.megabytes[start:])
        return line.slope * 3600


def footprint(process_id: int) -> tuple[float, int, int]:
    """Resident megabytes, open files and threads of the server process alone: the worker's are torch's."""
    process = psutil.Process(process_id)
    with process.oneshot():
        return process.memory_info().rss / 1e6, process.num_fds(), process.num_threads()


async def soak(target: Sdstream, seconds: float, streams: int, clip: Clip) -> dict[str, Any]:
    """Keep `streams` streams busy; the figures."""
    samples = Samples()
    async with httpx.AsyncClient(timeout=20) as http:
        cameras = [Camera(clip, http) for _ in range(streams)]
        watching: list[PictureViewer] = []
        records: list[dict[str, Any]] = []
        wheps: list[str] = []
        tasks: list[asyncio.Task[None]] = []
        try:
            for camera in cameras:
                whip = await target.new_stream(http, clip.size)
                headers = await camera.open(whip)
                wheps.append(target.whep_url(whip, headers))
                viewer = PictureViewer(camera, http)
                watching.append(viewer)
                await viewer.open(wheps[-1])
                await until(lambda viewer=viewer: bool(viewer.ages), 60, "the first picture")
            records = (await http.get(f"{target.url}/v1/streams", headers=AUTHORIZATION)).json()["data"]
            tasks = [
                asyncio.create_task(work)
                for work in (visit(http, wheps), prompt(http, target, records), hls(http, records))
            ]
            end = clock.monotonic() + seconds
            while clock.monotonic() < end:
                samples.take(target.process.pid)
                for task in tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(SAMPLE_SECONDS)
            drops = [await drops_of(http, target, record["id"]) for record in records]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for peer in (*watching, *cameras):
                await peer.close()
    return describe(samples, watching, drops, seconds)


@contextmanager
def run_target(model: str, rate: int) -> Iterator[Sdstream]:
    """The server, with the model that `--model` names, told that streams have `rate` pictures a second."""
    if model == "none":
        with run_sdstream() as target:
            yield target
        return
    from tests.support.transparent import write_transparent_model

    with tempfile.TemporaryDirectory() as folder:
        write_transparent_model(Path(folder))
        models = json.dumps({"stabilityai/sd-turbo": folder})
        settings = {"models": models, "worker_spare": "false", "offline": "true", "stream_frame_rate": str(rate)}
        with run_sdstream(**settings) as target:
            target.params = {"t_index_list": [49], "prompt": "at first"}
            yield target


async def visit(http: httpx.AsyncClient, wheps: list[str]) -> None:
    """Viewers come, stay a moment and go, over and over."""
    while True:
        for url in wheps:
            viewer = MarkerViewer(http)
            try:
                await viewer.open(url)
                await asyncio.sleep(VISIT_SECONDS)
            finally:
                await viewer.close()


async def prompt(http: httpx.AsyncClient, target: Sdstream, records: list[dict[str, Any]]) -> None:
    """Prompts change, over and over."""
    number = 0
    while True:
        for record in records:
            number += 1
            body = {"params": {"prompt": f"prompt number {number}"}}
            reply = await http.patch(f"{target.url}/v1/streams/{record['id']}", json=body, headers=AUTHORIZATION)
            reply.raise_for_status()
            await asyncio.sleep(PROMPT_SECONDS)


async def hls(http: httpx.AsyncClient, records: list[dict[str, Any]]) -> None:
    """Somebody watches the first stream by HLS for half of the time."""
    while True:
        for _ in range(20):
            index = await http.get(records[0]["hls_url"])
            index.raise_for_status()
            playlist = (await http.get(records[0]["hls_url"].replace("index.m3u8", "stream.m3u8"))).text
            segment = [line for line in playlist.splitlines() if not line.startswith("#")][-1]
            await http.get(records[0]["hls_url"].replace("index.m3u8", segment))
            await asyncio.sleep(1.0)
        await asyncio.sleep(25.0)


async def drops_of(http: httpx.AsyncClient, target: Sdstream, stream_id: str) -> dict[str, int]:
    return (await http.get(f"{target.url}/v1/streams/{stream_id}/status")).json()["data"]["drops"]


def describe(
    samples: Samples, viewers: list[PictureViewer], drops: list[dict[str, int]], seconds: float
) -> dict[str, Any]:
    ages = [[1000 * age for _, age in viewer.ages] for viewer in viewers]
    tenth = [max(1, len(each) // 10) for each in ages]
    drift = [
        statistics.median(each[-part:]) - statistics.median(each[part : 2 * part])
        for each, part in zip(ages, tenth, strict=True)
    ]
    return {
        "seconds": seconds,
        "megabytes_an_hour": round(samples.slope(), 1),
        "megabytes": [round(samples.megabytes[0], 1), round(samples.megabytes[-1], 1)],
        "files": [samples.files[0], samples.files[-1]],
        "threads": [samples.threads[0], samples.threads[-1]],
        "age_p50_ms": [round(statistics.median(each), 1) for each in ages],
        "age_p99_ms": [round(statistics.quantiles(each, n=100, method="inclusive")[98], 1) for each in ages],
        "age_drift_ms": [round(value, 1) for value in drift],
        "pictures_per_second": [round(len(each) / seconds, 2) for each in ages],
        "drops": drops,
    }


async def come_and_go(target: Sdstream, count: int) -> dict[str, Any]:
    """`count` publishers of one stream, each with a viewer, one after the other."""
    clip = make_clip()
    async with httpx.AsyncClient(timeout=20) as http:
        whip = await target.new_stream(http)

        async def one() -> None:
            camera = Camera(clip, http)
            viewer = MarkerViewer(http)
            try:
                headers = await camera.open(whip)
                await viewer.open(target.whep_url(whip, headers))
                await until(lambda: bool(viewer.arrivals), 15, "a picture")
            finally:
                await viewer.close()
                await camera.close()

        for _ in range(20):  # pools and caches get their size
            await one()
        await asyncio.sleep(8)
        before = footprint(target.process.pid)
        for number in range(count):
            await one()
            if number % 20 == 19:
                print(f"{number + 1} of {count}", file=sys.stderr, flush=True)
        await asyncio.sleep(8)  # the last ones are noticed to be gone
        after = footprint(target.process.pid)
    names = ("megabytes", "files", "threads")
    return {"comings": count} | {
        name: [round(old, 1), round(new, 1)] for name, old, new in zip(names, before, after, strict=True)
    }


def judge(figures: dict[str, Any]) -> list[str]:
    """What grew more than it may."""
    grown: list[str] = []
    megabytes = figures.get("megabytes_an_hour", figures["megabytes"][1] - figures["megabytes"][0])
    if megabytes > MOST_MEGABYTES:
        grown.append(f"memory by {megabytes:.1f} MB")
    grown += [
        f"{name} from {figures[name][0]} to {figures[name][1]}"
        for name in ("files", "threads")
        if figures[name][1] > figures[name][0] + SPARE_FILES
    ]
    return grown


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--streams", type=int, default=2)
    parser.add_argument("--model", choices=["none", "tiny"], default="none")
    parser.add_argument("--rate", type=int, default=FRAME_RATE, help="pictures a second of each camera")
    parser.add_argument("--comings", type=int, help="publishers and viewers that come and go, instead of a long run")
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    with run_target(options.model, options.rate) as target:
        settle(target.process)
        if options.comings:
            work = come_and_go(target, options.comings)
        else:
            size = SIZE if options.model == "none" else TINY_SIZE
            work = soak(target, 60 * options.minutes, options.streams, make_clip(size=size, rate=options.rate))
        figures = asyncio.run(work)
    for name, value in figures.items():
        print(f"{name:<22} {value}")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({**conditions(), "figures": figures}, file, indent=2)
    grown = judge(figures)
    print("nothing grew" if not grown else f"grew: {', '.join(grown)}")
    return 1 if grown else 0


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        raise SystemExit(main())
