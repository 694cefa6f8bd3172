"""The warm start: the default model is loaded, and makes a picture, before the server calls itself ready."""

import asyncio

import numpy
import structlog

from sdstream.clock import Clock
from sdstream.errors import SdstreamError
from sdstream.frames import I420Frame, split_planes
from sdstream.params import StreamParams
from sdstream.worker.ports import LaneStatus, ProcessedPicture, WorkerClient

LANE = "warm start"
GREY = 128

log = structlog.get_logger(__name__)


class WarmStart:
    """Its lane is closed once it has made its picture: the worker keeps the model loaded last until another is loaded.

    What fails is logged, and the start is over all the same: streams that need no model, or another, can be served.
    """

    def __init__(self, worker: WorkerClient, params: StreamParams, clock: Clock) -> None:
        self._worker = worker
        self._params = params
        self._clock = clock
        self._task: asyncio.Task[None] | None = None

    @property
    def is_under_way(self) -> bool:
        return self._task is not None and not self._task.done()

    def start(self) -> None:
        """Begin; the worker may be starting still."""
        self._task = asyncio.create_task(self._run(), name=LANE)

    async def close(self) -> None:
        """Give it up. Idempotent."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        began = self._clock.monotonic()
        size = self._params.output_size
        grey = I420Frame(*split_planes(numpy.full(size.byte_count, GREY, numpy.uint8), size))
        lane = await self._worker.open_lane(LANE, self._params, 1, _Nobody())
        try:
            await lane.process(grey)
        except SdstreamError as error:
            log.error("the warm start failed", model=self._params.model_id, code=error.code, problem=error.message)
        else:
            seconds = round(self._clock.monotonic() - began, 2)
            log.info("the default model is warm", model=self._params.model_id, seconds=seconds)
        finally:
            await lane.close()


class _Nobody:
    """Listens to the lane: the picture is for nobody, and the result of `process` tells how it went."""

    def on_picture(self, picture: ProcessedPicture) -> None: ...

    def on_lane_status(self, status: LaneStatus) -> None: ...


__all__ = ["WarmStart"]
