"""A command that runs for long: the start of a worker of its own, what ends it, how much it logs."""

import asyncio

from rich.console import Console

from sdstream.clock import SystemClock
from sdstream.errors import CommandFailed
from sdstream.platform.processes import on_termination
from sdstream.settings import Settings
from sdstream.worker.ports import WorkerClient, WorkerPhase


async def wait_for_worker(worker: WorkerClient, settings: Settings, clock: SystemClock, console: Console) -> None:
    """Wait until it is ready, and say so meanwhile. Raises `CommandFailed` when it does not start."""
    deadline = clock.monotonic() + settings.worker_start_timeout
    with console.status("starting the worker"):
        while not await worker.wait_ready(0.25):
            health = worker.health()
            if health.phase is WorkerPhase.FAILED or clock.monotonic() > deadline:
                raise CommandFailed(
                    f"the worker did not start: {health.last_error or 'it took too long'}",
                    hint="`sdstream doctor` checks torch and the device.",
                )


def cancel_on_termination() -> None:
    """Have SIGTERM end the present task as Ctrl-C does."""
    task = asyncio.current_task()
    if task is not None:
        on_termination(task.cancel)


def max_level(level: str) -> str:
    """The log level while a progress bar is on the screen: warnings at least, unless debugging."""
    return "warning" if level == "info" else level


__all__ = ["cancel_on_termination", "max_level", "wait_for_worker"]
