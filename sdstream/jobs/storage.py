"""Buckets for results and sources, by RunPod's names: `BUCKET_*` variables of the endpoint, `s3Config` of a job.

boto3 is imported when a bucket is used, and runs on threads. What is stored is whole: an upload that breaks off leaves
no object behind.
"""

import asyncio
import importlib
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from sdstream.buckets import BucketAccess, bucket_errors, error_code, is_missing, make_bucket_client
from sdstream.errors import Unavailable
from sdstream.file_errors import NO_ROOM
from sdstream.job_errors import InvalidJob, SourceRefused, StorageFailed
from sdstream.jobs.inputs import BucketConfig
from sdstream.urls import split_url

LINK_SECONDS = 7 * 24 * 3600
"""How long a link to a result works: the longest that S3 signs."""
PART_BYTES = 64 * 1024 * 1024
"""Larger files go up in parts of this size; RunPod's volumes take 500 MB at once."""
DENIED = frozenset({"AccessDenied", "403", "AllAccessDisabled"})

_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*\.?|[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*")
"""What boto3 takes: a name, or an address of either kind."""
_VOLUME = re.compile(r"s3api-([a-z0-9-]+)\.runpod\.io")
_AMAZON = re.compile(r"(?:(?P<bucket>[^/]+)\.)?s3[.-](?P<region>[a-z0-9-]+)\.amazonaws\.com")
_SPACES = re.compile(r"(?:(?P<bucket>[^/]+)\.)?(?P<region>[a-z0-9]+)\.digitaloceanspaces\.com")

Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class Bucket:
    """Where objects go. `links` says whether the service signs links; RunPod's volumes do not."""

    endpoint: str
    name: str
    region: str
    access_id: str = field(repr=False)
    access_secret: str = field(repr=False)
    links: bool = True

    @property
    def access(self) -> BucketAccess:
        return BucketAccess(self.endpoint, self.region, self.access_id, self.access_secret)


def find_bucket(config: BucketConfig | None, environment: Mapping[str, str] | None = None) -> Bucket | None:
    """The bucket of a job: its own, else the endpoint's, else None.

    Raises `StorageFailed` for one without a name or with a wrong address, `InvalidJob` where the address is the job's.
    """
    environment = os.environ if environment is None else environment
    if config is None:
        url = environment.get("BUCKET_ENDPOINT_URL", "")
        access_id = environment.get("BUCKET_ACCESS_KEY_ID", "")
        secret = environment.get("BUCKET_SECRET_ACCESS_KEY", "")
        name = environment.get("BUCKET_NAME") or None
        if not url:
            return None
        if not (access_id and secret):
            raise StorageFailed("BUCKET_ENDPOINT_URL is set without BUCKET_ACCESS_KEY_ID and BUCKET_SECRET_ACCESS_KEY")
    else:
        url, access_id, secret, name = config.endpointUrl, config.accessId, config.accessSecret, config.bucketName
    try:
        return _understand(url, access_id, secret, name, environment.get("BUCKET_REGION"))
    except ValueError:  # not shown: people write keys into addresses
        words = "is not the address of an S3 endpoint, such as https://s3.eu-west-1.amazonaws.com"
        if config is None:
            raise StorageFailed(f"BUCKET_ENDPOINT_URL {words}") from None
        raise InvalidJob(f"s3Config.endpointUrl: {words}") from None


def _understand(url: str, access_id: str, secret: str, name: str | None, region: str | None) -> Bucket:
    """Raises `ValueError` for what is no address, as boto3 would when the client is made."""
    parts = split_url(url, ("http", "https"))
    host = (parts and parts.hostname) or ""
    if parts is None or not _HOST.fullmatch(host):
        raise ValueError(url)
    links = True
    if found := _VOLUME.fullmatch(host):
        region, links = region or found[1].upper(), False
    elif found := _AMAZON.fullmatch(host) or _SPACES.fullmatch(host):
        region = region or found["region"]
        if found["bucket"]:  # `https://bucket.s3.region.amazonaws.com`, as RunPod's pages write it
            name = name or found["bucket"]
            host = host.removeprefix(f"{found['bucket']}.")
    name = name or parts.path.strip("/").partition("/")[0] or None
    if name is None:
        raise StorageFailed("the bucket has no name", hint="Set BUCKET_NAME, or bucketName in s3Config.")
    port = f":{parts.port}" if parts.port else ""
    host = f"[{host}]" if ":" in host else host
    return Bucket(f"{parts.scheme}://{host}{port}", name, region or "us-east-1", access_id, secret, links)


class Store:
    """One bucket. Methods raise `StorageFailed` when it refuses or does not answer, and `Unavailable` when the disk
    does not take what it gives; no message holds a secret."""

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = bucket
        self._client: Any = None

    async def check(self, key: str) -> None:
        """Refuse now what would be refused after long work: expired keys, no such bucket."""
        await self._do(lambda client: _list(client, self.bucket.name, key), may_be_denied=True)

    async def put_bytes(self, key: str, content: bytes, content_type: str) -> str:
        """Store an object; returns a link, or `s3://` where the service signs none."""
        await self._do(
            lambda client: client.put_object(Bucket=self.bucket.name, Key=key, Body=content, ContentType=content_type)
        )
        return await self._link(key)

    async def put_file(self, key: str, file: Path, content_type: str) -> str:
        """As `put_bytes`, from a file of any size."""

        def upload(client: Any) -> None:
            config = _transfers().TransferConfig(
                multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES, max_concurrency=4
            )
            client.upload_file(str(file), self.bucket.name, key, ExtraArgs={"ContentType": content_type}, Config=config)

        await self._do(upload)
        return await self._link(key)

    async def get_file(self, key: str, file: Path, max_bytes: int) -> None:
        """Read an object into a file. Raises `SourceRefused` for one that is not there or has more than `max_bytes`."""
        head: Any = await self._do(lambda client: _head(client, self.bucket.name, key))
        if head is None:
            raise SourceRefused(f"the bucket has no {key}")
        size = int(head["ContentLength"])
        if size > max_bytes:
            raise SourceRefused(f"{key} has {size} bytes, more than {max_bytes}")
        await self._do(lambda client: client.download_file(self.bucket.name, key, str(file)))

    async def _link(self, key: str) -> str:
        if not self.bucket.links:
            return f"s3://{self.bucket.name}/{key}"
        return await self._do(
            lambda client: client.generate_presigned_url(
                "get_object", Params={"Bucket": self.bucket.name, "Key": key}, ExpiresIn=LINK_SECONDS
            )
        )

    async def _do(self, work: Callable[[Any], Value], *, may_be_denied: bool = False) -> Value | Any:
        return await asyncio.to_thread(self._work, work, may_be_denied)

    def _work(self, work: Callable[[Any], Value], may_be_denied: bool) -> Value | None:
        try:
            known = bucket_errors()
        except ImportError:
            raise StorageFailed(
                "boto3 is not installed", hint="pip install -c constraints.txt -e '.[runpod]'"
            ) from None
        try:
            if self._client is None:
                self._client = make_bucket_client(self.bucket.access)
            return work(self._client)
        except (*known, OSError) as error:
            if isinstance(error, OSError) and error.errno in NO_ROOM:
                raise Unavailable(f"the worker's disk does not take the object: {error.strerror}") from error
            if type(error).__name__ == "ParamValidationError":  # boto3's, which is imported by name only
                raise StorageFailed(
                    f"the bucket {self.bucket.name} was not asked: its name, or a key, is none that S3 takes"
                ) from error
            code = error_code(error)
            if may_be_denied and code in DENIED:
                return None
            code = code or error_code(error.__context__) or error_code(error.__cause__)
            reason = f"refused: {code}" if code else f"does not answer: {type(error).__name__}"
            raise StorageFailed(f"the bucket {self.bucket.name} {reason}") from error


def _transfers() -> Any:
    """boto3's module of uploads in parts; boto3 has no types and is installed with the `runpod` extra only."""
    return importlib.import_module("boto3.s3.transfer")


def _list(client: Any, name: str, key: str) -> None:
    client.list_objects_v2(Bucket=name, Prefix=key, MaxKeys=1)


def _head(client: Any, name: str, key: str) -> Any:
    try:
        return client.head_object(Bucket=name, Key=key)
    except bucket_errors() as error:
        if is_missing(error):
            return None
        raise


__all__ = ["LINK_SECONDS", "Bucket", "Store", "find_bucket"]
