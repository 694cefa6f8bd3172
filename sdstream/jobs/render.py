"""The `render` job: a whole video, or one picture, through the pipeline of this worker."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any, cast

from sdstream.errors import CommandFailed, InvalidParams, Unavailable, WorkerUnavailable
from sdstream.file_errors import DiskFull
from sdstream.frames import I420Frame
from sdstream.job_errors import NotMedia
from sdstream.jobs.inputs import Job, RenderInput
from sdstream.jobs.outputs import Event, make_event
from sdstream.jobs.passage import FileListener, FilePlan, pass_all, plan_file
from sdstream.jobs.pictures import CONTENT_TYPES as PICTURE_TYPES
from sdstream.jobs.pictures import read_picture, write_picture
from sdstream.jobs.ports import Host
from sdstream.jobs.results import deliver_file, plan_result
from sdstream.jobs.side_by_side import SideBySide, open_lanes
from sdstream.jobs.sources import fetch_source
from sdstream.media.files.reader import VideoFacts, VideoReader
from sdstream.media.files.sizes import fit_size
from sdstream.media.files.writer import VideoWriter
from sdstream.model_errors import ModelUnavailable
from sdstream.params import StreamParams, parse_create
from sdstream.worker.ports import WorkerPhase

PROGRESS_SECONDS = 2.0
VIDEO_TYPES = {"mp4": "video/mp4", "mkv": "video/x-matroska", "mov": "video/quicktime", "webm": "video/webm"}


class RenderAction:
    """Renders one file a job. Files are in a folder of the job's own, which is gone when the job ends, however."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def run(self, job: Job, wanted: RenderInput) -> AsyncGenerator[Event]:
        """Events: `progress` now and then, then `rendered` with the result."""
        make_params(self._host, wanted.params, None)  # a wrong parameter is told before gigabytes are fetched
        started = self._host.clock.monotonic()
        with tempfile.TemporaryDirectory(prefix="sdstream-render-") as folder:
            source = Path(folder) / "source"
            if wanted.target.type != "base64":
                store, key = plan_result(job, wanted.target, "result")
                if store is not None:
                    await store.check(key)
            await fetch_source(job, wanted.source, source, self._host.settings)
            picture = await asyncio.to_thread(read_picture, source)
            work = self._video(job, wanted, source) if picture is None else self._picture(job, wanted, picture, source)
            async with contextlib.aclosing(work) as events:
                async for event in events:
                    yield event | {"seconds": round(self._host.clock.monotonic() - started, 2)}

    async def _picture(self, job: Job, wanted: RenderInput, picture: I420Frame, source: Path) -> AsyncGenerator[Event]:
        kind = wanted.format or "png"
        if kind not in PICTURE_TYPES:
            raise NotMedia(f"the source is a picture, which cannot become a {kind}")
        params, warnings = make_params(
            self._host,
            wanted.params,
            VideoFacts(picture.size.width, picture.size.height, None, picture.time_base, 1, None),
        )
        store, key = plan_result(job, wanted.target, f"result.{kind}")
        async with self._lanes(job, plan_file(params, 1, self._host.settings)) as lanes:
            result_of_it = lanes.process(picture)
            lanes.finish()
            made = await result_of_it
        file = source.with_name(f"result.{kind}")
        try:
            await asyncio.to_thread(lambda: file.write_bytes(write_picture(made, kind)))
        except OSError as error:
            raise Unavailable(f"the worker's disk does not take the result: {error.strerror}") from error
        result = await deliver_file(store, key, file.name, PICTURE_TYPES[kind], file)
        yield make_event(
            "rendered", frames=1, width=made.size.width, height=made.size.height, result=result, warnings=warnings
        )

    async def _video(self, job: Job, wanted: RenderInput, source: Path) -> AsyncGenerator[Event]:
        kind = wanted.format or "mp4"
        if kind not in VIDEO_TYPES:
            raise NotMedia(f"the source is a video, which cannot become a {kind}")
        store, key = plan_result(job, wanted.target, f"result.{kind}")
        with (
            _errors_of_jobs(),
            await asyncio.to_thread(VideoReader, source, name="the source", trusted=False) as reader,
        ):
            facts = await asyncio.to_thread(reader.facts)
            params, warnings = make_params(self._host, wanted.params, facts)
            plan = plan_file(params, wanted.at_once, self._host.settings)
            target = source.with_name(f"result.{kind}")
            writer = VideoWriter(target, reader, params.output_size, wanted.quality)
            try:
                writer.add_sound()
                async with self._lanes(job, plan) as lanes:
                    async with contextlib.aclosing(self._pass(reader, writer, lanes, facts)) as events:
                        frames = 0
                        async for event in events:
                            frames = event["frames"]
                            yield event
                if not frames:
                    raise NotMedia("the source has no picture that can be decoded")
                await asyncio.to_thread(writer.finish)
            except BaseException:  # whatever it was, it goes on: only the half file is taken away
                writer.abandon()
                raise
            result = await deliver_file(store, key, target.name, VIDEO_TYPES[kind], target)
            size = params.output_size
            yield make_event(
                "rendered",
                frames=frames,
                width=size.width,
                height=size.height,
                result=result,
                undecodable=reader.undecodable,
                notes=writer.notes,
                warnings=(*warnings, plan.note) if plan.note else warnings,
            )

    async def _pass(
        self, reader: VideoReader, writer: VideoWriter, lanes: SideBySide, facts: VideoFacts
    ) -> AsyncGenerator[Event]:
        """Progress every few seconds while the file passes; the last one has the whole number."""
        written = 0

        def note(count: int) -> None:
            nonlocal written
            written = count

        passing = asyncio.ensure_future(pass_all(reader, writer, lanes, note))
        try:
            while True:
                await asyncio.wait((passing,), timeout=PROGRESS_SECONDS)
                done = passing.done()
                if done:
                    written = passing.result()
                total = facts.frame_count
                percent = 100.0 if done else min(99.0, 100 * written / total) if total else None
                yield make_event(
                    "progress", frames=written, total=total, percent=None if percent is None else round(percent, 1)
                )
                if done:
                    return
        finally:
            passing.cancel()
            await asyncio.gather(passing, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def _lanes(self, job: Job, plan: FilePlan) -> AsyncGenerator[SideBySide]:
        """Lanes for one file. Raises `ModelUnavailable` afterwards where an image processor was passed over."""
        await wait_for_worker(self._host)
        name, listener = f"render {job.id}", FileListener()
        async with open_lanes(self._host.worker, name, plan.params, plan.at_once, listener) as lanes:
            yield lanes
        if listener.problems:
            raise ModelUnavailable("\n".join(listener.problems), hint=listener.hint)


@contextlib.contextmanager
def _errors_of_jobs() -> Generator[None]:
    """What is wrong with a file as a job tells it: the source's fault, but for a disk that is full."""
    try:
        yield
    except DiskFull as error:
        raise Unavailable("the worker's disk is full: there is no room for the result") from error
    except CommandFailed as error:
        raise NotMedia(error.message) from error


async def wait_for_worker(host: Host) -> None:
    """Wait until the worker process is ready. Raises `WorkerUnavailable` when it does not become so."""
    deadline = host.clock.monotonic() + host.settings.worker_start_timeout
    while not await host.worker.wait_ready(0.5):
        health = host.worker.health()
        if health.phase in (WorkerPhase.FAILED, WorkerPhase.STOPPED) or host.clock.monotonic() > deadline:
            raise WorkerUnavailable(f"the worker did not start: {health.last_error or 'it took too long'}")


def make_params(host: Host, given: object, facts: VideoFacts | None) -> tuple[StreamParams, tuple[str, ...]]:
    """The params of a job, as the REST API checks them, with a size that fits the file; and what was ignored.

    Raises `InvalidParams`.
    """
    if given is not None and not isinstance(given, dict):
        raise InvalidParams("params: must be an object")
    wanted: dict[str, Any] = dict(cast("dict[str, Any]", given or {}))
    if facts is not None:
        size = fit_size(facts.width, facts.height, fixed_width=wanted.get("width"), fixed_height=wanted.get("height"))
        wanted = {"width": size.width, "height": size.height} | wanted
    request = parse_create({"pipeline": "streamdiffusion", "params": wanted}, host.models, host.settings.size_policy)
    return request.params, request.warnings


__all__ = ["RenderAction", "make_params", "wait_for_worker"]
