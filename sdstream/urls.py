"""What counts as the URL of a server or a bucket, for all that people and programs give as one."""

import re
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


def split_bucket(url: str) -> tuple[str, str]:
    """The name and the prefix, without slashes around it, of `s3://BUCKET/PREFIX`.

    Raises `ValueError` for another, which is not shown, because people write keys into addresses.
    """
    parts = re.fullmatch(r"s3://([A-Za-z0-9._-]{1,255})(?:/([^?#]*))?", url)
    if parts is None:
        raise ValueError("must be written s3://BUCKET or s3://BUCKET/PREFIX, without keys, ? and #")
    return parts[1], (parts[2] or "").strip("/")


def check_bucket_endpoint(url: str) -> str:
    """The address of an S3 service, as it is. Raises `ValueError` for what is none, which is not shown."""
    parts = split_url(url, ("http", "https"))
    if parts is None or "@" in parts.netloc:
        raise ValueError("must be the address of an S3 service, such as https://HOST:PORT, without keys")
    return url


__all__ = ["check_bucket_endpoint", "split_bucket", "split_url"]
