"""`sdstream bench`: how many pictures a second this machine makes of how many streams, and what makes it slow."""

import asyncio
import json
import re
from collections.abc import Sequence
from importlib.metadata import version
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sdstream import __version__
from sdstream.clock import SystemClock
from sdstream.commands.flags import with_settings
from sdstream.commands.machine import compute_capability
from sdstream.commands.measuring import Rates, measure
from sdstream.commands.running import cancel_on_termination, max_level, wait_for_worker
from sdstream.commands.slow_ways import slow_ways
from sdstream.commands.stream_params import (
    ModelFlag,
    ParamsFlag,
    ProcessorsFlag,
    SkipDiffusionFlag,
    gather_params,
    parse_params,
)
from sdstream.errors import ConfigurationError, SdstreamError
from sdstream.logs import configure_logging
from sdstream.params import StreamParams
from sdstream.settings import Settings
from sdstream.worker.client import WorkerProcess
from sdstream.worker.ports import LaneStatus, WorkerClient, WorkerHealth, kind_of
from sdstream.worker.server_end.configuration import WORKER_SETTINGS

ON_A_GPU, ELSEWHERE = (1, 2, 4, 8), (1,)
"""Numbers of streams where none are asked for."""
MOST_STREAMS = 64
FILM_RATE = 30.0
"""Pictures a second that most cameras send."""


@with_settings(only=(*sorted(WORKER_SETTINGS), "worker_device", "worker_threads", "log_level"))
def bench(
    *,
    model: ModelFlag = None,
    width: Annotated[int | None, Parameter(help="384 to 1024 by 64.")] = None,
    height: Annotated[int | None, Parameter(help="384 to 1024 by 64.")] = None,
    skip_diffusion: SkipDiffusionFlag = False,
    processors: ProcessorsFlag = None,
    params: ParamsFlag = None,
    streams: Annotated[
        str | None, Parameter(help="Numbers of streams at once; default: 1,2,4,8 on an NVIDIA GPU, else 1.")
    ] = None,
    seconds: Annotated[float, Parameter(help="How long each number of streams is measured.")] = 5.0,
    warm_up: Annotated[
        float, Parameter(help="How much longer than their first pictures take they run before they are measured.")
    ] = 1.0,
    as_json: Annotated[bool, Parameter(name="--json", help="Print the figures for programs.", negative=())] = False,
    settings: Settings,
) -> int:
    """Measure what this machine's worker makes, from pictures in shared memory to pictures in shared memory.

    No camera, codec or network takes part. The model is loaded, or fetched, as for a stream. Where more streams are
    asked for than the machine can carry, what was measured before is told all the same.
    """
    configure_logging(settings.model_copy(update={"log_level": max_level(settings.log_level)}))
    numbers = None if streams is None else read_numbers(streams)
    if not 0 < seconds <= 3600:
        raise ConfigurationError(f"--seconds: {seconds:g} is not between 0 and 3600", hint="")
    if not 0 <= warm_up <= 3600:
        raise ConfigurationError(f"--warm-up: {warm_up:g} is not between 0 and 3600", hint="")
    flags = {"model_id": model, "width": width, "height": height}
    wanted = gather_params(params, flags, skip_diffusion=skip_diffusion, processors=processors)
    request = parse_params(wanted, settings)
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    for warning in request.warnings:
        console.print(f"note: {warning}")
    alone = settings.model_copy(update={"worker_spare": False})  # nothing waits for a quick restart here
    run = BenchRun(request.params, numbers, seconds, warm_up, alone, console)
    try:
        health = asyncio.run(run.run())
    except asyncio.CancelledError:  # SIGTERM; what Ctrl-C raises is made of it by asyncio itself
        raise KeyboardInterrupt from None
    notes = notes_of(settings, request.params, health, run.rows)
    if run.problem:
        notes = (run.problem, *notes)
    if as_json:
        print(json.dumps(figures_of(request.params, health, run.rows, notes), indent=2))
    else:
        show(Console(highlight=False, markup=False), request.params, health, run.rows, notes)
    return 1 if run.problem else 0


class BenchRun:
    """One run: a worker, and one number of streams after another in it, until one cannot be carried."""

    def __init__(
        self,
        params: StreamParams,
        numbers: Sequence[int] | None,
        seconds: float,
        warm_up: float,
        settings: Settings,
        console: Console,
    ) -> None:
        self._params = params
        self._numbers = numbers
        self._seconds = seconds
        self._warm_up = warm_up
        self._settings = settings
        self._console = console
        self._clock = SystemClock()
        self.rows: list[Rates] = []
        self.problem = ""

    async def run(self) -> WorkerHealth:
        cancel_on_termination()
        worker = WorkerProcess(self._settings, self._clock)
        await worker.start()
        try:
            await wait_for_worker(worker, self._settings, self._clock, self._console)
            health = worker.health()
            numbers = self._numbers or (ON_A_GPU if health.device.startswith("cuda") else ELSEWHERE)
            await self.measure_each(worker, numbers)
            return health
        finally:
            await worker.close()

    async def measure_each(self, worker: WorkerClient, numbers: Sequence[int]) -> None:
        """Fill `rows`, until a number cannot be measured, which `problem` tells then. Raises where it is the first."""
        for number in numbers:
            try:
                self.rows.append(await self._measure(worker, number))
            except SdstreamError as error:
                if not self.rows:
                    raise
                self.problem = f"{number} streams could not be measured: {error.message}"
                return

    async def _measure(self, worker: WorkerClient, streams: int) -> Rates:
        subject = f"{streams} stream{'' if streams == 1 else 's'}"
        with self._console.status(subject) as line:

            def tell(status: LaneStatus) -> None:
                percent = "" if status.percent is None else f" {status.percent:.0f} %"
                line.update(Text(f"{subject}: {status.detail or status.phase.value}{percent}"))

            return await measure(
                worker, self._params, streams, self._seconds, self._clock, warm_up=self._warm_up, tell=tell
            )


