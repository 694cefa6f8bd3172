"""What counts as the URL of a server, for all that people and programs give as one."""

from collections.abc import Collection
from urllib.parse import SplitResult, urlsplit


def split_url(url: str, schemes: Collection[str]) -> SplitResult | None:
    """The parts of a URL of one of `schemes`, which has a host and, if any, a port that there is; None for another."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bracket that is not closed, a port above 65535
        return None
    return parts if good else None


__all__ = ["split_url"]
