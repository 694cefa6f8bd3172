"""Pictures, params and listeners for the tests of the worker."""

import asyncio
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy

from sdstream.frames import I420Frame, PictureSize, split_planes
from sdstream.params import ModelTable, StreamParams, parse_create
from sdstream.worker.ports import LaneStatus, ProcessedPicture

MODELS = ModelTable()


def make_params(*processors: str | Mapping[str, Any], **fields: Any) -> StreamParams:
    """Params of a stream that runs image processors only; `processors` form its post-processing block."""
    blocks = [{"type": processor} if isinstance(processor, str) else dict(processor) for processor in processors]
    body: dict[str, Any] = {"model_id": "stabilityai/sd-turbo", "skip_diffusion": True, "width": 384, "height": 384}
    if blocks:
        body["image_postprocessing"] = {"processors": blocks}
    return parse_create({"pipeline": "streamdiffusion", "params": body | fields}, MODELS).params


def noise(size: PictureSize, seed: int = 0, **facts: Any) -> I420Frame:
    """A picture of random colours that RGB has: patches of 8x8 pixels, so that chroma is not lost."""
    random = numpy.random.default_rng(seed)
    packed = numpy.empty(size.byte_count, numpy.uint8)
    y, u, v = split_planes(packed, size)
    rows, columns = -(-size.height // 8), -(-size.width // 8)
    tile = numpy.ones((8, 8), numpy.uint8)
    y[...] = numpy.kron(random.integers(90, 160, (rows, columns), numpy.uint8), tile)[: size.height, : size.width]
    half = numpy.ones((4, 4), numpy.uint8)
    for plane in (u, v):
        values = random.integers(108, 149, (rows, columns), numpy.uint8)
        plane[...] = numpy.kron(values, half)[: size.height // 2, : size.width // 2]
    return I420Frame(y, u, v, **facts)


def flat(size: PictureSize, luma: int, sequence: int = 0, **facts: Any) -> I420Frame:
    """A grey picture of one luma."""
    packed = numpy.full(size.byte_count, 128, numpy.uint8)
    y, u, v = split_planes(packed, size)
    y[...] = luma
    return I420Frame(y, u, v, sequence=sequence, pts=sequence * 3000, **facts)


class Recorder:
    """A `LaneListener` that keeps copies and lets tests wait for them."""

    def __init__(self) -> None:
        self.pictures: list[ProcessedPicture] = []
        self.statuses: list[LaneStatus] = []
        self._lock = threading.Lock()

    def on_picture(self, picture: ProcessedPicture) -> None:
        kept = ProcessedPicture(picture.frame.copy(), picture.revision, picture.worker_seconds, picture.queue_seconds)
        with self._lock:
            self.pictures.append(kept)

    def on_lane_status(self, status: LaneStatus) -> None:
        self.statuses.append(status)

    @property
    def sequences(self) -> list[int]:
        return [picture.frame.sequence for picture in self.pictures]


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until `condition` holds; fails after `seconds`."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - conditions of any kind, some of other threads
            await asyncio.sleep(0.005)