def read_numbers(text: str) -> tuple[int, ...]:
    """The numbers of streams of `--streams`. Raises `ConfigurationError` where one is none."""
    numbers: list[int] = []
    for part in text.split(","):
        if not re.fullmatch(r"\s*[0-9]{1,9}\s*", part) or not 1 <= int(part) <= MOST_STREAMS:
            raise ConfigurationError(
                f"--streams: {part.strip()[:20]!r} is no number between 1 and {MOST_STREAMS}", hint="Such as 1,2,4."
            )
        numbers.append(int(part))
    return tuple(numbers)


def notes_of(settings: Settings, params: StreamParams, health: WorkerHealth, rows: Sequence[Rates]) -> tuple[str, ...]:
    """What would make it faster, and what was left out."""
    _, _, number = settings.worker_device.partition(":")
    capability = compute_capability(int(number) if number.isdigit() else 0)
    status = rows[-1].status
    absent = [f"{each.name} is left out: {each.problem}" for each in status.processors if each.phase == "left_out"]
    return (*slow_ways(settings, params, health.device, status.acceleration, capability), *absent)


def enough_for(rows: Sequence[Rates]) -> str:
    """For how many streams of a usual camera it is enough, of those that were measured."""
    good = [row.streams for row in rows if row.rate_each >= FILM_RATE]
    if not good:
        return f"Not enough for one camera of {FILM_RATE:.0f} pictures a second."
    most = max(good)
    least = "at least " if most == max(row.streams for row in rows) else ""
    return f"Enough for {least}{most} camera{'' if most == 1 else 's'} of {FILM_RATE:.0f} pictures a second."


def figures_of(
    params: StreamParams, health: WorkerHealth, rows: Sequence[Rates], notes: Sequence[str]
) -> dict[str, Any]:
    """The same for programs."""
    kind = kind_of(params)
    return {
        "sdstream": __version__,
        "torch": version("torch"),
        "date": SystemClock().now().date().isoformat(),
        "device": health.device,
        "processor": health.processor,
        "model_id": kind.model_id or None,
        "width": kind.width,
        "height": kind.height,
        "t_index_list": None if params.skip_diffusion else list(params.t_index_list),
        "processors": list(kind.processors),
        "rows": [
            {
                "streams": row.streams,
                "pictures_a_second": round(row.rate, 2),
                "pictures_a_second_each": round(row.rate_each, 2),
                "call_ms": None if row.call_seconds is None else round(1000 * row.call_seconds, 3),
                "p99_ms": round(1000 * row.longest_seconds, 3),
                "pictures": row.pictures,
                "seconds": round(row.seconds, 3),
                "memory_used": row.memory_used,
                "memory_total": row.memory_total,
                "acceleration": row.status.acceleration or None,
            }
            for row in rows
        ],
        "notes": list(notes),
    }


def show(
    console: Console, params: StreamParams, health: WorkerHealth, rows: Sequence[Rates], notes: Sequence[str]
) -> None:
    """Print a table for a person, and what would make it faster."""
    runs = f", {rows[-1].status.acceleration}" if rows[-1].status.acceleration else ""
    console.print(f"{kind_of(params).described}; {health.device} ({health.processor}){runs}")
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("streams", justify="right")
    table.add_column("pictures a second", justify="right")
    table.add_column("each", justify="right")
    table.add_column("a call, ms", justify="right")
    table.add_column("99 % within, ms", justify="right")
    table.add_column("memory, GiB", justify="right")
    for row in rows:
        table.add_row(
            str(row.streams),
            Text(f"{row.rate:.1f}", "bold"),
            f"{row.rate_each:.1f}",
            "-" if row.call_seconds is None else f"{1000 * row.call_seconds:.1f}",
            f"{1000 * row.longest_seconds:.1f}",
            memory_text(row.memory_used, row.memory_total),
        )
    console.print(table)
    console.print(enough_for(rows))
    for note in notes:
        console.print(f"note: {note}", style="dim")


def memory_text(used: int | None, total: int | None) -> str:
    """Of the device, in GiB."""
    if used is None:
        return "-"
    return f"{used / 2**30:.1f}" + ("" if total is None else f" of {total / 2**30:.0f}")


__all__ = ["BenchRun", "bench", "enough_for", "figures_of", "notes_of", "read_numbers", "show"]
