"""What is being fetched, and how much of it is there, for those who wait."""

import sys

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn


class DownloadBar:
    """What comes, shown on a terminal as a bar and elsewhere as one line for each file.

    `first` is said until something else is.
    """

    def __init__(self, first: str = "asking the hub") -> None:
        console = Console(stderr=True, highlight=False, markup=False)
        self._lines = not console.is_terminal
        self._last = ""
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=self._lines,
        )
        self._task = self._progress.add_task(first, total=None)
        self._percent = 0.0

    def __enter__(self) -> "DownloadBar":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def tell(self, detail: str, percent: float | None) -> None:
        """`Progress` of `sdstream.pace`."""
        if self._lines:
            subject = detail.partition(",")[0]
            if subject != self._last:
                print(subject, file=sys.stderr)
            self._last = subject
            return
        if percent is None or percent < self._percent:  # something else; a task that was at its end stays there
            self._progress.remove_task(self._task)
            self._task = self._progress.add_task(detail, total=None)
        self._percent = percent or 0.0
        total = None if percent is None else 100.0
        self._progress.update(self._task, description=detail, total=total, completed=self._percent)


__all__ = ["DownloadBar"]
