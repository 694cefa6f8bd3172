"""Results of jobs: into the bucket or, when small, as base64 into the answer; never onto the worker's own disk."""

import asyncio
import base64
from pathlib import Path
from typing import Any

from sdstream.job_errors import InvalidJob, ResultTooLarge
from sdstream.jobs.inputs import Job, Target
from sdstream.jobs.outputs import MAX_BASE64_BYTES
from sdstream.jobs.storage import Store, find_bucket

FOLDER = "sdstream"
"""Where results are in the bucket when the job names no key."""


def plan_result(job: Job, target: Target, filename: str) -> tuple[Store | None, str]:
    """The store for a result, None for base64, and its key. Raises `InvalidJob` or `StorageFailed`.

    The key follows from the job's id, so that a job that runs again writes the same object again.
    """
    key = target.key or f"{FOLDER}/{job.id}/{filename}"
    if target.type == "base64":
        return None, key
    bucket = find_bucket(job.bucket)
    if bucket is not None:
        return Store(bucket), key
    if target.type == "s3":
        raise InvalidJob(
            "input.target.type is s3, but there is no bucket",
            hint="Give the job an s3Config, or the endpoint BUCKET_ENDPOINT_URL and its keys.",
        )
    return None, key


async def deliver(job: Job, target: Target, filename: str, content_type: str, content: bytes) -> dict[str, Any]:
    """Hand over a result from memory. Raises `ResultTooLarge`, `InvalidJob` or `StorageFailed`."""
    store, key = plan_result(job, target, filename)
    if store is None:
        return in_base64(filename, content_type, content)
    link = await store.put_bytes(key, content, content_type)
    return stored(store, key, filename, content_type, len(content), link)


async def deliver_file(store: Store | None, key: str, filename: str, content_type: str, file: Path) -> dict[str, Any]:
    """Hand over a result from a file; `store` and `key` are `plan_result`'s."""
    size = (await asyncio.to_thread(file.stat)).st_size
    if store is None:
        if size > MAX_BASE64_BYTES:  # before it is read: it may have gigabytes
            raise _too_large(size)
        return in_base64(filename, content_type, await asyncio.to_thread(file.read_bytes))
    link = await store.put_file(key, file, content_type)
    return stored(store, key, filename, content_type, size, link)


def in_base64(filename: str, content_type: str, content: bytes) -> dict[str, Any]:
    """A result within the answer. Raises `ResultTooLarge`."""
    if len(content) * 4 / 3 > MAX_BASE64_BYTES:
        raise _too_large(len(content))
    data = base64.b64encode(content).decode()
    return {
        "type": "base64",
        "filename": filename,
        "content_type": content_type,
        "bytes": len(content),
        "data": data,
    }


def stored(store: Store, key: str, filename: str, content_type: str, size: int, link: str) -> dict[str, Any]:
    """A result in the bucket: `data` is a link that works for a week, or `s3://` where the service signs none."""
    return {
        "type": "s3_url",
        "filename": filename,
        "content_type": content_type,
        "bytes": size,
        "data": link,
        "bucket": store.bucket.name,
        "key": key,
    }


def _too_large(size: int) -> ResultTooLarge:
    return ResultTooLarge(f"the result has {size} bytes; an answer takes {MAX_BASE64_BYTES * 3 // 4} as base64")


__all__ = ["deliver", "deliver_file", "in_base64", "plan_result", "stored"]
