"""Whether a load had anything to tell: where all was in memory already, a running stream is not said to load."""

from sdstream.diffusion.loading.models import Progress


class HeardProgress:
    """Passes progress on, and remembers whether there was any. For one thread."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self.anything = False
        """Whether anything was told."""

    def __call__(self, detail: str, percent: float | None) -> None:
        self.anything = True
        self._progress(detail, percent)


__all__ = ["HeardProgress"]
