"""The bucket of S3 in which recordings lie, as `PREFIX/STREAM/NAME.mp4`. Methods wait for it: call them on threads."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog

from sdstream.buckets import BucketAccess, bucket_errors, error_code, is_missing, make_bucket_client
from sdstream.errors import ConfigurationError, NotFound, RecordingsUnavailable
from sdstream.settings import Settings
from sdstream.urls import split_bucket

ATTEMPTS = 3
READ_SECONDS = 30.0
CHUNK = 256 * 1024
"""Bytes of a download that are held at a time."""

log = structlog.get_logger(__name__)

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object's stream and name, and its size."""

    stream_id: str
    name: str
    byte_count: int


@dataclass(frozen=True, slots=True)
class Download:
    """An object, or a part of it: `content_range` as HTTP writes it, None for all of it. `chunks` is read once."""

    byte_count: int
    content_range: str | None
    chunks: Iterator[bytes]


class RecordingBucket:
    """Raises `RecordingsUnavailable` when the bucket refuses or does not answer; no message holds a secret."""

    def __init__(self, bucket: str, prefix: str, access: BucketAccess) -> None:
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        self._access = access
        self._client: Any = None

    @classmethod
    def from_settings(cls, settings: Settings) -> "RecordingBucket | None":
        """None when recordings stay on the disk. Raises `ConfigurationError` where boto3 is not installed."""
        url = settings.recording_bucket
        if url is None:
            return None
        try:
            bucket_errors()
        except ImportError:
            raise ConfigurationError(
                "recording_bucket needs boto3", hint="pip install -c constraints.txt -e '.[s3]' in sdstream's directory"
            ) from None
        name, prefix = split_bucket(url)
        access = BucketAccess(
            settings.recording_bucket_endpoint,
            settings.recording_bucket_region,
            attempts=ATTEMPTS,
            read_timeout=READ_SECONDS,
        )
        return cls(name, prefix, access)

    def put(self, stream_id: str, file: Path) -> None:
        """Store a whole file; an upload that breaks off leaves no object."""
        key = self._key(stream_id, file.name)
        self._do(
            lambda client: client.upload_file(str(file), self._bucket, key, ExtraArgs={"ContentType": "video/mp4"})
        )

    def objects(self, stream_id: str | None = None) -> list[StoredObject]:
        """What lies there of one stream, or of all."""
        prefix = self._prefix if stream_id is None else self._key(stream_id, "")
        return self._do(lambda client: self._list(client, prefix))

    def get(self, stream_id: str, name: str, byte_range: str | None) -> Download:
        """Begin to read an object; `byte_range` is a Range header, which is passed over where it cannot be satisfied.

        Raises `NotFound`.
        """
        wanted = {"Bucket": self._bucket, "Key": self._key(stream_id, name)}
        try:
            ranged = {"Range": byte_range} if byte_range else {}
            answer: Any = self._do(lambda client: client.get_object(**wanted, **ranged))
        except RecordingsUnavailable as error:
            if error_code(error.__cause__) != "InvalidRange":
                raise
            answer = self._do(lambda client: client.get_object(**wanted))
        return Download(int(answer["ContentLength"]), answer.get("ContentRange"), self._chunks(answer["Body"]))

    def remove(self, stream_id: str, name: str) -> None:
        """Take an object away; one that is not there is no error."""
        self._do(lambda client: client.delete_object(Bucket=self._bucket, Key=self._key(stream_id, name)))

    def _key(self, stream_id: str, name: str) -> str:
        return f"{self._prefix}{stream_id}/{name}"

    def _list(self, client: Any, prefix: str) -> list[StoredObject]:
        found: list[StoredObject] = []
        for page in client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=prefix):
            for item in page.get("Contents", ()):
                stream_id, _, name = str(item["Key"]).removeprefix(self._prefix).partition("/")
                found.append(StoredObject(stream_id, name, int(item["Size"])))
        return found

    def _chunks(self, body: Any) -> Iterator[bytes]:
        with contextlib.closing(body):
            yield from body.iter_chunks(CHUNK)

    def _do(self, work: Callable[[Any], Value]) -> Value:
        try:
            if self._client is None:
                self._client = make_bucket_client(self._access)
            return work(self._client)
        except (*bucket_errors(), OSError, ValueError) as error:
            if is_missing(error):
                raise NotFound("There is no such recording.") from error
            reason = error_code(error) or error_code(error.__context__) or type(error).__name__
            log.warning("the bucket of recordings failed", bucket=self._bucket, reason=reason)
            raise RecordingsUnavailable(f"The bucket of recordings failed: {reason}") from error


__all__ = ["Download", "RecordingBucket", "StoredObject"]
