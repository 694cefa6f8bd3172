"""boto3's client for S3, set up once as every bucket takes it, and what its errors say. boto3 is imported when used."""

import importlib
from dataclasses import dataclass, field
from typing import Any

GONE = frozenset({"404", "NoSuchKey", "NoSuchUpload", "NotFound"})


@dataclass(frozen=True, slots=True)
class BucketAccess:
    """Where a bucket's service is and how patiently it is asked.

    Without an `endpoint` it is Amazon's. Without keys they come from where boto3 looks: variables, files, the machine's
    role. `attempts` are all tries of a call, the first included; `read_timeout` is in seconds.
    """

    endpoint: str | None = None
    region: str | None = None
    access_id: str | None = field(default=None, repr=False)
    access_secret: str | None = field(default=None, repr=False)
    attempts: int = 5
    read_timeout: float = 120.0


def make_bucket_client(access: BucketAccess) -> Any:
    """A client of boto3's. Raises `ImportError` where boto3 is not installed, and what it raises for a wrong address:
    one of `bucket_errors`, or `ValueError`."""
    boto3: Any = importlib.import_module("boto3")
    config: Any = importlib.import_module("botocore.config")
    return boto3.session.Session().client(
        "s3",
        endpoint_url=access.endpoint,
        region_name=access.region,
        aws_access_key_id=access.access_id,
        aws_secret_access_key=access.access_secret,
        config=config.Config(
            signature_version="s3v4",
            # boto3 adds CRC32 headers of its own accord, which not every service takes; RunPod's volumes are untried.
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
            # Other services than Amazon's have no host for each bucket.
            s3={"addressing_style": "path" if access.endpoint else "auto"},
            retries={"total_max_attempts": access.attempts, "mode": "standard"},
            connect_timeout=10,
            read_timeout=access.read_timeout,
        ),
    )


def bucket_errors() -> tuple[type[Exception], ...]:
    """What a client raises, and what the library under it raises in the middle of an answer; `OSError` comes as well.

    Raises `ImportError` where boto3 is not installed.
    """
    core: Any = importlib.import_module("botocore.exceptions")
    boto: Any = importlib.import_module("boto3.exceptions")
    http: Any = importlib.import_module("urllib3.exceptions")
    return core.BotoCoreError, core.ClientError, boto.Boto3Error, http.HTTPError


def error_code(error: BaseException | None) -> str:
    """The service's code of a refusal, such as `ExpiredToken` or `NoSuchBucket`; empty when it has none."""
    response: Any = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))[:60]


def error_status(error: BaseException | None) -> int:
    """The HTTP status of a refusal, 0 when it has none."""
    response: Any = getattr(error, "response", None) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_missing(error: BaseException) -> bool:
    """Whether a service said that an object or an upload is not there."""
    return error_code(error) in GONE


__all__ = ["BucketAccess", "bucket_errors", "error_code", "error_status", "is_missing", "make_bucket_client"]
