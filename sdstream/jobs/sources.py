"""What a render job reads: brought into a file of the job's own folder, with limits on size, time and address."""

import asyncio
import binascii
from pathlib import Path

from sdstream.errors import Unavailable
from sdstream.fetching import FetchProblem, PublicFetcher
from sdstream.job_errors import InvalidJob, SourceRefused
from sdstream.jobs.inputs import Job, Source
from sdstream.jobs.storage import Store, find_bucket
from sdstream.settings import Settings


async def fetch_source(job: Job, source: Source, file: Path, settings: Settings) -> None:
    """Write the source into `file`. Raises `SourceRefused`, `InvalidJob` or `StorageFailed`, and `Unavailable` when the
    disk does not take it."""
    try:
        await _fetch(job, source, file, settings)
    except OSError as error:
        raise Unavailable(f"the worker's disk does not take the source: {error.strerror}") from error


async def _fetch(job: Job, source: Source, file: Path, settings: Settings) -> None:
    if source.base64 is not None:
        content = await asyncio.to_thread(_decode, source.base64)
        await asyncio.to_thread(file.write_bytes, content)
    elif source.s3 is not None:
        bucket = find_bucket(job.bucket)
        if bucket is None:
            raise InvalidJob(
                "input.source.s3 names an object, but there is no bucket",
                hint="Give the job an s3Config, or the endpoint BUCKET_ENDPOINT_URL and its keys.",
            )
        await Store(bucket).get_file(source.s3, file, settings.max_download_bytes)
    elif source.url is not None:
        await _download(source.url, file, settings)


async def _download(url: str, file: Path, settings: Settings) -> None:
    fetcher = PublicFetcher(_anywhere if settings.private_downloads else None, seconds=settings.download_timeout)
    try:
        with file.open("wb") as target:
            await fetcher.download(url, target, settings.max_download_bytes, lambda came, total: None)
    except FetchProblem as problem:
        raise SourceRefused(f"input.source.url {problem}") from problem
    finally:
        fetcher.close()


def _anywhere(address: str) -> bool:
    return True


def _decode(text: str) -> bytes:
    if text[:5].lower() == "data:":
        text = text.partition(",")[2]
    try:
        return binascii.a2b_base64("".join(text.split()), strict_mode=True)
    except ValueError:
        raise SourceRefused("input.source.base64 is not base64") from None


__all__ = ["fetch_source"]
