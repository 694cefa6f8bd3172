"""A whole server with a model: cameras in, diffused pictures out, many streams at once.

    python -m bench.live [--model sd-turbo] [--streams 1,4,8] [--rate 30] [--seconds 8] [--setting NAME=VALUE]

The model has random weights, of full size on a GPU and tiny on a CPU. Each camera sends `rate` pictures of 512x512 a
second by WHIP, one viewer watches each stream by WHEP and counts the pictures by their RTP markers. What is shown: the
pictures a second that the slowest stream's viewer got, the server's own delay hop by hop (its status, the worst of all
streams), what was dropped, and what runs the networks. Cameras, viewers and server share the machine.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import torch

from bench.support.clip import FRAME_RATE, Clip, make_clip
from bench.support.peers import Camera, MarkerViewer, until
from bench.support.random_models import FULL, write_full_model
from bench.support.targets import Sdstream, conditions, run_sdstream, settle
from sdstream.diffusion.tiny import write_tiny_model

FIRST_SECONDS = 120.0
"""How long the first picture may take: a model is loaded, and frames are captured."""
WARM_UP = 3.0
MODEL = "stabilityai/sd-turbo"


async def measure(target: Sdstream, clip: Clip, streams: int, seconds: float) -> dict[str, Any]:
    """Let `streams` cameras send for `seconds` after the warm-up."""
    async with httpx.AsyncClient(timeout=30) as http, AsyncExitStack() as stack:
        viewers: list[MarkerViewer] = []
        names: list[str] = []
        for _ in range(streams):
            record = await target.new_record(http, clip.size)
            names.append(record["id"])
            camera, viewer = Camera(clip, http), MarkerViewer(http, clip.ticks)
            stack.push_async_callback(camera.close)
            headers = await camera.open(record["whip_url"])
            stack.push_async_callback(viewer.close)
            await viewer.open(target.whep_url(record["whip_url"], headers))
            viewers.append(viewer)
        statuses: list[dict[str, Any]] = []

        async def diffused() -> bool:
            statuses[:] = [await status_of(http, target, name) for name in names]
            return all(status["inference_status"]["output_fps"] > 0 for status in statuses)

        async with asyncio.timeout(FIRST_SECONDS):
            while not await diffused():  # noqa: ASYNC110 - of another process
                await asyncio.sleep(0.5)
        await until(lambda: all(viewer.arrivals for viewer in viewers), 30, "pictures of all streams")
        await asyncio.sleep(WARM_UP)
        counts, began = [len(viewer.arrivals) for viewer in viewers], time.monotonic()
        await asyncio.sleep(seconds)
        passed = time.monotonic() - began
        rates = [(len(viewer.arrivals) - count) / passed for viewer, count in zip(viewers, counts, strict=True)]
        await diffused()
        capacity = (await http.get(f"{target.url}/v1/capacity", headers=target.headers)).json()
    return {
        "streams": streams,
        "slowest": round(min(rates), 2),
        "median": round(statistics.median(rates), 2),
        "statuses": statuses,
        "capacity": capacity,
    }


async def status_of(http: httpx.AsyncClient, target: Sdstream, name: str) -> dict[str, Any]:
    reply = await http.get(f"{target.url}/v1/streams/{name}/status", headers=target.headers)
    reply.raise_for_status()
    data: dict[str, Any] = reply.json()["data"]
    return data


def main() -> int:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=["tiny", *FULL], default="sd-turbo" if on_gpu else "tiny")
    parser.add_argument("--streams", default="1,4,8" if on_gpu else "1")
    parser.add_argument("--rate", type=int, default=FRAME_RATE if on_gpu else 2)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--setting", action="append", default=[], help="of the server, as NAME=VALUE")
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    device = torch.cuda.get_device_name() if on_gpu else "cpu"
    told = {**conditions(), "device": device, "model": options.model, "rate": options.rate}
    told |= {"settings": options.setting, "weights": "random"}
    with tempfile.TemporaryDirectory() as folder:
        if options.model == "tiny":
            write_tiny_model(Path(folder), "sd-turbo")
        else:
            write_full_model(Path(folder), options.model)
        settings = {"models": json.dumps({MODEL: folder}), "worker_spare": "false", "offline": "true"}
        settings |= dict(each.split("=", 1) for each in options.setting)
        with run_sdstream(**settings) as target:
            target.params = {"prompt": "a statue of marble", "t_index_list": [32], "acceleration": "none"}
            settle(target.process)
            clip = make_clip(rate=options.rate)
            for streams in (int(part) for part in options.streams.split(",")):
                rows.append(asyncio.run(measure(target, clip, streams, options.seconds)))
                show(rows[-1])
                if options.json:  # each time: the next number of streams may be too many
                    written = json.dumps({**told, "rows": rows}, indent=2)
                    Path(options.json).write_text(written + "\n", "utf-8")
    return 0


def show(row: dict[str, Any]) -> None:
    """Print what one number of streams got."""
    print(f"{row['streams']} streams: {row['slowest']} pictures a second to the slowest, {row['median']} in the middle")
    first = row["statuses"][0]
    told = {name: first.get(name) for name in ("state", "lane", "latency", "hops", "drops", "delays")}
    print("  " + json.dumps({name: value for name, value in told.items() if value is not None}), flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
