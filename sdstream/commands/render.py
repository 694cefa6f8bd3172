"""`sdstream render`: a whole file through the worker's pipeline, every picture, in order."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from sdstream.clock import SystemClock
from sdstream.commands.flags import with_settings
from sdstream.commands.running import cancel_on_termination, max_level, wait_for_worker
from sdstream.commands.stream_params import (
    ModelFlag,
    ParamsFlag,
    ProcessorsFlag,
    SkipDiffusionFlag,
    gather_params,
    parse_params,
)
from sdstream.errors import CommandFailed, ConfigurationError
from sdstream.jobs.passage import FileListener, pass_all, plan_file
from sdstream.jobs.side_by_side import MOST_LANES, SideBySide, open_lanes
from sdstream.logs import configure_logging
from sdstream.media.files.reader import VideoFacts, VideoReader
from sdstream.media.files.sizes import fit_size
from sdstream.media.files.writer import VideoWriter
from sdstream.params import StreamParams
from sdstream.settings import Settings
from sdstream.worker.client import WorkerProcess


@dataclass(frozen=True, slots=True)
class RenderJob:
    """What is to be done, decided before anything is opened for writing."""

    source: Path
    target: Path
    params: StreamParams
    quality: int
    at_once: int
    warnings: tuple[str, ...]


@with_settings(
    only=(
        "data_dir",
        "worker_device",
        "worker_threads",
        "models",
        "controlnets",
        "default_model",
        "offline",
        "shipped_pins",
        "log_level",
    )
)
def render(
    source: Annotated[Path, Parameter(name="IN", help="The video file to read.")],
    target: Annotated[Path, Parameter(name="OUT", help="The file to write; its ending picks the format.")],
    /,
    *,
    model: ModelFlag = None,
    prompt: Annotated[str | None, Parameter(help="What the pictures shall show.")] = None,
    seed: Annotated[int | None, Parameter(help="Seed of the noise.")] = None,
    width: Annotated[int | None, Parameter(help="384 to 1024 by 64; default: nearest to the file's aspect.")] = None,
    height: Annotated[int | None, Parameter(help="384 to 1024 by 64; default: nearest to the file's aspect.")] = None,
    skip_diffusion: SkipDiffusionFlag = False,
    processors: ProcessorsFlag = None,
    params: ParamsFlag = None,
    quality: Annotated[int, Parameter(help="x264's CRF: 0 lossless, 18 fine, 28 small, 51 worst.")] = 18,
    at_once: Annotated[
        int,
        Parameter(help=f"Pictures made in one call, 1 to {MOST_LANES}: faster on a GPU, for more memory."),
    ] = 1,
    overwrite: Annotated[bool, Parameter(help="Replace OUT when it exists.", negative=())] = False,
    settings: Settings,
) -> int:
    """Process a whole video file: every picture in order with its own time, sound copied.

    OUT appears only when it is complete; Ctrl-C leaves nothing behind. With --at-once 1 two runs give the same file.
    """
    configure_logging(settings.model_copy(update={"log_level": max_level(settings.log_level)}))
    _check_target(source, target, overwrite=overwrite)
    if not 0 <= quality <= 51:
        raise ConfigurationError(f"--quality: {quality} is not between 0 and 51", hint="")
    if not 1 <= at_once <= MOST_LANES:
        raise ConfigurationError(f"--at-once: {at_once} is not between 1 and {MOST_LANES}", hint="")
    with VideoReader(source) as reader:
        flags = {"model_id": model, "prompt": prompt, "seed": seed, "width": width, "height": height}
        facts = reader.facts()
        wanted = collect_params(params, flags, facts, skip_diffusion=skip_diffusion, processors=processors)
        job = make_job(source, target, wanted, quality, settings, at_once)
        console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
        for warning in job.warnings:
            console.print(f"note: {warning}")
        alone = settings.model_copy(update={"worker_spare": False})  # nothing waits for a quick restart here
        try:
            return asyncio.run(_Rendering(job, reader, facts, alone, console).run())
        except asyncio.CancelledError:  # SIGTERM; what Ctrl-C raises is made of it by asyncio itself
            raise KeyboardInterrupt from None


class _Rendering:
    """One run of a job; `run` leaves a whole file or none."""

    def __init__(
        self, job: RenderJob, reader: VideoReader, facts: VideoFacts, settings: Settings, console: Console
    ) -> None:
        self._job = job
        self._reader = reader
        self._facts = facts
        self._settings = settings
        self._console = console
        self._clock = SystemClock()
        self._written = 0
        self._listener = FileListener()

    async def run(self) -> int:
        started = self._clock.monotonic()
        cancel_on_termination()
        writer = VideoWriter(self._job.target, self._reader, self._job.params.output_size, self._job.quality)
        try:
            writer.add_sound()
            worker = WorkerProcess(self._settings, self._clock)
            await worker.start()
            try:
                await wait_for_worker(worker, self._settings, self._clock, self._console)
                async with open_lanes(worker, "render", self._job.params, self._job.at_once, self._listener) as lanes:
                    await self._pass_all(lanes, writer)
            finally:
                await worker.close()
            if self._written == 0:
                raise CommandFailed(f"{self._job.source} has no picture that can be decoded")
            self._refuse_left_out()
            await asyncio.to_thread(writer.finish)
        except BaseException:  # whatever it was, it goes on: only the half file is taken away
            writer.abandon()
            raise
        self._tell(writer, self._clock.monotonic() - started)
        return 0

    async def _pass_all(self, lanes: SideBySide, writer: VideoWriter) -> None:
        with _progress(self._console) as progress:
            bar = progress.add_task("rendering", total=self._facts.frame_count)
            self._written = await pass_all(
                self._reader, writer, lanes, lambda count: progress.update(bar, completed=count)
            )
            progress.update(bar, total=self._written)

    def _refuse_left_out(self) -> None:
        """Raises `CommandFailed` where an image processor was passed over."""
        if problems := self._listener.problems:
            raise CommandFailed("\n".join(problems), hint=self._listener.hint)

    def _tell(self, writer: VideoWriter, seconds: float) -> None:
        size = self._job.params.output_size
        self._console.print(
            f"{self._written} pictures of {size} in {seconds:.1f} s, {self._written / seconds:.1f} a second: "
            f"{self._job.target}"
        )
        if self._reader.undecodable:
            self._console.print(f"note: {self._reader.undecodable} damaged packets of the source gave no picture")
        for note in writer.notes:
            self._console.print(f"note: {note}")


class _RateColumn(ProgressColumn):
    """Pictures a second."""

    def render(self, task: Task) -> Text:
        return Text("- fps" if task.speed is None else f"{task.speed:.1f} fps", "cyan")


def collect_params(
    file: Path | None, flags: Mapping[str, Any], facts: VideoFacts, *, skip_diffusion: bool, processors: str | None
) -> dict[str, Any]:
    """The parameters to ask for: those of the file, then the flags, then a size that fits the video.

    Raises `ConfigurationError` when the file cannot be read or is no JSON object.
    """
    wanted = gather_params(file, flags, skip_diffusion=skip_diffusion, processors=processors)
    size = fit_size(facts.width, facts.height, fixed_width=wanted.get("width"), fixed_height=wanted.get("height"))
    return {"width": size.width, "height": size.height} | wanted


def make_job(
    source: Path,
    target: Path,
    wanted: dict[str, Any],
    quality: int,
    settings: Settings,
    at_once: int = 1,
) -> RenderJob:
    """Validate the parameters as the REST API does; `settings` name the models.

    Raises `ConfigurationError` that names each wrong one.
    """
    request = parse_params(wanted, settings)
    plan = plan_file(request.params, at_once, settings)
    notes = (*request.warnings, plan.note) if plan.note else request.warnings
    return RenderJob(source, target, plan.params, quality, plan.at_once, notes)


def _check_target(source: Path, target: Path, *, overwrite: bool) -> None:
    if not target.suffix:
        raise ConfigurationError(
            f"{target} has no ending that picks a format", hint="Name it OUT.mp4, .mkv, .mov or .webm."
        )
    if not target.absolute().parent.is_dir():
        raise ConfigurationError(f"the directory {target.absolute().parent} is not there", hint="")
    try:
        target.stat()  # `exists` tells of no error from Python 3.14 on
        exists = True
    except FileNotFoundError:
        exists = False
    except OSError as error:
        raise ConfigurationError(f"{target}: {error.strerror}", hint="") from None
    if exists:
        if target.is_dir():
            raise ConfigurationError(f"{target} is a directory", hint="")
        if source.exists() and target.samefile(source):
            raise ConfigurationError("IN and OUT are the same file", hint="")
        if not overwrite:
            raise ConfigurationError(f"{target} exists", hint="--overwrite replaces it.")


def _progress(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        _RateColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )


__all__ = ["RenderJob", "collect_params", "fit_size", "make_job", "render"]
