"""A whole file through a lane: read, process and write at the same time, every picture, in order."""

import asyncio
from collections import deque
from collections.abc import Callable
from fractions import Fraction

import structlog

from sdstream.frames import I420Frame
from sdstream.media.files.reader import VideoReader
from sdstream.media.files.writer import VideoWriter
from sdstream.worker.ports import Lane, LaneStatus, ProcessedPicture

UNDER_WAY = 6
"""Pictures that the worker holds at a time: enough that reading, processing and writing overlap."""

logger = structlog.get_logger(__name__)


class SilentListener:
    """Hears a lane and says nothing: `process` raises what matters."""

    def on_picture(self, picture: ProcessedPicture) -> None:
        logger.warning("picture_nobody_waits_for", sequence=picture.frame.sequence)

    def on_lane_status(self, status: LaneStatus) -> None:
        logger.debug("lane", phase=status.phase.value, detail=status.detail)


async def pass_all(
    reader: VideoReader, writer: VideoWriter, lane: Lane, late: int, on_written: Callable[[int], None]
) -> int:
    """Every picture of `reader` through `lane` into `writer`, sound going along between the pictures.

    The pipeline gives a picture `late` pictures late. What leaves it before the first one is dropped, the last one is
    given again as often, and so each picture of the source has its own, with its time.
    Returns the number of pictures written, of which `on_written` is told each time. Raises what `Lane.process` and the
    two files raise.
    """
    under_way: deque[asyncio.Future[I420Frame]] = deque()
    times: deque[tuple[int, Fraction]] = deque()
    packets = reader.packets()
    last: I420Frame | None = None
    early, written = late, 0

    async def write_oldest() -> None:
        nonlocal early, written
        picture = await under_way.popleft()
        if early > 0:
            early -= 1
            return
        pts, time_base = times.popleft()
        await asyncio.to_thread(writer.write_picture, picture.at(pts, time_base))
        written += 1
        on_written(written)

    try:
        while (packet := await asyncio.to_thread(next, packets, None)) is not None:
            if packet.stream is not reader.stream:
                await asyncio.to_thread(writer.write_sound, packet)
                continue
            for picture in await asyncio.to_thread(reader.decode, packet):
                last = picture
                times.append((picture.pts, picture.time_base))
                under_way.append(asyncio.ensure_future(lane.process(picture)))
                while len(under_way) > UNDER_WAY:
                    await write_oldest()
        if last is not None:
            under_way.extend(asyncio.ensure_future(lane.process(last)) for _ in range(late))
        while under_way:
            await write_oldest()
    finally:
        for future in under_way:
            future.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
    return written


__all__ = ["UNDER_WAY", "SilentListener", "pass_all"]
