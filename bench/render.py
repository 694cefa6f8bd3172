"""A whole file through a worker, with one picture and with several in a call.

    python -m bench.render [--model sd-turbo] [--at-once 1,2,4,8] [--side 512] [--pictures 300] [--rounds 3]

What `sdstream render` does with a film of so many pictures, the model loaded and each number of pictures a call done
once before: decoding, the way to the worker and back, the model, and x264. The model has random weights, of full size
on a GPU and tiny on a CPU; `--model none` shows what the way takes without one. All numbers take turns in each round;
shown are the medians of pictures a second, and the ratio to the first of them.
"""

import argparse
import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import torch

from bench.support.clip import LENGTH, make_clip
from bench.support.random_models import FULL, write_full_model
from bench.support.targets import conditions
from sdstream.clock import SystemClock
from sdstream.diffusion.tiny import write_tiny_model
from sdstream.frames import PictureSize
from sdstream.jobs.passage import SilentListener, pass_all, plan_file
from sdstream.jobs.side_by_side import open_lanes
from sdstream.media.files.reader import VideoReader
from sdstream.media.files.writer import VideoWriter
from sdstream.params import ModelTable, StreamParams, parse_create
from sdstream.settings import Settings
from sdstream.worker.client import WorkerProcess

MODEL = "stabilityai/sd-turbo"
FAMILY_OF = {
    "sd-turbo": MODEL,
    "sdxl-turbo": "stabilityai/sdxl-turbo",
    "sd15": "Lykon/dreamshaper-8",
    "tiny": MODEL,
    "none": MODEL,
}
QUALITY = 18
WARM_UP = 24
"""Pictures of the file that each number of pictures a call is shown before anything is timed."""


def write_film(path: Path, side: int, pictures: int) -> None:
    """A film of so many moving pictures, nearly lossless."""
    clip = make_clip(size=PictureSize(side, side))
    with av.open(str(path), "w") as container:
        video: Any = container.add_stream("libx264", rate=clip.rate, options={"crf": "12", "preset": "ultrafast"})
        video.width = video.height = side
        video.pix_fmt = "yuv420p"
        for index in range(pictures):
            picture = clip.frames[index % LENGTH]
            picture.pts = index
            picture.time_base = Fraction(1, clip.rate)
            container.mux(video.encode(picture))
        container.mux(video.encode(None))


async def pass_film(worker: WorkerProcess, params: StreamParams, at_once: int, film: Path) -> float:
    """Pictures a second from the first that is written to the last."""
    moments: list[float] = []
    with VideoReader(film) as reader:
        writer = VideoWriter(film.with_name("made.mp4"), reader, params.output_size, QUALITY)
        try:
            async with open_lanes(worker, f"file of {at_once}", params, at_once, SilentListener()) as lanes:
                await pass_all(reader, writer, lanes, lambda count: moments.append(time.perf_counter()))
        finally:
            writer.abandon()
    return (len(moments) - 1) / (moments[-1] - moments[0])


async def measure(
    settings: Settings, params: StreamParams, films: tuple[Path, Path], numbers: Sequence[int], rounds: int
) -> dict[int, list[float]]:
    """Pictures a second of each round by the number of pictures a call; the first of `films` warms up."""
    worker = WorkerProcess(settings, SystemClock())
    await worker.start()
    rates: dict[int, list[float]] = {number: [] for number in numbers}
    try:
        while not await worker.wait_ready(1.0):
            pass
        # One lane stays, and with it the model.
        async with open_lanes(worker, "kept", params, 1, SilentListener()):
            for number in numbers:
                await pass_film(worker, params, number, films[0])
            for _ in range(rounds):
                for number in numbers:
                    rates[number].append(await pass_film(worker, params, number, films[1]))
    finally:
        await worker.close()
    return rates


def main() -> int:
    on_gpu = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", choices=["none", "tiny", *FULL], default="sd-turbo" if on_gpu else "tiny")
    parser.add_argument("--at-once", default="1,2,4,8")
    parser.add_argument("--side", type=int, default=512 if on_gpu else 384, help="of the pictures, in pixels")
    parser.add_argument("--pictures", type=int, default=300 if on_gpu else 48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", default="32", help="t_index_list")
    parser.add_argument("--json", help="write the figures to this file")
    options = parser.parse_args()
    numbers = [int(part) for part in options.at_once.split(",")]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.model in ("tiny", "none"):
            write_tiny_model(folder / "model", "sd-turbo")
        else:
            write_full_model(folder / "model", options.model)
        identity = FAMILY_OF[options.model]
        settings = Settings.model_validate(
            {
                "models": json.dumps({identity: str(folder / "model")}),
                "data_dir": str(folder / "data"),
                "offline": True,
                "worker_spare": False,
                "log_level": "warning",
            }
        )
        steps = [int(part) for part in options.steps.split(",")]
        wanted = {"model_id": identity, "width": options.side, "height": options.side, "t_index_list": steps}
        body = {
            "pipeline": "streamdiffusion",
            "params": wanted | {"acceleration": "none", "skip_diffusion": options.model == "none"},
        }
        params = plan_file(parse_create(body, ModelTable.from_settings(settings)).params, max(numbers), settings).params
        films = (folder / "short.mp4", folder / "long.mp4")
        for film, pictures in zip(films, (WARM_UP, options.pictures), strict=True):
            write_film(film, options.side, pictures)
        rates = asyncio.run(measure(settings, params, films, numbers, options.rounds))
    first = statistics.median(rates[numbers[0]])
    rows = [
        {"at_once": number, "rates": [round(rate, 2) for rate in each], "rate": round(statistics.median(each), 2)}
        for number, each in rates.items()
    ]
    print(f"{options.model}, {options.side}x{options.side}, steps {options.steps}, {options.pictures} pictures")
    for row in rows:
        print(f"{row['at_once']:3} a call: {row['rate']:8.2f} pictures a second, {row['rate'] / first:5.2f} times")
    if options.json:
        device = torch.cuda.get_device_name() if on_gpu else "cpu"
        how = {**conditions(), "device": device, "weights": "random"}
        told = {"model": options.model, "side": options.side, "steps": steps, "pictures": options.pictures}
        written = json.dumps({**how, **told, "rows": rows}, indent=2)
        Path(options.json).write_text(written + "\n", "utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
